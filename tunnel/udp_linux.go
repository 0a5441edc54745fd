package tunnel

import (
	"encoding/binary"
	"errors"
	"net"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

// A quietConn is a UDP socket whose reads and writes do not tell Go's scheduler.
//
// A system call that does wakes the runtime's monitor thread, which then looks on
// for a while with short sleeps. A copier at a low rate makes a few calls every
// 3 ms, and those wake-ups were two thirds of all its context switches (1,545 to
// 570 a second at 1,000 requests/s). None of these calls waits: the socket does
// not block, and what is not there yet is waited for in the netpoller.
//
// It satisfies quic-go's OOBCapablePacketConn, and its batch reader: all that
// quic-go calls.
type quietConn struct {
	udpSocket
	raw   syscall.RawConn
	wrote func(n int) // told of what was written, or nil

	reading sync.Mutex
	in      receiver

	writing sync.Mutex
	out     sender
}

// udpSocket is what is needed of a [net.UDPConn].
type udpSocket interface {
	LocalAddr() net.Addr
	SetReadBuffer(n int) error
	SetWriteBuffer(n int) error
	SetReadDeadline(t time.Time) error
	SyscallConn() (syscall.RawConn, error)
	Close() error
}

func newQuietConn(c udpSocket) (*quietConn, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	q := &quietConn{udpSocket: c, raw: raw}
	// Bound once, so that no call allocates a closure.
	q.in.call = q.in.receive
	q.out.call = q.out.send
	return q, nil
}

// receiveMost is how many packets one call reads: as many as quic-go asks for.
const receiveMost = 8

// message is struct mmsghdr of recvmmsg(2).
type message struct {
	hdr unix.Msghdr
	n   uint32
}

type receiver struct {
	call  func(fd uintptr) bool
	msgs  [receiveMost]message
	iovs  [receiveMost]unix.Iovec
	names [receiveMost]unix.RawSockaddrInet6 // large enough for both families
	want  int
	got   int
	errno syscall.Errno
}

// ReadBatch reads as many packets as are there, at least one. It borrows ms and
// fills their first buffers.
func (q *quietConn) ReadBatch(ms []ipv4.Message, _ int) (int, error) {
	q.reading.Lock()
	defer q.reading.Unlock()
	r := &q.in
	r.want = min(len(ms), receiveMost)
	for i := range r.want {
		r.iovs[i].Base = &ms[i].Buffers[0][0]
		r.iovs[i].SetLen(len(ms[i].Buffers[0]))
		h := &r.msgs[i].hdr
		h.Name = (*byte)(unsafe.Pointer(&r.names[i]))
		h.Namelen = uint32(unsafe.Sizeof(r.names[i]))
		h.Iov = &r.iovs[i]
		h.SetIovlen(1)
		h.Control = &ms[i].OOB[0]
		h.SetControllen(len(ms[i].OOB))
	}
	if err := q.raw.Read(r.call); err != nil {
		return 0, err
	}
	if r.errno != 0 {
		return 0, q.failed("read", "recvmmsg", r.errno)
	}
	for i := range r.got {
		ms[i].N = int(r.msgs[i].n)
		ms[i].NN = int(r.msgs[i].hdr.Controllen)
		ms[i].Flags = int(r.msgs[i].hdr.Flags)
		ms[i].Addr = fromSockaddr(&r.names[i], ms[i].Addr)
	}
	return r.got, nil
}

// failed wraps an error as the net package does: quic-go asks whether it passes.
func (q *quietConn) failed(op, call string, errno syscall.Errno) error {
	return &net.OpError{Op: op, Net: "udp", Source: q.LocalAddr(), Err: os.NewSyscallError(call, errno)}
}

func (r *receiver) receive(fd uintptr) bool {
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&r.msgs[0])),
			uintptr(r.want), unix.MSG_DONTWAIT, 0, 0)
		if errno != unix.EINTR {
			r.got, r.errno = int(n), errno
			return errno != unix.EAGAIN
		}
	}
}

// fromSockaddr returns the address as quic-go wants it; last, when it is the same.
func fromSockaddr(sa *unix.RawSockaddrInet6, last net.Addr) net.Addr {
	addr, _ := last.(*net.UDPAddr)
	ip := sa.Addr[:]
	if sa.Family == unix.AF_INET {
		v4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(sa))
		ip = v4.Addr[:]
	}
	var wire [2]byte
	binary.NativeEndian.PutUint16(wire[:], sa.Port)
	port := int(binary.BigEndian.Uint16(wire[:]))
	if addr != nil && addr.Port == port && addr.IP.Equal(ip) {
		return last
	}
	return &net.UDPAddr{IP: append(net.IP(nil), ip...), Port: port}
}

