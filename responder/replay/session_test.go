package replay

import (
	"strings"
	"testing"
	"time"

	"flowtwin/tunnel/frame"
)

// What a client sends while we still shake hands must follow, in order.
func TestBytesBeforeTheHandshake(t *testing.T) {
	r := newRig(t, Config{})
	r.turn(0, "GET ")
	r.turn(0, "/")
	r.want("Connecting", "")
	r.conn.state = ConnEstablished
	r.s.News(r.now)
	r.want("Sending", "GET /")
	if r.log.established != 1 || len(r.log.wrote) != 2 {
		t.Errorf("established %d, wrote %d; want 1, 2", r.log.established, len(r.log.wrote))
	}
}

// A connection that ends before we look at it was established all the same.
func TestEstablishedIsNeverMissed(t *testing.T) {
	for name, tt := range map[string]struct {
		ends func(r *rig)
		want int
	}{
		"reset behind the handshake": {func(r *rig) { r.conn.state = ConnReset; r.s.News(r.now) }, 1},
		"timed out behind it":        {func(r *rig) { r.conn.state = ConnTimedOut; r.s.News(r.now) }, 1},
		"cut behind it":              {func(r *rig) { r.s.Cut(frame.ClosedDrain, r.now) }, 1},
		"refused":                    {func(r *rig) { r.conn.opened = 0; r.conn.state = ConnRefused; r.s.News(r.now) }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, Config{})
			r.conn.opened = time.Millisecond
			r.turn(0, "abc")
			tt.ends(r)
			r.s.Abort(r.now)
			if r.log.established != tt.want || len(r.log.closed) != 1 {
				t.Errorf("%d established, %d accounts; want %d, 1", r.log.established, len(r.log.closed), tt.want)
			}
		})
	}
}

