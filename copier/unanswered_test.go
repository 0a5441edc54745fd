package copier

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"flowtwin/copier/report"
	"flowtwin/internal/packet"
	"flowtwin/tunnel/frame"
)

// account sends the session's account: all of it was delivered, and absorbed bytes of
// an answer came.
func (l *fakeLane) account(s *fakeSession, how frame.CloseHow, absorbed uint64) {
	s.closed = true
	l.returns = frame.AppendClosed(l.returns, s.flow, &frame.Closed{
		How: how, DeliveredBytes: uint64(len(s.data)), DeliveredSegments: s.segments, AnswerBytes: absorbed,
	})
}

// A target that takes requests and answers none of them must be told from one that
// works, and what nobody can judge must not look like either.
func TestUnanswered(t *testing.T) {
	const no, yes, neither = "unanswered", "answered", ""
	ask := func(b *bench, c *conn) { b.feed(c.data("ask"), c.answer(100), c.ack()) }
	closes := func(b *bench, c *conn) { b.feed(c.fin(), c.serverFin(), c.ack()) }
	tests := []struct {
		name     string
		before   func(b *bench, c *conn)
		ends     func(b *bench, c *conn)
		how      frame.CloseHow
		absorbed uint64
		want     string
	}{
		{"reset", ask, closes, frame.ClosedTargetReset, 0, no},
		{"closed", ask, closes, frame.ClosedTargetFirst, 0, no},
		{"closed behind the client", ask, closes, frame.ClosedBoth, 0, no},
		{"silent", ask, closes, frame.ClosedTimeout, 0, no},
		{"cut when it had had its time", ask, func(b *bench, c *conn) {
			closes(b, c)
			b.wait(answerTime)
		}, frame.ClosedAborted, 0, no},
		{"cut a little earlier", ask, func(b *bench, c *conn) {
			closes(b, c)
			b.wait(answerTime - 2*time.Second)
		}, frame.ClosedAborted, 0, neither},
		{"its client reset first, and that waited long", ask, func(b *bench, c *conn) {
			b.feed(c.in(packet.RST|packet.ACK, c.sent, ""))
			b.wait(answerTime)
		}, frame.ClosedClientReset, 0, no},
		{"answered", ask, closes, frame.ClosedBoth, 100, yes},
		{"one byte, and reset", ask, closes, frame.ClosedTargetReset, 1, yes},
		{"cut by us", ask, closes, frame.ClosedBacklog, 0, neither},
		{"cut by us behind an answer", ask, closes, frame.ClosedBacklog, 1, yes},
		{"its client reset, the target had before", ask, func(b *bench, c *conn) {
			b.feed(c.in(packet.RST|packet.ACK, c.sent, ""))
		}, frame.ClosedTargetReset, 0, no},
		{"its client reset first", ask, func(b *bench, c *conn) {
			b.feed(c.in(packet.RST|packet.ACK, c.sent, ""))
		}, frame.ClosedClientReset, 0, neither},
		{"nobody answers online either", func(b *bench, c *conn) { b.feed(c.data("log")) }, closes, frame.ClosedTargetReset, 0, neither},
		{"nothing was sent", func(b *bench, c *conn) { b.feed(c.answer(10), c.ack()) }, closes, frame.ClosedTargetReset, 0, neither},
		{"given up at our end, as pools of connections are", ask, func(b *bench, _ *conn) {
			b.ask(phaseFinishing)
			b.wait(time.Second)
		}, frame.ClosedTargetReset, 0, no},
		{"given up and cut", ask, func(b *bench, _ *conn) {
			b.ask(phaseFinishing)
			b.wait(time.Second)
		}, frame.ClosedAborted, 0, neither},
		{"given up, its client ended", ask, func(b *bench, c *conn) {
			b.limit.idle = time.Minute
			b.wait(2 * time.Minute)
			closes(b, c)
		}, frame.ClosedTargetReset, 0, no},
		{"given up with a hole in the request", ask, func(b *bench, c *conn) {
			c.data("missed")
			b.feed(c.data("more"), c.answer(100))
		}, frame.ClosedTargetReset, 0, neither},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b, c := newBench(t), newConn()
			b.lane.answers = false
			b.feed(c.handshake()...)
			tt.before(b, c)
			tt.ends(b, c)
			b.lane.account(b.session(), tt.how, tt.absorbed)
			b.wait(time.Second)
			b.wantAnswers(tt.want)
		})
	}
}

// wantAnswers checks how the only connection was judged: answered, unanswered or not.
func (b *bench) wantAnswers(want string) {
	b.t.Helper()
	a, got := &b.book.Answers, ""
	switch {
	case a.Answered == 1 && a.Unanswered == 0:
		got = "answered"
	case a.Answered == 0 && a.Unanswered == 1:
		got = "unanswered"
	case a.Answered+a.Unanswered != 0:
		got = "several"
	}
	if got != want {
		b.t.Errorf("judged %q, want %q", got, want)
	}
}

// The account may come before the online server has answered: what is compared is
// what both sides have said in the end.
func TestUnansweredBeforeOnline(t *testing.T) {
	for name, end := range map[string]func(b *bench, c *conn){
		"the server closes": func(b *bench, c *conn) { b.feed(c.serverFin(), c.ack()) },
		"the copier ends":   func(b *bench, _ *conn) { b.ask(phaseFinishing); b.wait(time.Second) },
		"its client comes again": func(b *bench, c *conn) {
			c.iss += 5000
			b.feed(c.syn(), c.synAck())
		},
	} {
		t.Run(name, func(t *testing.T) {
			b, c := newBench(t), newConn()
			b.lane.answers = false
			b.feed(c.handshake()...)
			b.feed(c.data("ask"), c.fin())
			b.lane.account(b.session(), frame.ClosedTargetReset, 0)
			b.wait(time.Second)
			b.wantAnswers("")
			b.feed(c.answer(100))
			b.wantAnswers("")
			end(b, c)
			b.wantAnswers("unanswered")
		})
	}
}

