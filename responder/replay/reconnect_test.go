package replay

import (
	"strings"
	"testing"
	"time"

	"flowtwin/tunnel/frame"
)

// again is a rig whose session reconnects; next lists the connections that the
// target takes, each established at once, and none behind the last.
func again(t *testing.T, cfg Config, next ...*fakeConn) *rig {
	t.Helper()
	cfg.Reconnect = true
	r := connected(t, cfg)
	r.log.redial = func() *fakeConn {
		if len(next) == 0 {
			return nil
		}
		r.conn, next = next[0], next[1:]
		return r.conn
	}
	return r
}

// accepting is a connection that will be established when the session looks.
func accepting(t *testing.T) *fakeConn {
	t.Helper()
	return &fakeConn{t: t, room: 1 << 30, state: ConnEstablished, opened: time.Millisecond}
}

func refusing(t *testing.T) *fakeConn {
	t.Helper()
	return &fakeConn{t: t, state: ConnRefused}
}

// closes has the target close its side, and finish when we have closed ours.
func (r *rig) closes() {
	c := r.conn
	c.fin = true
	r.s.News(r.now)
	r.finishes(c)
}

func (r *rig) finishes(c *fakeConn) {
	if c.closed && !c.released {
		c.acked, c.state = uint64(len(c.got)), ConnFinished
		r.s.News(r.now)
	}
}

// resets has the target reset the connection.
func (r *rig) resets() {
	r.conn.state = ConnReset
	r.s.News(r.now)
}

// last ends the flow as its client does, with a target that plays along.
func (r *rig) last() {
	r.s.Fin(r.seen, false, r.now)
	if r.s.Over() {
		return
	}
	r.conn.fin = true
	r.conn.acked, r.conn.state = uint64(len(r.conn.got)), ConnFinished
	r.s.News(r.now)
}

