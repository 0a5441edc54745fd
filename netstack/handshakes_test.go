package netstack

import (
	"net"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"flowtwin/internal/packet"
)

// hold serves connections that are never answered, until the client's FIN.
func hold(c *net.TCPConn) {
	_, _ = c.Read(make([]byte, 1))
	_ = c.Close()
}

// stay has the handshakes under way count for as long as a busy machine may take for
// the next Dial.
func (h *handshakes) stay() {
	for i := range h.sent.items {
		h.sent.items[i].at = 1 << 62
	}
}

// However many conns begin at once, no more handshakes are under way than the
// target's answers can be read of, and all come to be, in the order of their Dials.
func TestHandshakesOneAfterTheOther(t *testing.T) {
	const conns = 10 * handshakesMost
	h := open(t, Config{})
	target := h.serve(t, "10.9.0.1:0", hold)
	var syns atomic.Int64
	h.lose(func(v *packet.View) bool {
		if v.Flags.Has(packet.SYN) {
			syns.Add(1)
		}
		return false
	})
	var all []*Conn
	for i := range conns {
		c := h.dial(t, client(i), target, uint64(i))
		c.stack.handshakes(c).stay()
		all = append(all, c)
	}
	// Ready has not been called: nobody has been told of an answer yet.
	if n := syns.Load(); n < handshakesMost || n >= 2*handshakesMost {
		t.Errorf("%d SYNs have left before an answer was dealt with, want about %d", n, handshakesMost)
	}
	open := 0
	h.await(t, "all conns", func() bool {
		s := h.net.stacks[0]
		if n := s.handshakes(all[0]).underWay; n > handshakesMost {
			t.Fatalf("%d handshakes under way", n)
		}
		open = 0
		for _, c := range all {
			if c.State() == Established {
				open++
			}
		}
		return open == conns
	})
	if !slices.IsSortedFunc(all, func(a, b *Conn) int { return int(a.synAt.Load() - b.synAt.Load()) }) {
		t.Error("SYNs left in another order than that of the Dials")
	}
	for _, c := range all {
		c.Release()
	}
	h.awaitEmpty(t)
	s := h.net.stacks[0]
	if hs := s.handshakes(all[0]); s.inLine != 0 || hs.underWay != 0 || hs.sent.len() != 0 {
		t.Errorf("at the end %d in line, %d under way, %d remembered", s.inLine, hs.underWay, hs.sent.len())
	}
}

// A target that accepts and resets at once answers, too: those in line wait for it.
func TestHandshakesAnsweredAndReset(t *testing.T) {
	h := open(t, Config{})
	target := h.serve(t, "10.9.0.1:0", func(c *net.TCPConn) { _, _ = c.SetLinger(0), c.Close() })
	c := h.dial(t, client(0), target, 0)
	for end := time.Now().Add(deadline); !c.over(); {
		if time.Now().After(end) {
			t.Fatal("not reset")
		}
		runtime.Gosched() // nobody looks at it in between
	}
	h.awaitState(t, c, Reset)
	if h.net.stacks[0].handshakes(c).answered == 0 {
		t.Error("the target counts as one that answers nobody")
	}
	c.Release()
	h.awaitEmpty(t)
}

// What a target does not answer keeps nothing back: not what is for another one,
// and not for long what is for the same.
func TestHandshakesUnanswered(t *testing.T) {
	const lost = 3 * handshakesMost
	h := open(t, Config{})
	deaf, other := h.serve(t, "10.9.0.1:0", hold), h.serve(t, "10.9.0.1:0", hold)
	var hears atomic.Bool
	h.net.stacks[0].dialing.timeout = time.Hour
	h.lose(func(v *packet.View) bool { return v.DstPort == deaf.Port() && !hears.Load() })
	var all []*Conn
	for i := range lost {
		all = append(all, h.dial(t, client(i), deaf, uint64(i)))
	}
	all = append(all, h.dial(t, client(lost), other, lost))
	if all[lost].synAt.Load() == 0 {
		t.Error("the SYN to a target waits for another target")
	}
	h.await(t, "each SYN to leave", func() bool { return h.net.stacks[0].inLine == 0 })
	hears.Store(true)
	c := h.dial(t, client(lost+1), deaf, lost+1)
	h.awaitState(t, c, Established)
	for _, c := range append(all, c) {
		c.Release()
	}
	h.awaitEmpty(t)
}

// A conn waits for its SYN no longer than for an answer to it, and one that nobody
// wants any more sends none.
func TestHandshakesNotBegun(t *testing.T) {
	h := open(t, Config{})
	target := h.serve(t, "10.9.0.1:0", hold)
	h.lose(func(*packet.View) bool { return true })
	s := h.net.stacks[0]
	var all []*Conn
	for i := range handshakesMost {
		c := h.dial(t, client(i), target, uint64(i))
		s.handshakes(c).stay()
		all = append(all, c)
	}
	unwanted := h.dial(t, client(handshakesMost), target, 0)
	unwanted.Release()
	s.dialing.timeout = time.Nanosecond
	late := h.dial(t, client(handshakesMost+1), target, 0)
	h.awaitState(t, late, TimedOut)
	for _, c := range []*Conn{unwanted, late} {
		if c.synAt.Load() != 0 {
			t.Errorf("a SYN of conn %d has left", c.key)
		}
	}
	for _, c := range append(all, late) {
		c.Release()
	}
	h.awaitEmpty(t)
	if s.inLine != 0 {
		t.Errorf("%d in line", s.inLine)
	}
}
