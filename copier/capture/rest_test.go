package capture

import (
	"os"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"flowtwin/internal/epoll"
)

// pipedSocket is a socket whose blocks are filled by the test, which tells of them by
// a pipe in the place of the kernel's packet socket.
func pipedSocket(t *testing.T) (s *socket, ring *Ring, tell func()) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close(); _ = w.Close() })
	ring = filledRing(1, pkt4("10.0.0.1:5000", "10.0.0.2:80"))
	s = ring.sock
	s.fd = int(r.Fd())
	s.poll = s.look
	if s.waiter, err = epoll.New(s.fd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.waiter.Close() })
	return s, ring, func() { _, _ = w.Write([]byte("x")) }
}

// A block that comes while the reader rests does not end the rest; it is found at
// its end.
func TestRestIsNotEndedByABlock(t *testing.T) {
	s, _, tell := pipedSocket(t)
	tell()
	if ok, err := s.wait(); !ok || err != nil {
		t.Fatalf("wait = %v, %v; want a block that is there", ok, err)
	}
	begun := time.Now()
	if ok, err := s.rest(restMost); !ok || err != nil {
		t.Fatalf("rest = %v, %v; want a block", ok, err)
	}
	if d := time.Since(begun); d < restMost {
		t.Errorf("rested %v, want %v", d, restMost)
	}
	if s.waiter.Watching() {
		t.Error("blocks were watched for in a rest")
	}
}

func TestRestBringsNothing(t *testing.T) {
	s, _, _ := pipedSocket(t)
	for at := 0; at < len(s.blocks.mem); at += s.blocks.size {
		atomic.StoreUint32(s.blocks.status(), unix.TP_STATUS_KERNEL)
		s.blocks.at = (s.blocks.at + s.blocks.size) % len(s.blocks.mem)
	}
	if ok, err := s.rest(time.Millisecond); ok || err != nil {
		t.Errorf("rest = %v, %v; want nothing", ok, err)
	}
}

// A rest may be over before it is waited for.
func TestShortestRestEnds(t *testing.T) {
	s, _, _ := pipedSocket(t)
	for range 100 {
		if ok, err := s.rest(1); !ok || err != nil {
			t.Fatalf("rest = %v, %v; want a block", ok, err)
		}
	}
}

func TestWakeEndsARest(t *testing.T) {
	_, r, _ := pipedSocket(t)
	r.retire = time.Millisecond
	for range 2 {
		if ok, err := r.Next(0); !ok || err != nil {
			t.Fatalf("Next = %v, %v; want a block", ok, err)
		}
	}
	r.pace = pace{woke: time.Now().Add(-time.Millisecond), packets: 2}
	r.Wake()
	if ok, err := r.Next(time.Minute); ok || err != nil {
		t.Errorf("Next = %v, %v; want that it was woken", ok, err)
	}
}
