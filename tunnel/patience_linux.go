package tunnel

import (
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"flowtwin/internal/epoll"
)

const (
	// passing is how long a packet may wait to be read in passing, and patientBytes
	// how many bytes may be written, before the arrival of one is waited for again.
	passing      = 20 * time.Millisecond
	patientBytes = 8 << 10

	// nearby is the longest round trip over which packets may wait. Of a longer one
	// QUIC would take the waiting for a full queue on the way and stop to grow its
	// window fast: of 50 ms, after 3 s at 1,000 frames/s, the first second of a burst
	// brought 0.9 instead of 35 MB.
	nearby = 10 * time.Millisecond

	fullWait = 100 // ms that a writer waits for room before it looks whether the socket is closed
)

// A patientSocket is a UDP socket whose reader is not woken by each packet while
// there is somebody who writes: what has come is read in passing, right after a
// write.
//
// What comes back to a copier are acknowledgements for the most part, and each cost
// a wake-up: 190 of 560 context switches a second at 1,000 requests/s. Nothing
// waits for them as long as little is under way; when more is, when a lane's writer
// waits for room in QUIC's window, or when nothing has been written for a while,
// packets wake the reader as usual.
type patientSocket struct {
	fd     int
	local  net.Addr
	waiter *epoll.Waiter
	users  sync.RWMutex // held by those who use fd, and for good once it is closed
	stop   atomic.Bool  // a deadline has passed

	call  func(uintptr) bool // s.try, made once because it would be allocated each time
	read  func(uintptr) bool // the reader's, in the present Read
	looks int                // the reader's, in the present wait

	mu      sync.Mutex
	closed  bool // mu
	patient bool // mu
	urgent  int  // mu; how many wait for an answer
	written int  // mu; bytes since something was read
}

// takeOver makes a patient socket of c, and closes c, also on error: the runtime
// polls what is open as one of its own. It is not patient yet.
func takeOver(c *net.UDPConn) (s *patientSocket, err error) {
	defer func() { err = errors.Join(err, c.Close()) }()
	s = &patientSocket{fd: -1, local: c.LocalAddr()}
	s.call = s.try
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	var dup error
	if err := raw.Control(func(fd uintptr) { s.fd, dup = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0) }); err != nil {
		return nil, err
	}
	if dup != nil {
		return nil, os.NewSyscallError("fcntl", dup)
	}
	if s.waiter, err = epoll.New(s.fd); err != nil {
		return nil, errors.Join(err, unix.Close(s.fd))
	}
	if err := s.waiter.Watch(true); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// setPatient says whether packets may wait to be read.
func (s *patientSocket) setPatient(on bool) {
	s.mu.Lock()
	same := s.patient == on
	s.patient = on
	look := !same && s.attendLocked() == watchAnew
	s.mu.Unlock()
	if look {
		s.waiter.Wake()
	}
}

// expect says that one more waits for a packet, or, with -1, one less: until then no
// packet waits to be read.
func (s *patientSocket) expect(n int) {
	s.mu.Lock()
	s.urgent += n
	look := s.attendLocked() == watchAnew
	s.mu.Unlock()
	if look {
		s.waiter.Wake()
	}
}

// wrote takes note of n bytes that were written.
func (s *patientSocket) wrote(n int) {
	s.mu.Lock()
	s.written += n
	look := s.attendLocked() != watchOn
	s.mu.Unlock()
	if look {
		s.waiter.Wake()
	}
}

// A watch says how the reader learns of packets.
type watch int

const (
	watchOn   watch = iota // they wake it
	watchAnew              // from now on; what has come before it must look for
	watchOff               // it looks after a write, or at the alarm
)

// attendLocked decides whether packets wake the reader.
func (s *patientSocket) attendLocked() watch {
	if s.closed {
		return watchOn
	}
	calm, before := s.patient && s.urgent == 0 && s.written < patientBytes, s.waiter.Watching()
	err := s.waiter.Watch(!calm)
	if calm && err == nil {
		err = s.waiter.Alarm(passing)
	}
	// The kernel refuses neither for a descriptor that is open.
	switch {
	case calm && err == nil:
		return watchOff
	case before:
		return watchOn
	}
	return watchAnew
}

// Read implements syscall.RawConn, for one reader.
func (s *patientSocket) Read(read func(fd uintptr) bool) error {
	s.users.RLock()
	defer s.users.RUnlock()
	s.read = read
	for {
		// Before anything is looked at: a Wake that comes later moves it to the past.
		if err := s.waiter.SetDeadline(time.Time{}); err != nil {
			return net.ErrClosed
		}
		if s.stop.Load() {
			return os.ErrDeadlineExceeded
		}
		s.looks = 0
		err := s.waiter.Wait(s.call)
		switch {
		case err == nil:
			s.mu.Lock()
			s.written = 0
			s.mu.Unlock()
			return nil
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return net.ErrClosed
		}
	}
}

// try reads, and reports whether that has ended the wait.
func (s *patientSocket) try(uintptr) bool {
	s.looks++
	s.mu.Lock()
	if !s.closed && (s.looks > 1 || s.waiter.Rung()) { // nothing is written any more
		_ = s.waiter.Watch(true) // not refused
	}
	s.mu.Unlock()
	return s.read(uintptr(s.fd))
}

// Write implements syscall.RawConn.
func (s *patientSocket) Write(write func(fd uintptr) bool) error {
	for {
		done := false
		if err := s.Control(func(fd uintptr) { done = write(fd) }); err != nil || done {
			return err
		}
		// The kernel's queue is full, which quic-go's own bounds make rare.
		err := s.Control(func(fd uintptr) {
			_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, fullWait)
		})
		if err != nil {
			return err
		}
	}
}

// Control implements syscall.RawConn.
func (s *patientSocket) Control(f func(fd uintptr)) error {
	s.users.RLock()
	defer s.users.RUnlock()
	if s.fd < 0 {
		return net.ErrClosed
	}
	f(uintptr(s.fd))
	return nil
}

// SyscallConn returns s.
func (s *patientSocket) SyscallConn() (syscall.RawConn, error) { return s, nil }

// LocalAddr implements net.PacketConn.
func (s *patientSocket) LocalAddr() net.Addr { return s.local }

// SetReadBuffer sets the size of the kernel's queue of what was received.
func (s *patientSocket) SetReadBuffer(n int) error { return s.setBuffer(unix.SO_RCVBUF, n) }

// SetWriteBuffer sets the size of the kernel's queue of what is to be sent.
func (s *patientSocket) SetWriteBuffer(n int) error { return s.setBuffer(unix.SO_SNDBUF, n) }

func (s *patientSocket) setBuffer(opt, n int) (err error) {
	if e := s.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, opt, n) }); e != nil {
		return e
	}
	return os.NewSyscallError("setsockopt", err)
}

// SetReadDeadline ends reading, now, or allows it again. quic-go asks for nothing
// else, to stop its reader.
func (s *patientSocket) SetReadDeadline(t time.Time) error {
	passed := !t.IsZero()
	if passed && time.Until(t) > 0 {
		return errors.ErrUnsupported
	}
	if s.stop.Store(passed); passed {
		s.waiter.Wake()
	}
	return nil
}

// Close ends a Read and frees the socket.
func (s *patientSocket) Close() error {
	s.mu.Lock()
	was := s.closed
	s.closed = true
	s.mu.Unlock()
	if was {
		return net.ErrClosed
	}
	err := s.waiter.Close()
	s.users.Lock()
	defer s.users.Unlock()
	err = errors.Join(err, os.NewSyscallError("close", unix.Close(s.fd)))
	s.fd = -1
	return err
}