type sender struct {
	call  func(fd uintptr) bool
	hdr   unix.Msghdr
	iov   unix.Iovec
	v4    unix.RawSockaddrInet4
	v6    unix.RawSockaddrInet6
	zone  string // of the last link-local address
	scope uint32 // of zone
	sent  int
	errno syscall.Errno
}

// WriteMsgUDP sends b, or several packets of it where oob says so, to addr.
func (q *quietConn) WriteMsgUDP(b, oob []byte, addr *net.UDPAddr) (n, oobn int, err error) {
	if len(b) == 0 {
		return 0, 0, q.failed("write", "sendmsg", syscall.EINVAL)
	}
	q.writing.Lock()
	defer q.writing.Unlock()
	s := &q.out
	if err := s.name(addr); err != nil {
		return 0, 0, err
	}
	s.iov.Base = &b[0]
	s.iov.SetLen(len(b))
	s.hdr.Iov = &s.iov
	s.hdr.SetIovlen(1)
	s.hdr.Control = nil
	s.hdr.SetControllen(len(oob))
	if len(oob) > 0 {
		s.hdr.Control = &oob[0]
	}
	err = q.raw.Write(s.call)
	s.iov.Base, s.hdr.Control = nil, nil
	if err != nil {
		return 0, 0, err
	}
	if s.errno != 0 {
		return 0, 0, q.failed("write", "sendmsg", s.errno)
	}
	if q.wrote != nil {
		q.wrote(s.sent)
	}
	return s.sent, len(oob), nil
}

// ReadMsgUDP is not implemented: quic-go reads batches.
func (q *quietConn) ReadMsgUDP(_, _ []byte) (n, oobn, flags int, addr *net.UDPAddr, err error) {
	return 0, 0, 0, nil, errors.ErrUnsupported
}

// ReadFrom is not implemented: quic-go reads batches.
func (q *quietConn) ReadFrom([]byte) (int, net.Addr, error) { return 0, nil, errors.ErrUnsupported }

// WriteTo is not implemented: quic-go writes by WriteMsgUDP.
func (q *quietConn) WriteTo([]byte, net.Addr) (int, error) { return 0, errors.ErrUnsupported }

// SetDeadline is not implemented: quic-go uses SetReadDeadline.
func (q *quietConn) SetDeadline(time.Time) error { return errors.ErrUnsupported }

// SetWriteDeadline is not implemented: quic-go uses SetReadDeadline.
func (q *quietConn) SetWriteDeadline(time.Time) error { return errors.ErrUnsupported }

func (s *sender) send(fd uintptr) bool {
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_SENDMSG, fd, uintptr(unsafe.Pointer(&s.hdr)), unix.MSG_DONTWAIT, 0, 0, 0)
		if errno != unix.EINTR {
			s.sent, s.errno = int(n), errno
			return errno != unix.EAGAIN
		}
	}
}

// name fills in where to.
func (s *sender) name(addr *net.UDPAddr) error {
	var port [2]byte
	binary.BigEndian.PutUint16(port[:], uint16(addr.Port))
	if v4 := addr.IP.To4(); v4 != nil {
		s.v4 = unix.RawSockaddrInet4{Family: unix.AF_INET, Port: binary.NativeEndian.Uint16(port[:]), Addr: [4]byte(v4)}
		s.hdr.Name, s.hdr.Namelen = (*byte)(unsafe.Pointer(&s.v4)), uint32(unsafe.Sizeof(s.v4))
		return nil
	}
	if addr.Zone != s.zone {
		if err := s.enter(addr.Zone); err != nil {
			return err
		}
	}
	s.v6 = unix.RawSockaddrInet6{Family: unix.AF_INET6, Port: binary.NativeEndian.Uint16(port[:]), Addr: [16]byte(addr.IP.To16()), Scope_id: s.scope}
	s.hdr.Name, s.hdr.Namelen = (*byte)(unsafe.Pointer(&s.v6)), uint32(unsafe.Sizeof(s.v6))
	return nil
}

// enter finds the interface that a zone names, as fe80::1%eth0 does (RFC 4007).
func (s *sender) enter(zone string) error {
	if zone == "" {
		s.zone, s.scope = "", 0
		return nil
	}
	index, err := strconv.Atoi(zone)
	if err != nil {
		ifi, err := net.InterfaceByName(zone)
		if err != nil {
			return err
		}
		index = ifi.Index
	}
	s.zone, s.scope = zone, uint32(index)
	return nil
}