func TestReconnect(t *testing.T) {
	tests := []struct {
		name string
		next int // connections that the target takes
		run  func(r *rig)
		want frame.Closed
	}{
		{"at the next turn, not before", 1, func(r *rig) {
			first := r.conn
			r.turn(0, "one")
			r.answer(10)
			r.ack()
			r.closes()
			r.want("TargetClosed", "one")
			r.turn(10, "two")
			r.finishes(first)
			r.s.News(r.now)
			r.want("Sending", "two")
			r.answer(10)
			r.last()
		}, frame.Closed{
			How: frame.ClosedBoth, DeliveredBytes: 6, DeliveredSegments: 2, AnswerBytes: 20, Turns: 2, Reconnects: 1,
		}},
		{"with a turn that was held", 1, func(r *rig) {
			first := r.conn
			r.turn(0, "one")
			r.ack()
			r.turn(10, "two")
			r.want("Holding", "one")
			r.conn.answers = 10
			first.fin = true
			r.s.News(r.now)
			// The answer is complete: the turn leaves before the FIN is looked at.
			r.want("TargetClosed", "onetwo")
			r.resets()
			r.s.News(r.now)
			r.want("Sending", "two")
			r.answer(10)
			r.last()
		}, frame.Closed{
			How: frame.ClosedBoth, DeliveredBytes: 6, DeliveredSegments: 2, AnswerBytes: 20, Turns: 2, Reconnects: 1, Resent: 1,
		}},
		{"a turn without an answer is written again, with what follows", 1, func(r *rig) {
			r.turn(0, "one")
			r.answer(10)
			r.turn(10, "two, first half")
			r.conn.acked = 5 // "one" and "tw"
			r.resets()
			r.want("Connecting", "")
			r.turn(0, ", second half")
			r.turn(10, "three")
			r.s.News(r.now)
			r.want("Holding", "two, first half, second half")
			r.answer(10)
			r.want("Sending", "two, first half, second halfthree")
			r.answer(1)
			r.last()
		}, frame.Closed{
			How: frame.ClosedBoth, DeliveredBytes: 3 + 28 + 5, DeliveredSegments: 4, AnswerBytes: 21, Turns: 3, Reconnects: 1, Resent: 1,
		}},
		{"it is not when no other connection comes about", 1, func(r *rig) {
			r.turn(0, "one")
			r.resets()
			r.conn.opened, r.conn.state = 0, ConnTimedOut
			r.s.News(r.now)
			r.want("Parted", "")
			r.s.Fin(0, false, r.now)
		}, frame.Closed{How: frame.ClosedTimeout, DroppedBytes: 3, DroppedSegments: 1, Turns: 1}},
		{"but once only", 2, func(r *rig) {
			r.turn(0, "one")
			r.answer(10)
			r.ack()
			r.turn(10, "poison")
			r.resets()
			r.s.News(r.now)
			r.want("Sending", "poison")
			r.resets()
			r.want("Parted", "poison")
			r.pass(time.Second)
			r.turn(10, "three")
			r.s.News(r.now)
			r.want("Sending", "three")
			r.answer(1)
			r.last()
		}, frame.Closed{
			How: frame.ClosedBoth, DeliveredBytes: 8, DroppedBytes: 6, DeliveredSegments: 2, DroppedSegments: 1, AnswerBytes: 11,
			Turns: 3, Reconnects: 2, Resent: 1, GapBytes: 6, GapSegments: 1,
		}},
		{"what left by max-hold before it and nobody acknowledged is lost", 1, func(r *rig) {
			r.turn(0, "one")
			r.turn(10, "two")
			r.pass(time.Second)
			r.want("Sending", "onetwo")
			r.conn.acked = 1
			r.resets() // as a listener does that has forgotten the handshake
			r.s.News(r.now)
			r.want("Sending", "two")
			r.answer(10)
			r.last()
		}, frame.Closed{
			How: frame.ClosedBoth, DeliveredBytes: 1 + 3, DroppedBytes: 2, DeliveredSegments: 1, DroppedSegments: 1, AnswerBytes: 10,
			Turns: 2, HeldMax: 1, Reconnects: 1, Resent: 1, GapBytes: 2, GapSegments: 1,
		}},
		{"a turn of which an answer has begun is not", 1, func(r *rig) {
			r.turn(0, "one")
			r.conn.acked = 2
			r.answer(1)
			r.turn(0, "more of it")
			r.resets()
			r.want("Parted", "onemore of it")
			r.turn(0, "the rest of it")
			r.turn(10, "two")
			r.s.News(r.now)
			r.want("Sending", "two")
			r.answer(1)
			r.last()
		}, frame.Closed{
			How: frame.ClosedBoth, DeliveredBytes: 5, DroppedBytes: 1 + 10 + 14, DeliveredSegments: 1, DroppedSegments: 3, AnswerBytes: 2,
			Turns: 2, Reconnects: 1, GapBytes: 25, GapSegments: 3,
		}},
		{"nor a long one", 1, func(r *rig) {
			r.turn(0, strings.Repeat("x", 2*keepBytes))
			r.resets()
			if r.sh.Queued() != 0 {
				r.t.Errorf("%d bytes are kept", r.sh.Queued())
			}
			r.pass(time.Second)
			r.turn(10, "two")
			r.s.News(r.now)
			r.want("Sending", "two")
			r.answer(1)
			r.last()
		}, frame.Closed{
			How: frame.ClosedBoth, DeliveredBytes: 3, DroppedBytes: 2 * keepBytes, DeliveredSegments: 1, DroppedSegments: 1, AnswerBytes: 1,
			Turns: 2, Reconnects: 1, GapBytes: 2 * keepBytes, GapSegments: 1,
		}},
		{"the client goes without a next turn", 1, func(r *rig) {
			r.turn(0, "one")
			r.answer(10)
			r.ack()
			r.closes()
			r.pass(10 * time.Second)
			r.finishes(r.conn)
			r.want("Parted", "one")
			r.s.Fin(10, false, r.now)
		}, frame.Closed{How: frame.ClosedTargetFirst, DeliveredBytes: 3, DeliveredSegments: 1, AnswerBytes: 10, Turns: 1}},
		{"the client's last turn and its end", 1, func(r *rig) {
			r.turn(0, "one")
			r.answer(10)
			r.ack()
			r.closes()
			first := r.conn
			r.turn(10, "two")
			r.seen += 10
			r.s.Fin(r.seen, false, r.now)
			r.finishes(first)
			r.s.News(r.now)
			r.want("Holding", "two")
			r.answer(10)
			r.want("Ending", "two")
			r.conn.fin, r.conn.acked, r.conn.state = true, 3, ConnFinished
			r.s.News(r.now)
		}, frame.Closed{
			How: frame.ClosedBoth, DeliveredBytes: 6, DeliveredSegments: 2, AnswerBytes: 20, Turns: 2, Reconnects: 1,
		}},
		{"the client's last turn and its reset, which its connection was behind with", 1, func(r *rig) {
			r.turn(0, "one")
			r.answer(10)
			r.ack()
			r.closes()
			first := r.conn
			r.turn(10, "two")
			r.seen += 10
			r.s.Reset(r.seen, r.now)
			r.finishes(first)
			r.s.News(r.now)
			r.want("Holding", "two")
			r.ack()
			r.answer(10)
			r.want("Over", "two")
		}, frame.Closed{
			How: frame.ClosedClientReset, DeliveredBytes: 6, DeliveredSegments: 2, AnswerBytes: 20, Turns: 2, Reconnects: 1,
		}},
		{"the client's last turn on its way as the target closes, its end behind it", 1, func(r *rig) {
			r.turn(0, "one")
			r.answer(10)
			r.ack()
			r.turn(10, "two")
			r.seen += 10
			r.s.Fin(r.seen, false, r.now)
			r.want("Holding", "onetwo")
			r.closes()
			r.s.News(r.now)
			r.want("Holding", "two")
			r.answer(10)
			r.want("Ending", "two")
			r.conn.fin, r.conn.acked, r.conn.state = true, 3, ConnFinished
			r.s.News(r.now)
		}, frame.Closed{
			How: frame.ClosedBoth, DeliveredBytes: 6, DeliveredSegments: 2, AnswerBytes: 20, Turns: 2, Reconnects: 1, Resent: 1,
		}},
		{"the client's last turn on its way as the target closes, its reset behind it", 1, func(r *rig) {
			r.turn(0, "one")
			r.answer(10)
			r.ack()
			r.turn(10, "two")
			r.seen += 10
			r.s.Reset(r.seen, r.now)
			r.want("Holding", "onetwo")
			r.closes()
			r.s.News(r.now)
			r.want("Holding", "two")
			r.ack()
			r.answer(10)
			r.want("Over", "two")
		}, frame.Closed{
			How: frame.ClosedClientReset, DeliveredBytes: 6, DeliveredSegments: 2, AnswerBytes: 20, Turns: 2, Reconnects: 1, Resent: 1,
		}},
		{"a turn that was not answered online, either, is not written again before the client's end", 1, func(r *rig) {
			r.turn(0, "one")
			r.conn.fin = true
			r.s.News(r.now)
			r.s.Fin(r.seen, true, r.now)
			r.finishes(r.conn)
		}, frame.Closed{How: frame.ClosedTargetFirst, DeliveredBytes: 3, DeliveredSegments: 1, Turns: 1}},
		{"the client resets in between", 1, func(r *rig) {
			r.turn(0, "one")
			r.answer(10)
			r.ack()
			r.resets()
			r.want("Parted", "one")
			r.s.Reset(10, r.now)
		}, frame.Closed{How: frame.ClosedTargetReset, DeliveredBytes: 3, DeliveredSegments: 1, AnswerBytes: 10, Turns: 1}},
		{"cut in between", 1, func(r *rig) {
			r.turn(0, "one")
			r.answer(10)
			r.ack()
			r.resets()
			r.s.Cut(frame.ClosedDrain, r.now)
		}, frame.Closed{How: frame.ClosedTargetReset, DeliveredBytes: 3, DeliveredSegments: 1, AnswerBytes: 10, Turns: 1}},
		{"no tuple can be had", 0, func(r *rig) {
			r.turn(0, "one")
			r.answer(10)
			r.ack()
			r.resets()
			r.turn(10, "two")
			r.want("Parted", "one")
			r.last()
		}, frame.Closed{
			How: frame.ClosedNoTuple, DeliveredBytes: 3, DroppedBytes: 3, DeliveredSegments: 1, DroppedSegments: 1, AnswerBytes: 10, Turns: 1,
		}},
		{"the server spoke first", 1, func(r *rig) {
			r.conn.answers = 5
			r.turn(5, "login")
			r.answer(1)
			r.ack()
			r.resets()
			r.turn(10, "two")
			r.want("Discarding", "login")
			r.last()
		}, frame.Closed{
			How: frame.ClosedTargetReset, DeliveredBytes: 5, DroppedBytes: 3, DeliveredSegments: 1, DroppedSegments: 1, AnswerBytes: 6, Turns: 1,
		}},
		{"HTTP/2", 1, func(r *rig) {
			r.turn(0, preface+"and so on")
			r.answer(1)
			r.ack()
			r.resets()
			r.turn(10, "two")
			r.want("Discarding", preface+"and so on")
			r.last()
		}, frame.Closed{
			How: frame.ClosedTargetReset, DeliveredBytes: 33, DroppedBytes: 3, DeliveredSegments: 1, DroppedSegments: 1, AnswerBytes: 1, Turns: 1,
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var next []*fakeConn
			for range tt.next {
				next = append(next, accepting(t))
			}
			r := again(t, Config{}, next...)
			tt.run(r)
			r.account(tt.want)
		})
	}
}

