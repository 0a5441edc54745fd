package netstack

import (
	"io"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A quietFile is one queue of the TUN device, whose reads and writes do not tell
// Go's scheduler: an ordinary system call wakes the runtime's monitor thread, and
// here there are two or three for each request. None of them waits: the file does
// not block, and what is not there yet is waited for in the netpoller.
//
// One goroutine may read and one write at a time.
type quietFile struct {
	raw     syscall.RawConn
	in, out transfer
	read    func(fd uintptr) bool // bound once, so that no call allocates
	write   func(fd uintptr) bool
}

// transfer is the call that is under way.
type transfer struct {
	b     []byte
	n     int
	errno syscall.Errno
}

var _ io.ReadWriter = (*quietFile)(nil)

func newQuietFile(f *os.File) (*quietFile, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	q := &quietFile{raw: raw}
	q.read = func(fd uintptr) bool { return q.in.call(unix.SYS_READ, fd) }
	q.write = func(fd uintptr) bool { return q.out.call(unix.SYS_WRITE, fd) }
	return q, nil
}

// Read implements io.Reader: one packet.
func (q *quietFile) Read(b []byte) (int, error) {
	q.in.b = b
	err := q.raw.Read(q.read)
	return q.in.done("read", err)
}

// Write implements io.Writer: one packet.
func (q *quietFile) Write(b []byte) (int, error) {
	q.out.b = b
	err := q.raw.Write(q.write)
	return q.out.done("write", err)
}

func (t *transfer) call(trap, fd uintptr) bool {
	for {
		n, _, errno := unix.RawSyscall(trap, fd, uintptr(unsafe.Pointer(unsafe.SliceData(t.b))), uintptr(len(t.b)))
		if errno != unix.EINTR {
			t.n, t.errno = int(n), errno
			return errno != unix.EAGAIN
		}
	}
}

func (t *transfer) done(name string, err error) (int, error) {
	t.b = nil
	if err != nil {
		return 0, os.ErrClosed // all that can be wrong with the file itself; os does not say it by this name
	}
	if t.errno != 0 {
		return 0, os.NewSyscallError(name, t.errno)
	}
	return t.n, nil
}
