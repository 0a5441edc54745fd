package replay

import (
	"testing"
	"time"

	"flowtwin/tunnel/frame"
)

// A target that is down must be left alone for longer and longer, and
// is tried again at the client's turns only.
func TestReconnectLeavesTheTargetAlone(t *testing.T) {
	dialled := 0
	r := again(t, Config{})
	r.log.redial = func() *fakeConn {
		dialled++
		r.conn = refusing(t)
		return r.conn
	}
	r.turn(0, "one")
	r.answer(10)
	r.ack()
	r.resets()
	const turns = 1000
	for range turns { // for 1000 s
		r.turn(10, "two")
		r.s.News(r.now)
		r.pass(time.Second)
	}
	if dialled < 30 || dialled > 45 {
		t.Errorf("dialled %d times, want every 30 s at last", dialled)
	}
	r.last()
	r.account(frame.Closed{
		How: frame.ClosedRefused, DeliveredBytes: 3, DroppedBytes: turns * 3, DeliveredSegments: 1, DroppedSegments: turns, AnswerBytes: 10, Turns: 1,
	})
	if len(r.log.parted) != 1+dialled {
		t.Errorf("parted %d times, want %d", len(r.log.parted), 1+dialled)
	}
	if r.log.accepted != 1 || r.log.refused != dialled {
		t.Errorf("the target accepted %d connections and refused %d, want 1 and %d", r.log.accepted, r.log.refused, dialled)
	}
}

// A target that is back must not be left alone any longer by those that it did not
// accept: most of the turns of an outage would be lost behind it.
func TestReconnectWhenTheTargetIsBack(t *testing.T) {
	for _, tt := range []struct {
		name  string
		fails func(c *fakeConn)
		waits bool // all the same
	}{
		{"it refused", func(c *fakeConn) { c.state = ConnRefused }, false},
		{"it was not there", func(c *fakeConn) { c.state = ConnTimedOut }, false},
		{"it accepts and closes", func(c *fakeConn) { c.state, c.opened = ConnReset, time.Millisecond }, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dialled := 0
			r := again(t, Config{})
			r.log.redial = func() *fakeConn {
				dialled++
				r.conn = &fakeConn{t: t, room: 1 << 30}
				return r.conn
			}
			next := func() int {
				before := dialled
				r.turn(10, "two")
				return dialled - before
			}
			r.turn(0, "one")
			r.answer(10)
			r.ack()
			r.resets()
			for range 10 {
				r.pass(time.Duration(max(0, r.s.comeback.notBefore-r.now)))
				if next() != 1 {
					t.Fatal("the target is left alone behind its pause")
				}
				tt.fails(r.conn)
				r.s.News(r.now)
				if next() != 0 {
					t.Fatal("the target is not left alone")
				}
			}
			r.log.accepted++ // another session's
			if got := next(); got != 1-count(tt.waits) {
				t.Errorf("dialled %d times when the target has accepted another connection", got)
			}
		})
	}
}

// How long a connection waited for its SYN to leave is no time that the target kept it.
func TestReconnectCountsFromTheHandshake(t *testing.T) {
	dialled := 0
	r := again(t, Config{})
	r.log.redial = func() *fakeConn {
		dialled++
		r.conn = &fakeConn{t: t, room: 1 << 30}
		return r.conn
	}
	r.turn(0, "one")
	r.answer(10)
	r.resets()
	r.turn(10, "two")
	r.pass(maxPause)
	r.conn.state = ConnEstablished
	r.s.News(r.now)
	r.pass(2 * time.Second) // too long for "two" to be written again
	r.resets()
	r.turn(10, "three")
	if dialled != 1 {
		t.Errorf("dialled %d times, want the target left alone for a while", dialled)
	}
}
