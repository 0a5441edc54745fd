package copier

import (
	"slices"
	"testing"
	"time"

	"flowtwin/internal/flow"
	"flowtwin/internal/packet"
)

// What the capture missed carried the client's acknowledgement, too: what follows it
// belongs to the same turn, and no session begins there.
func TestNoSessionBehindAHoleInATurn(t *testing.T) {
	b, c := newBench(t), newConn()
	b.lane.up = false
	b.feed(c.handshake()...)
	b.does(c, "one", 5)
	b.feed(c.data("two"), c.answer(7))
	c.data("lost, with the acknowledgement")
	b.lane.up = true
	b.feed(c.out(packet.ACK, c.answered, 0))
	b.feed(c.data("rest of it"))
	if n := len(b.lane.sessions); n != 0 {
		t.Fatalf("%d sessions in the middle of a turn, the last got %q", n, b.lane.sessions[n-1].data)
	}
	b.feed(c.answer(9), c.ack())
	b.does(c, "three", 5)
	if s := b.session(); string(s.data) != "onethree" {
		t.Errorf("session got %q", s.data)
	}
}

// An answer that was not captured is not taken for one to what the client sent behind it.
func TestNoAdoptionBehindAMissedAnswer(t *testing.T) {
	b, c := newBench(t), newConn()
	c.sent, c.answered = 100, 100
	b.feed(c.answer(10), c.ack())
	c.answer(20) // missed
	b.lane.up = false
	b.feed(c.data("begins "))
	b.lane.up = true
	b.feed(c.out(packet.ACK, c.answered, 0), c.data("goes on"))
	if n := len(b.lane.sessions); n != 0 {
		t.Fatalf("adopted in the middle of a turn with %q", b.lane.sessions[0].data)
	}
	b.feed(c.answer(10), c.ack(), c.data("next"))
	b.wantData(b.session(), "next")
}

// A flow that goes on in another slot takes what is stored of a claim with it: else
// nobody could make room in the store.
func TestClaimMovesWithItsFlow(t *testing.T) {
	b, c := newBench(t), newConn()
	b.store = flow.NewStore(8 << 10)
	b.feed(c.handshake()...)
	b.does(c, request(1), 10)
	claim := newConn()
	claim.iss += 1 << 28
	b.feed(claim.in(packet.SYN, 0, ""), claim.in(packet.ACK, 0, string(make([]byte, 1000))))
	c.data("lost")
	b.lane.answers = false
	b.feed(c.answer(5)) // the flow waits, with another number
	done := make(chan struct{})
	go func() {
		defer close(done)
		for n := range 20 {
			other := caller(n)
			b.feed(other.handshake()...)
			other.data("missed")
			b.feed(other.data(string(make([]byte, 1000))))
		}
	}()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		panic("the store finds no room, for ever")
	}
}

// More behind a FIN than was missing before it is not counted as less than nothing.
func TestMissingIsNeverNegative(t *testing.T) {
	for _, waits := range []bool{false, true} {
		b, c := newBench(t), newConn()
		b.feed(c.handshake()...)
		b.does(c, request(1), 10)
		if waits {
			b.takeDown()
		}
		at := c.sent
		b.feed(c.in(packet.ACK, at+100, string(make([]byte, 500))))
		b.feed(c.in(packet.FIN|packet.ACK, at+50, ""))
		c.sent = at + 51
		b.feed(c.out(packet.ACK, c.answered, 0))
		b.wait(5 * time.Minute)
		if n := b.book.Client.Missing; n > 1000 {
			t.Errorf("waits %v: %d bytes missing", waits, n)
		}
	}
}

// A segment has seen what it says itself, not what an ACK says that was sent after it
// and captured before.
func TestSeenIsTheSegmentsOwn(t *testing.T) {
	b, c := newBench(t), newConn()
	b.feed(c.handshake()...)
	push := c.out(packet.ACK, 0, 10)
	late := c.data("asks")
	c.answered = 10
	b.feed(push, c.ack(), late, c.data("again"))
	if got := b.session().seens; !slices.Equal(got, []uint64{0, 10}) {
		t.Errorf("seen %v", got)
	}
}