func TestEnds(t *testing.T) {
	tests := []struct {
		name string
		run  func(r *rig)
		want frame.Closed
	}{
		{"client first", func(r *rig) {
			r.turn(0, "abc")
			r.answer(10)
			r.s.Fin(10, false, r.now)
			r.want("Ending", "abc")
			r.conn.fin = true
			r.s.News(r.now)
			r.want("LastAck", "abc")
			r.conn.state = ConnFinished
			r.ack()
		}, frame.Closed{How: frame.ClosedBoth, DeliveredBytes: 3, DeliveredSegments: 1, AnswerBytes: 10, Turns: 1}},
		{"client half-closes before the answer", func(r *rig) {
			r.turn(0, "abc")
			r.s.Fin(0, false, r.now)
			r.want("Ending", "abc")
			r.answer(10)
			r.conn.fin, r.conn.state = true, ConnFinished
			r.ack()
		}, frame.Closed{How: frame.ClosedBoth, DeliveredBytes: 3, DeliveredSegments: 1, AnswerBytes: 10, Turns: 1}},
		{"FIN of a client that had read an answer waits for ours", func(r *rig) {
			r.turn(0, "abc")
			r.s.Fin(10, false, r.now)
			r.want("Holding", "abc")
			r.answer(10)
			r.want("Ending", "abc")
			r.conn.fin, r.conn.state = true, ConnFinished
			r.ack()
		}, frame.Closed{How: frame.ClosedBoth, DeliveredBytes: 3, DeliveredSegments: 1, AnswerBytes: 10, Turns: 1}},
		{"FIN when it is not known what the client had read", func(r *rig) {
			r.turn(0, "abc")
			r.s.Fin(SeenUnknown, false, r.now)
			r.answer(3)
			r.want("Holding", "abc")
			r.pass(DefaultSettle)
			r.want("Ending", "abc")
			r.conn.fin, r.conn.state = true, ConnFinished
			r.ack()
		}, frame.Closed{How: frame.ClosedBoth, DeliveredBytes: 3, DeliveredSegments: 1, AnswerBytes: 3, Turns: 1}},
		{"FIN after a mark", func(r *rig) {
			r.turn(0, "abc")
			r.turn(10, "")
			r.s.Fin(SeenUnknown, false, r.now)
			r.want("Holding", "abc")
			r.answer(10)
			r.want("Ending", "abc")
			r.conn.fin, r.conn.state = true, ConnFinished
			r.ack()
		}, frame.Closed{How: frame.ClosedBoth, DeliveredBytes: 3, DeliveredSegments: 1, AnswerBytes: 10, Turns: 1}},
		{"nothing sent", func(r *rig) {
			r.s.Fin(SeenUnknown, false, r.now)
			r.want("Ending", "")
			r.conn.fin, r.conn.state = true, ConnFinished
			r.s.News(r.now)
		}, frame.Closed{How: frame.ClosedBoth}},
		{"target first", func(r *rig) {
			r.turn(0, "abc")
			r.conn.fin = true
			r.answer(10)
			r.want("TargetClosed", "abc")
			r.s.Fin(10, false, r.now)
			r.want("LastAck", "abc")
			r.conn.state = ConnFinished
			r.ack()
		}, frame.Closed{How: frame.ClosedTargetFirst, DeliveredBytes: 3, DeliveredSegments: 1, AnswerBytes: 10, Turns: 1}},
		{"target half-closes, the turn goes on", func(r *rig) {
			r.turn(0, "abc")
			r.conn.fin = true
			r.s.News(r.now)
			r.turn(0, "def")
			r.s.Fin(0, false, r.now)
			r.want("LastAck", "abcdef")
			r.conn.state = ConnFinished
			r.ack()
		}, frame.Closed{How: frame.ClosedTargetFirst, DeliveredBytes: 6, DeliveredSegments: 2, Turns: 1}},
		{"target closes early, the client goes on", func(r *rig) {
			r.turn(0, "abc")
			r.answer(10)
			r.conn.fin = true
			r.s.News(r.now)
			r.turn(10, "next")
			r.want("LastAck", "abc")
			r.conn.state = ConnFinished
			r.ack()
			r.want("Discarding", "abc")
			r.turn(10, "and next")
			r.s.Fin(SeenUnknown, false, r.now)
		}, frame.Closed{
			How: frame.ClosedTargetFirst, DeliveredBytes: 3, DroppedBytes: 12, DeliveredSegments: 1,
			DroppedSegments: 2, AnswerBytes: 10, Turns: 1,
		}},
		{"target closes early, the client idles", func(r *rig) {
			r.turn(0, "abc")
			r.conn.fin = true
			r.answer(10)
			r.pass(10 * time.Second)
			r.want("LastAck", "abc")
			r.conn.state = ConnFinished
			r.ack()
			r.want("Discarding", "abc")
			r.s.Fin(10, false, r.now)
		}, frame.Closed{How: frame.ClosedTargetFirst, DeliveredBytes: 3, DeliveredSegments: 1, AnswerBytes: 10, Turns: 1}},
		{"target closes while a turn is held", func(r *rig) {
			r.turn(0, "abc")
			r.turn(10, "held")
			r.conn.fin = true
			r.answer(1)
			r.want("LastAck", "abc")
			r.s.Fin(10, false, r.now)
			r.conn.state = ConnFinished
			r.ack()
		}, frame.Closed{
			How: frame.ClosedTargetFirst, DeliveredBytes: 3, DroppedBytes: 4, DeliveredSegments: 1,
			DroppedSegments: 1, AnswerBytes: 1, Turns: 1,
		}},
		{"client resets", func(r *rig) {
			r.turn(0, "abc")
			r.answer(5)
			r.ack()
			r.s.Reset(5, r.now)
		}, frame.Closed{How: frame.ClosedClientReset, DeliveredBytes: 3, DeliveredSegments: 1, AnswerBytes: 5, Turns: 1}},
		{"client's reset waits for its bytes", func(r *rig) {
			r.turn(0, "abc")
			r.s.Reset(0, r.now)
			r.want("Holding", "abc")
			r.conn.acked = 3
			r.pass(DefaultSettle)
		}, frame.Closed{How: frame.ClosedClientReset, DeliveredBytes: 3, DeliveredSegments: 1, Turns: 1}},
		{"client's reset does not wait for long", func(r *rig) {
			r.turn(0, "abc")
			r.s.Reset(0, r.now)
			r.pass(DefaultMaxHold)
		}, frame.Closed{How: frame.ClosedClientReset, DroppedBytes: 3, DroppedSegments: 1, Turns: 1}},
		{"client closes, then resets", func(r *rig) {
			r.turn(0, "abc")
			r.ack()
			r.s.Fin(0, false, r.now)
			r.s.Reset(0, r.now)
		}, frame.Closed{How: frame.ClosedClientReset, DeliveredBytes: 3, DeliveredSegments: 1, Turns: 1}},
		{"refused", func(r *rig) {
			r.sh.Start(r.s, r.conn, 0, r.now)
			r.conn.state = ConnConnecting
			r.turn(0, "abc")
			r.conn.state = ConnRefused
			r.s.News(r.now)
			r.want("Discarding", "")
			r.turn(0, "d")
			r.s.Fin(0, false, r.now)
		}, frame.Closed{How: frame.ClosedRefused, DroppedBytes: 4, DroppedSegments: 2}},
		{"connect times out after the client is gone", func(r *rig) {
			r.sh.Start(r.s, r.conn, 0, r.now)
			r.conn.state = ConnConnecting
			r.turn(0, "abc")
			r.s.Fin(0, false, r.now)
			r.conn.state = ConnTimedOut
			r.s.News(r.now)
		}, frame.Closed{How: frame.ClosedTimeout, DroppedBytes: 3, DroppedSegments: 1}},
		{"target resets", func(r *rig) {
			r.turn(0, "abc")
			r.turn(0, "def")
			r.conn.acked, r.conn.state = 4, ConnReset
			r.s.News(r.now)
			r.s.Fin(0, false, r.now)
		}, frame.Closed{
			How: frame.ClosedTargetReset, DeliveredBytes: 4, DroppedBytes: 2, DeliveredSegments: 1,
			DroppedSegments: 1, Turns: 1,
		}},
		{"write fails", func(r *rig) {
			r.conn.broken = true
			r.turn(0, "abc")
			r.s.Fin(0, false, r.now)
		}, frame.Closed{How: frame.ClosedTargetReset, DroppedBytes: 3, DroppedSegments: 1, Turns: 1}},
		{"target does not close", func(r *rig) {
			r.turn(0, "abc")
			r.ack()
			r.s.Fin(0, false, r.now)
			r.pass(29 * time.Second) // as an application that works on its answer
			r.answer(1)              // which begins
			r.pass(29 * time.Second)
			r.want("Ending", "abc")
			r.pass(time.Second)
		}, frame.Closed{How: frame.ClosedTimeout, DeliveredBytes: 3, DeliveredSegments: 1, AnswerBytes: 1, Turns: 1}},
		{"target reads no more after the client's end", func(r *rig) {
			r.conn.room = 1
			r.turn(0, "abc")
			r.s.Fin(0, false, r.now)
			r.ack()
			r.pass(29 * time.Second)
			r.want("Sending", "a")
			r.pass(time.Second)
		}, frame.Closed{How: frame.ClosedTimeout, DeliveredBytes: 1, DroppedBytes: 2, DroppedSegments: 1, Turns: 1}},
		{"copier gives up", func(r *rig) {
			r.turn(0, "abc")
			r.answer(1)
			r.ack()
			r.pass(DefaultSettle)
			r.s.Abort(r.now)
			r.want("Ending", "abc")
			r.conn.fin, r.conn.state = true, ConnFinished
			r.s.News(r.now)
		}, frame.Closed{How: frame.ClosedAborted, DeliveredBytes: 3, DeliveredSegments: 1, AnswerBytes: 1, Turns: 1}},
		{"copier gives up, target does not close", func(r *rig) {
			r.turn(0, "abc")
			r.ack()
			r.s.Abort(r.now)
			r.pass(2 * time.Second)
		}, frame.Closed{How: frame.ClosedAborted, DeliveredBytes: 3, DeliveredSegments: 1, Turns: 1}},
		{"copier leaves, client had closed, target does not", func(r *rig) {
			r.turn(0, "abc")
			r.ack()
			r.s.Fin(0, false, r.now)
			r.s.Hurry(r.now)
			r.pass(2*time.Second - 1)
			r.want("Ending", "abc")
			r.pass(1)
		}, frame.Closed{How: frame.ClosedAborted, DeliveredBytes: 3, DeliveredSegments: 1, Turns: 1}},
		{"copier leaves, client had not closed", func(r *rig) {
			r.turn(0, "abc")
			r.ack()
			r.s.Hurry(r.now)
			r.pass(2 * time.Second)
		}, frame.Closed{How: frame.ClosedAborted, DeliveredBytes: 3, DeliveredSegments: 1, Turns: 1}},
		{"our last FIN is not acknowledged", func(r *rig) {
			r.conn.fin = true
			r.s.News(r.now)
			r.s.Fin(0, false, r.now)
			r.want("LastAck", "")
			r.pass(10 * time.Second)
		}, frame.Closed{How: frame.ClosedTimeout}},
		{"cut", func(r *rig) {
			r.turn(0, "abc")
			r.turn(7, "held")
			r.conn.acked = 3
			r.s.Cut(frame.ClosedDrain, r.now)
		}, frame.Closed{
			How: frame.ClosedDrain, DeliveredBytes: 3, DroppedBytes: 4, DeliveredSegments: 1,
			DroppedSegments: 1, Turns: 1,
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := connected(t, Config{})
			tt.run(r)
			r.account(tt.want)
		})
	}
}

