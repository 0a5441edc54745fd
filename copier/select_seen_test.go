package copier

import (
	"slices"
	"testing"
)

// Where requests are pipelined nobody knows whose answer was seen. The gate must be
// told that, and only at a request, and only when there is something to answer.
func TestSelectPipelined(t *testing.T) {
	t.Parallel()
	b := newSifting(t, shop(), false)
	c := newConn()
	b.feed(c.handshake()...)
	b.feed(c.data(ask("k1")+ask("l1")), c.answer(100), c.ack(), c.answer(50))
	body := post("k2", "0123456789")
	b.feed(c.data(body[:len(body)-5]), c.answer(25), c.data(body[len(body)-5:]))
	b.feed(c.answer(200), c.data(ask("l2")), c.answer(10), c.data(ask("l3")), c.answer(10), c.data(ask("k3")))
	b.feed(c.data(ask("k4")))
	s := b.session()
	b.wantData(s, ask("k1")+body+ask("k3")+ask("k4"))
	const unknown = ^uint64(0)
	if want := []uint64{0, unknown, 0, unknown, 0}; !slices.Equal(s.seens, want) {
		t.Errorf("seen %d, want %d", s.seens, want)
	}
	b.feed(c.fin(), c.serverFin(), c.ack())
	if s.finSeen != 0 {
		t.Errorf("FIN after %d answer bytes, want 0: nothing was seen since", s.finSeen)
	}
	if a := b.book.Answers; a.Same+a.Different != 0 {
		t.Errorf("answers are compared of which some were not copied: %+v", a)
	}
}

// A turn must never begin where the target has nothing to answer: it would be held to
// the end.
func TestSelectTurnsThatHaveNoAnswer(t *testing.T) {
	t.Parallel()
	for name, feed := range map[string]func(b *bench, c *conn){
		"the first request, behind pipelined ones that were left out": func(b *bench, c *conn) {
			b.feed(c.data(ask("l1")+ask("l2")), c.answer(100), c.data(ask("k1")))
		},
		"the rest of a body, while an answer is read": func(b *bench, c *conn) {
			body := post("k1", "0123456789")
			b.feed(c.data(ask("l1")), c.answer(100), c.data(body[:len(body)-5]), c.answer(100), c.data(body[len(body)-5:]))
		},
		"the first request after the tunnel was down": func(b *bench, c *conn) {
			b.lane.up = false
			b.feed(c.data(ask("k1")), c.answer(100), c.data(ask("k2")), c.answer(100))
			b.lane.up = true
			b.feed(c.data(ask("k3")))
		},
		"the first request after a session that was lost, pipelined": func(b *bench, c *conn) {
			b.feed(c.data(ask("k1")+ask("l1")+ask("k2")), c.answer(100), c.ack())
			b.lane.crash()
			b.feed(c.data(ask("k3")))
		},
	} {
		b := newSifting(t, shop(), false)
		c := newConn()
		b.feed(c.handshake()...)
		feed(b, c)
		for _, s := range b.lane.sessions {
			if slices.ContainsFunc(s.seens, func(seen uint64) bool { return seen != 0 }) {
				t.Errorf("%s: seen %d", name, s.seens)
			}
		}
	}
}

// What was read before a flow became vague is told with the request that makes it vague,
// not with the rest of its segments: these would wait for answers that have come already.
func TestSelectBecomesVagueBehindAnAnswer(t *testing.T) {
	t.Parallel()
	b := newSifting(t, shop(), false)
	c := newConn()
	b.feed(c.handshake()...)
	b.feed(c.data(ask("k1")+ask("k2")), c.answer(100), c.answer(100))
	body := post("k3", "0123456789")
	begin, rest := body[:len(body)-5], body[len(body)-5:]
	b.feed(c.data(ask("k4")+ask("l1")+begin), c.data(rest), c.answer(100), c.answer(100))
	b.feed(c.data(ask("l2")+begin), c.data(rest), c.answer(100))
	b.feed(c.fin(), c.serverFin(), c.ack())
	const unknown = ^uint64(0)
	s := b.session()
	b.wantData(s, ask("k1")+ask("k2")+ask("k4")+body+body)
	if want := []uint64{0, 200, 200, unknown, 200}; !slices.Equal(s.seens, want) {
		t.Errorf("seen %d, want %d", s.seens, want)
	}
	if s.finSeen != unknown {
		t.Errorf("FIN after %d answer bytes, want %d", s.finSeen, unknown)
	}
}

// Requests that are all selected may be pipelined, and what was seen stays exact.
func TestSelectAllPipelined(t *testing.T) {
	t.Parallel()
	b := newSifting(t, shop(), false)
	c := newConn()
	b.feed(c.handshake()...)
	b.feed(c.data(ask("k1")+ask("k2")), c.answer(100), c.data(ask("k3")), c.answer(100), c.data(ask("l")), c.answer(11), c.data(ask("k4")))
	if want := []uint64{0, 100, 200}; !slices.Equal(b.session().seens, want) {
		t.Errorf("seen %d, want %d", b.session().seens, want)
	}
}

// The body behind an interim answer waits for the target's interim answer, also
// behind requests that were left out.
func TestSelectContinue(t *testing.T) {
	t.Parallel()
	head := func(host string) string {
		return "POST / HTTP/1.1\r\nHost: " + host + "\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"
	}
	b := newSifting(t, shop(), false)
	c := newConn()
	b.feed(c.handshake()...)
	b.feed(c.data(head("l")), c.answer(25), c.data("left"), c.answer(1000))
	b.feed(c.data(head("k")), c.answer(25), c.data("kept"), c.answer(300), c.data(ask("k2")))
	b.wantData(b.session(), head("k")+"kept"+ask("k2"))
	if want := []uint64{0, 25, 325}; !slices.Equal(b.session().seens, want) {
		t.Errorf("seen %d, want %d", b.session().seens, want)
	}
}

// A client far away always has some requests under way. What it sends before it has
// read anything that the server sent behind a turn's first request needs nothing of
// that turn: it must leave with it, and not be held as a turn of its own.
func TestSelectWindowThatSlides(t *testing.T) {
	t.Parallel()
	const unknown = ^uint64(0)
	for name, tt := range map[string]struct {
		late bool // answers are captured before their requests, as at a mirror port
		want []uint64
	}{
		"as it was": {false, []uint64{0, unknown, 0, 0, unknown, unknown}},
		"at a mirror port, where nothing says what an answer belongs to": {true, []uint64{0, unknown, unknown, 0, unknown, unknown}},
	} {
		b := newSifting(t, shop(), false)
		if tt.late {
			b.maps.refresh(nil)
		}
		c := newConn()
		b.feed(c.handshake()...)
		b.feed(c.data(ask("k1")+ask("l1")+ask("l2")), c.answer(100))
		// having asks when the client has read so much.
		having := func(read int, request string, next int) {
			all := c.answered
			c.answered = read
			p := c.data(request)
			c.answered = all
			if tt.late {
				b.feed(c.answer(next), p)
			} else {
				b.feed(p, c.answer(next))
			}
		}
		having(50, ask("k2"), 30)   // a turn: something was read
		having(100, ask("k3"), 10)  // sent before k2 was there
		having(100, ask("k4"), 10)  // nothing was read
		having(101, ask("k5"), 100) // the first byte that may answer k2: a turn
		having(250, ask("k6"), 0)   // all that there is
		if got := b.session().seens; !slices.Equal(got, tt.want) {
			t.Errorf("%s: seen %d, want %d", name, got, tt.want)
		}
	}
}
