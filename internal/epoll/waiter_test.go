package epoll

import (
	"errors"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pair returns a waiter for one end of a socket pair, which it does not close, and
// the other end.
func pair(t *testing.T) (w *Waiter, mine, other int) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = unix.Close(fds[0]), unix.Close(fds[1]) })
	if w, err = New(fds[0]); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Close() })
	return w, fds[0], fds[1]
}

func say(t *testing.T, fd int) {
	t.Helper()
	if _, err := unix.Write(fd, []byte("x")); err != nil {
		t.Fatal(err)
	}
}

// visible reports whether the runtime's poller is told of something.
func visible(t *testing.T, w *Waiter) bool {
	t.Helper()
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(w.instance), Events: unix.POLLIN}}, 0)
	if err != nil {
		t.Fatal(err)
	}
	return n > 0
}

func watch(t *testing.T, w *Waiter, on bool) {
	t.Helper()
	if err := w.Watch(on); err != nil {
		t.Fatal(err)
	}
}

func TestOnlyWhatIsWatchedIsSeen(t *testing.T) {
	w, mine, other := pair(t)
	say(t, other)
	if visible(t, w) {
		t.Error("a new waiter watches")
	}
	watch(t, w, true)
	if !visible(t, w) {
		t.Error("what had come before Watch is not seen")
	}
	watch(t, w, false)
	if visible(t, w) {
		t.Error("seen without Watch")
	}
	say(t, other)
	if visible(t, w) {
		t.Error("what comes is seen without Watch")
	}
	watch(t, w, true)
	var b [8]byte
	for range 2 {
		if _, err := unix.Read(mine, b[:]); err != nil {
			t.Fatal(err)
		}
	}
	if visible(t, w) {
		t.Error("seen, and nothing is there")
	}
}

// never is for waits that end by something else.
func never(uintptr) bool { return false }

func TestWaitEnds(t *testing.T) {
	t.Run("with an event", func(t *testing.T) {
		w, mine, other := pair(t)
		watch(t, w, true)
		var b [8]byte
		done := make(chan error, 1)
		go func() {
			done <- w.Wait(func(uintptr) bool {
				n, _ := unix.Read(mine, b[:])
				return n == 1
			})
		}()
		say(t, other)
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Run("with each alarm", func(t *testing.T) {
		w, _, _ := pair(t)
		if w.Rung() {
			t.Error("an alarm that was not set")
		}
		for _, d := range []time.Duration{time.Millisecond, time.Millisecond, 0, -time.Second} {
			if err := w.Alarm(d); err != nil {
				t.Fatal(err)
			}
			if err := w.Wait(func(uintptr) bool { return w.Rung() }); err != nil {
				t.Error(err)
			}
		}
	})
	t.Run("with Wake, before it or in it, until SetDeadline", func(t *testing.T) {
		w, _, _ := pair(t)
		w.Wake()
		if err := w.Wait(never); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%v, want that the deadline is exceeded", err)
		}
		if err := w.SetDeadline(time.Time{}); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- w.Wait(never) }()
		w.Wake()
		if err := <-done; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%v, want that the deadline is exceeded", err)
		}
	})
	t.Run("with Close", func(t *testing.T) {
		w, _, _ := pair(t)
		looking := make(chan struct{})
		done := make(chan error, 1)
		go func() {
			done <- w.Wait(func(uintptr) bool { close(looking); return false })
		}()
		<-looking
		if err := w.Close(); err != nil {
			t.Error(err)
		}
		if err := <-done; err == nil {
			t.Error("no error")
		}
	})
}

func TestNothingIsAllocated(t *testing.T) {
	w, _, _ := pair(t)
	done := func(uintptr) bool { return true }
	if n := testing.AllocsPerRun(100, func() {
		err := errors.Join(w.Watch(true), w.Watch(false), w.Alarm(time.Second), w.SetDeadline(time.Time{}), w.Wait(done))
		if err != nil {
			t.Error(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestNewRefusesAFile(t *testing.T) {
	f, err := os.Open("waiter.go") // epoll(7): regular files cannot be watched
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	before := open(t)
	if _, err := New(int(f.Fd())); !errors.Is(err, unix.EPERM) {
		t.Errorf("%v, want EPERM", err)
	}
	if n := open(t); n != before {
		t.Errorf("%d descriptors are open, %d before", n, before)
	}
}

func open(t *testing.T) int {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(fds)
}
