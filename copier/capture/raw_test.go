package capture

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"flowtwin/internal/packet"
	"flowtwin/internal/packet/packettest"
	"flowtwin/internal/testnet"
)

// A link sends Ethernet frames made by hand.
type link struct {
	t  testing.TB
	fd int
}

func rawLink(t testing.TB, ns *testnet.NS, dev string) *link {
	t.Helper()
	var fd int
	var err error
	ns.Do(func() {
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return
		}
		var req *unix.Ifreq
		if req, err = unix.NewIfreq(dev); err != nil {
			return
		}
		if err = unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, req); err != nil {
			return
		}
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: int(req.Uint32())})
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return &link{t, fd}
}

func (l *link) send(frame []byte) {
	l.t.Helper()
	if _, err := unix.Write(l.fd, frame); err != nil {
		l.t.Fatal(err)
	}
}

// frame is a broadcast Ethernet frame with a TCP packet behind VLAN tags, each
// the protocol and the number.
func frame(t testing.TB, src, dst string, payload []byte, tags ...[2]uint16) []byte {
	t.Helper()
	pkt := packettest.Packet{
		Src: netip.MustParseAddrPort(src), Dst: netip.MustParseAddrPort(dst),
		Flags: packet.ACK, Payload: payload,
	}.Bytes()
	return ethernet(pkt, tags...)
}

func ethernet(pkt []byte, tags ...[2]uint16) []byte {
	f := []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1}
	for _, tag := range tags {
		f = binary.BigEndian.AppendUint16(f, tag[0])
		f = binary.BigEndian.AppendUint16(f, tag[1])
	}
	proto := uint16(etherIPv4)
	if pkt[0]>>4 == 6 {
		proto = etherIPv6
	}
	return append(binary.BigEndian.AppendUint16(f, proto), pkt...)
}