// A target that does not read must cost a bounded amount of memory.
func TestBacklogEndsTheSession(t *testing.T) {
	for name, cfg := range map[string]Config{
		"session": {SessionBytes: 1 << 20},
		"shard":   {ShardBytes: 1 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			r := connected(t, cfg)
			r.conn.room = 10
			p := strings.Repeat("x", 100_000)
			for range 12 {
				r.turn(0, p)
			}
			r.want("Discarding", p[:10])
			r.s.Fin(0, false, r.now)
			r.account(frame.Closed{How: frame.ClosedBacklog, DroppedBytes: 1_200_000, DroppedSegments: 12, Turns: 1})
		})
	}
}

// However many sessions a target lets wait, those of others must find room for
// their requests.
func TestSlowTargetLeavesRoomForOthers(t *testing.T) {
	body := strings.Repeat("x", 1000)
	for _, tt := range []struct{ slow, request int }{{32, 200}, {300, 3}, {3000, 1}} {
		r := newRig(t, Config{})
		d := &frame.Data{Payload: []byte(strings.Repeat(body, 64))}
		slow := make([]Session, tt.slow)
		for i := range slow {
			r.sh.Start(&slow[i], &fakeConn{t: t, state: ConnEstablished}, 0, r.now)
			slow[i].News(r.now)
		}
		for range 8 << 20 / len(d.Payload) { // not quite the limit of one
			for i := range slow {
				slow[i].Data(d, r.now)
			}
		}
		for range tt.request {
			r.turn(0, body)
		}
		if r.want("Connecting", ""); tt.slow == 32 && slow[0].conn != nil {
			t.Error("the slow target costs it no session")
		}
		r.conn.state = ConnEstablished
		r.s.News(r.now)
		r.want("Sending", strings.Repeat(body, tt.request))
	}
}

