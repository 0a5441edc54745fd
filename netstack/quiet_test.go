package netstack

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// packetPipe returns the two ends of a pipe that keeps packets apart, as the TUN
// does, and does not block.
func packetPipe(t *testing.T) (a, b *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	a, b = os.NewFile(uintptr(fds[0]), "a"), os.NewFile(uintptr(fds[1]), "b")
	t.Cleanup(func() { _, _ = a.Close(), b.Close() })
	return a, b
}

func quietFiles(t *testing.T) (in, out *quietFile, file *os.File) {
	t.Helper()
	a, b := packetPipe(t)
	in, err := newQuietFile(a)
	if err != nil {
		t.Fatal(err)
	}
	if out, err = newQuietFile(b); err != nil {
		t.Fatal(err)
	}
	return in, out, a
}

func TestQuietFileCarriesPackets(t *testing.T) {
	in, out, _ := quietFiles(t)
	done := make(chan error, 1)
	go func() {
		for i := range 1000 {
			if _, err := out.Write(make([]byte, 1+i)); err != nil { // waits when the pipe is full
				done <- err
				return
			}
		}
		done <- nil
	}()
	buf := make([]byte, 4096)
	for i := range 1000 {
		if n, err := in.Read(buf); err != nil || n != 1+i {
			t.Fatalf("packet %d: %d bytes, %v", i, n, err)
		}
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// The reader ends without a word only when its file was closed.
func TestQuietFileErrors(t *testing.T) {
	in, out, file := quietFiles(t)
	done := make(chan error, 1)
	go func() {
		_, err := in.Read(make([]byte, 16))
		done <- err
	}()
	_ = file.Close()
	if err := <-done; !errors.Is(err, os.ErrClosed) {
		t.Errorf("read of a closed file: %v, want os.ErrClosed", err)
	}
	if _, err := out.Write([]byte("x")); !errors.Is(err, unix.EPIPE) {
		t.Errorf("write to nobody: %v, want EPIPE", err)
	}
}

func TestQuietFileDoesNotAllocate(t *testing.T) {
	in, out, _ := quietFiles(t)
	buf := make([]byte, 1500)
	if n := testing.AllocsPerRun(200, func() {
		if _, err := out.Write(buf[:100]); err != nil {
			t.Error(err)
		}
		if _, err := in.Read(buf); err != nil {
			t.Error(err)
		}
	}); n != 0 {
		t.Errorf("a packet allocates %v times, want 0", n)
	}
}