// A target that is started anew is met again by a flow that it refused at first.
func TestFirstConnectionIsRefused(t *testing.T) {
	r := newRig(t, Config{Reconnect: true})
	r.log.redial = func() *fakeConn { r.conn = accepting(t); return r.conn }
	r.turn(0, "one")
	r.conn.state = ConnRefused
	r.s.News(r.now)
	r.want("Parted", "")
	r.pass(time.Second / 2)
	r.turn(0, "the rest of it")
	r.turn(10, "two")
	r.s.News(r.now)
	r.want("Sending", "two")
	if yes, known := r.s.Answered(); !yes || !known || r.log.established != 1 {
		t.Errorf("answered %v, known %v, %d established", yes, known, r.log.established)
	}
	r.answer(1)
	r.last()
	r.account(frame.Closed{
		How: frame.ClosedBoth, DeliveredBytes: 3, DroppedBytes: 17, DeliveredSegments: 1, DroppedSegments: 2, AnswerBytes: 1, Turns: 1,
		GapBytes: 17, GapSegments: 2,
	})
	if r.log.accepted != 1 || r.log.refused != 1 {
		t.Errorf("the target accepted %d connections and refused %d, want 1 and 1", r.log.accepted, r.log.refused)
	}
}

// A keep-alive session costs no memory for what it might have to write again while
// it idles, and no allocation for what it keeps.
func TestKeepingATurnIsFree(t *testing.T) {
	r := again(t, Config{})
	r.conn.got = make([]byte, 0, 1<<20)
	r.log.wrote = make([]int64, 0, 1<<16)
	d := &frame.Data{Payload: []byte("GET / HTTP/1.1\r\n\r\n")}
	request := func() {
		r.s.Data(d, r.now)
		if r.sh.Queued() != smallChunk {
			t.Errorf("%d bytes are kept", r.sh.Queued())
		}
		d.Seen++
		r.conn.answers++
		r.conn.acked = uint64(len(r.conn.got))
		r.s.News(r.now)
	}
	request()
	if n := testing.AllocsPerRun(1000, request); n != 0 {
		t.Errorf("a turn allocates %v times, want 0", n)
	}
	if r.sh.Queued() != 0 {
		t.Errorf("an idle session holds %d bytes", r.sh.Queued())
	}
}
