package tunnel

import (
	"testing"
	"testing/synctest"

	"flowtwin/tunnel/frame"
)

func testInbox() *inbox {
	i := &inbox{}
	i.init()
	i.attach(1)
	return i
}

// The bound: whoever delivers beyond it waits until the shard has taken.
func TestInboxHoldsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := testInbox()
		i.deliver(1, make([]byte, returnsMost), false)
		delivered := false
		go func() {
			i.deliver(1, make([]byte, 1), false)
			delivered = true
		}()
		synctest.Wait()
		if delivered {
			t.Fatal("more than the bound was delivered")
		}
		if b, epoch := i.take(); len(b) != returnsMost || epoch != 1 {
			t.Errorf("took %d bytes of epoch %d", len(b), epoch)
		}
		synctest.Wait()
		if b, _ := i.take(); !delivered || len(b) != 1 {
			t.Errorf("took %d bytes after there was room, want 1", len(b))
		}
		if b, _ := i.take(); b != nil {
			t.Errorf("took %d bytes of nothing", len(b))
		}
	})
}

// Frames of two connections must never be handed over as those of one: flow
// numbers mean something else in each.
func TestInboxKeepsEpochsApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := testInbox()
		i.deliver(1, []byte("first"), false)
		i.detach()
		i.attach(2)
		go i.deliver(2, []byte("second"), false)
		synctest.Wait()
		if b, epoch := i.take(); string(b) != "first" || epoch != 1 {
			t.Errorf("took %q of epoch %d, want the first connection's", b, epoch)
		}
		synctest.Wait()
		if b, epoch := i.take(); string(b) != "second" || epoch != 2 {
			t.Errorf("took %q of epoch %d, want the second connection's", b, epoch)
		}
	})
}

// A break wakes whoever waits, and what it has is kept.
func TestInboxDetachReleases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := testInbox()
		i.deliver(1, make([]byte, returnsMost), false)
		go i.deliver(1, make([]byte, 7), false)
		synctest.Wait()
		i.detach()
		synctest.Wait()
		if b, _ := i.take(); len(b) != returnsMost+7 {
			t.Errorf("took %d bytes, want %d", len(b), returnsMost+7)
		}
	})
}

func TestInboxWakes(t *testing.T) {
	i := testInbox()
	tests := []struct {
		name  string
		bytes int
		bye   bool
		want  bool
	}{
		{"a little", returnsWake - 1, false, false},
		{"enough", 1, false, true},
		{"more, the shard knows already", 1000, false, false},
		{"the end", 8, true, true},
	}
	for _, tt := range tests {
		if got := i.deliver(1, make([]byte, tt.bytes), tt.bye); got != tt.want {
			t.Errorf("%s: wake = %v, want %v", tt.name, got, tt.want)
		}
	}
}

// Accounts are never dropped, headers are at the bound, and after ReturnBye or
// the end of the connection nothing is taken.
func TestReturnRefuses(t *testing.T) {
	l := newPeerLane(&Peer{failed: make(chan struct{})})
	header := frame.AppendTargetHeader(nil, 1, &frame.TargetHeader{Headers: make([]byte, 1000)})
	account := frame.AppendClosed(nil, 1, &frame.Closed{})
	for l.Return(header, false, false) {
		if len(l.pending) > returnQueue {
			t.Fatalf("%d bytes are queued, at most %d may be", len(l.pending), returnQueue)
		}
	}
	for range 100 { // far more than a header's size
		if !l.Return(account, true, false) {
			t.Fatal("an account was refused by a full queue")
		}
	}
	if !l.Return(frame.AppendEmpty(nil, frame.TypeReturnBye, 0), true, true) {
		t.Error("ReturnBye was refused by a full queue")
	}
	if l.Return(account, true, false) {
		t.Error("an account was taken after ReturnBye")
	}
	over := newPeerLane(&Peer{failed: make(chan struct{})})
	over.end()
	if over.Return(account, true, false) {
		t.Error("an account was taken after the connection")
	}
}

// The responder taps each packet of the target: that must cost a copy and no
// more.
func TestReturnDoesNotAllocate(t *testing.T) {
	l := newPeerLane(&Peer{failed: make(chan struct{})})
	header := frame.AppendTargetHeader(nil, 1, &frame.TargetHeader{Headers: make([]byte, 52)})
	l.pending = make([]byte, 0, 64<<10)
	if n := testing.AllocsPerRun(500, func() { l.Return(header, false, false) }); n != 0 {
		t.Errorf("a return allocates %v times, want 0", n)
	}
	l.end()
}