// A session that was never admitted still answers for every byte.
func TestRefusedSessionCounts(t *testing.T) {
	r := newRig(t, Config{})
	r.conn.released = true // it has none
	r.sh.Refuse(r.s, frame.ClosedRejected)
	r.turn(0, "abc")
	r.s.Abort(r.now)
	r.account(frame.Closed{How: frame.ClosedRejected, DroppedBytes: 3, DroppedSegments: 1})
}

func TestDataDoesNotAllocate(t *testing.T) {
	r := connected(t, Config{GateOff: true})
	r.conn.got = make([]byte, 0, 1<<20)
	r.log.wrote = make([]int64, 0, 1<<16)
	d := &frame.Data{Payload: []byte("GET / HTTP/1.1\r\n\r\n")}
	r.s.Data(d, r.now)
	if n := testing.AllocsPerRun(1000, func() {
		d.Seen++
		r.s.Data(d, r.now)
		r.conn.answers++
		r.conn.acked = uint64(len(r.conn.got))
		r.s.News(r.now)
	}); n != 0 {
		t.Errorf("a turn allocates %v times, want 0", n)
	}
}

// A connection may have waited for long until its SYN left. A target that closes it
// early is waited with as ever, not for what is left of the wait.
func TestTargetClosesBehindALongHandshake(t *testing.T) {
	r := newRig(t, Config{})
	r.pass(20 * time.Second)
	r.conn.state, r.conn.fin = ConnEstablished, true
	r.s.News(r.now)
	r.pass(5 * time.Second)
	r.want("TargetClosed", "")
	r.pass(5 * time.Second)
	r.want("LastAck", "")
}