// Where nobody listened at the target, no answer of none is as long as online's; of a
// connection that both sides have opened and closed it is.
func TestEmptyAnswersAreCompared(t *testing.T) {
	for how, same := range map[frame.CloseHow]uint64{
		frame.ClosedBoth: 1, frame.ClosedTargetFirst: 1, frame.ClosedRefused: 0, frame.ClosedRate: 0, frame.ClosedTimeout: 0, frame.ClosedPaused: 0,
	} {
		b, c := newBench(t), newConn()
		b.lane.answers = false
		b.feed(c.handshake()...)
		b.feed(c.fin(), c.serverFin(), c.ack())
		b.lane.account(b.session(), how, 0)
		b.wait(time.Second)
		if a := b.book.Answers; a.Same != same || a.Different != 0 {
			t.Errorf("%s: %d as long as online, %d not", how, a.Same, a.Different)
		}
	}
}

// What other connections' servers say first is no answer to this one, which got none.
func TestUnansweredGreeting(t *testing.T) {
	b, c := newBench(t), newConn()
	b.lane.answers = false
	b.greetings[0] = 5
	b.feed(c.data("x"), c.answer(10), c.ack(), c.data("GET / HTTP/1.1\r\n\r\n"), c.fin(), c.serverFin(), c.ack())
	b.lane.account(b.session(), frame.ClosedTargetReset, 0)
	b.wait(time.Second)
	b.wantAnswers("")
}

// A session that begins in the middle of a connection can be answered only where any
// request may come first.
func TestUnansweredMidstream(t *testing.T) {
	for payload, want := range map[string]string{"GET / HTTP/1.1\r\n\r\n": "unanswered", "\x03more": ""} {
		b, c := newBench(t), newConn()
		b.lane.answers = false
		b.feed(c.data("x"), c.answer(10), c.ack(), c.data(payload), c.answer(10), c.ack(), c.fin(), c.serverFin(), c.ack())
		b.lane.account(b.session(), frame.ClosedTargetReset, 0)
		b.wait(time.Second)
		if b.book.Flows.Adopted != 1 {
			t.Error("it was not adopted")
		}
		b.wantAnswers(want)
	}
}

// Whoever copies to a broken release must hear of it, but not every ten seconds, and
// not for the few that any restart cuts.
func TestUnansweredWarning(t *testing.T) {
	tests := []struct {
		name           string
		seconds, busy  int    // for so long, and so long something ends
		answered, deaf uint64 // in each busy second
		warnings       int
	}{
		{"all are answered", 200, 200, 10, 0, 0},
		{"a tenth is not", 200, 200, 9, 1, 0},
		{"more is not", 12, 12, 8, 2, 1},
		{"for three minutes", 175, 175, 0, 10, 3},
		{"too few to tell", 200, 1, 0, 9, 0},
		{"few at a time", 40, 40, 0, 1, 1},
		{"nothing ends", 200, 0, 0, 0, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var log syncBuffer
			u := unanswered{log: slog.New(slog.NewTextHandler(&log, nil))}
			var l report.Ledger
			a := &l.Answers
			for i := range tt.seconds {
				u.look(&l, time.Unix(1e9+int64(i), 0))
				if i < tt.busy {
					a.Answered += tt.answered
					a.Unanswered += tt.deaf
				}
			}
			if got := strings.Count(log.String(), "level=WARN"); got != tt.warnings {
				t.Errorf("%d warnings, want %d:\n%s", got, tt.warnings, log.String())
			}
		})
	}
}

// A target that hangs keeps its connections: the word comes before they end.
func TestHangingTargetWarning(t *testing.T) {
	tests := []struct {
		name                      string
		seconds                   int
		online, delivered, target func(second int) uint64
		warnings                  int
	}{
		{"answers", 100, each, each, each, 0},
		{"hangs", 69, each, each, never, 1},
		{"hangs for long", 80, each, each, never, 2},
		{"answers now and then", 100, each, each, func(i int) uint64 { return uint64(i / 9) }, 0},
		{"hangs after a while", 60, each, each, func(i int) uint64 { return uint64(min(i, 40)) }, 1},
		{"the online server answers nothing, either", 100, never, each, never, 0},
		{"answers, but its headers are dropped", 100, each, each, never, 0},
		{"takes nothing", 100, each, never, never, 0},
		{"is asked once after a pause", 100, func(i int) uint64 { return uint64(i / 95) }, func(i int) uint64 { return uint64(i / 95) }, never, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var log syncBuffer
			u := unanswered{log: slog.New(slog.NewTextHandler(&log, nil))}
			var l report.Ledger
			for i := range tt.seconds {
				u.look(&l, time.Unix(1e9+int64(i), 0))
				if tt.name == "answers, but its headers are dropped" {
					l.Answers.HeadersDropped++
				}
				l.Answers.Online.Bytes, l.Sent.Arrived, l.Answers.Target.Bytes = tt.online(i), tt.delivered(i), tt.target(i)
			}
			if got := strings.Count(log.String(), "level=WARN"); got != tt.warnings {
				t.Errorf("%d warnings, want %d:\n%s", got, tt.warnings, log.String())
			}
		})
	}
}

func each(second int) uint64 { return uint64(second) }
func never(int) uint64       { return 0 }
