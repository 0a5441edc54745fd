package capture

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"flowtwin/internal/packet"
)

// A sink is sockets that mirrored packets are directed to, and never read. Without
// them the kernel would answer each with an ICMP error, and the mirror's sender may
// take that for a failure. Their filter takes nothing, so that nothing piles up.
type sink []int

// openSink opens a sink for the encapsulations of e. What another program, or a
// tunnel device, listens at already is not answered by errors either.
func openSink(e packet.Encap) (sink, error) {
	var s sink
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		for _, open := range []struct {
			e           packet.Encap
			kind, proto int
			port        int
		}{
			{packet.VXLAN, unix.SOCK_DGRAM, 0, packet.PortVXLAN},
			{packet.GENEVE, unix.SOCK_DGRAM, 0, packet.PortGENEVE},
			{packet.GRE, unix.SOCK_RAW, packet.ProtoGRE, 0},
		} {
			if e&open.e == 0 {
				continue
			}
			err := s.add(family, open.kind, open.proto, open.port)
			if err != nil && !errors.Is(err, unix.EADDRINUSE) && !errors.Is(err, unix.EAFNOSUPPORT) {
				return nil, errors.Join(fmt.Errorf("capture: receive mirrored packets: %w", err), s.close())
			}
		}
	}
	return s, nil
}

func (s *sink) add(family, kind, proto, port int) error {
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, proto)
	if err != nil {
		return err
	}
	var addr unix.Sockaddr = &unix.SockaddrInet4{Port: port}
	if family == unix.AF_INET6 {
		addr = &unix.SockaddrInet6{Port: port}
	}
	if family == unix.AF_INET6 && port != 0 { // raw sockets are of one version only
		err = unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_V6ONLY, 1)
	}
	if err == nil {
		err = (&socket{fd: fd}).setFilter(deaf())
	}
	if err == nil {
		err = unix.Bind(fd, addr)
	}
	if err != nil {
		return errors.Join(err, unix.Close(fd))
	}
	*s = append(*s, fd)
	return nil
}

func (s *sink) close() error {
	var err error
	for _, fd := range *s {
		err = errors.Join(err, unix.Close(fd))
	}
	*s = nil
	return err
}
