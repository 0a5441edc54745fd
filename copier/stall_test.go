package copier

import (
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"flowtwin/copier/report"
	"flowtwin/tunnel/frame"
)

// A pulse is a stall with a copy that a test moves on.
type pulse struct {
	stall
	sum report.Summary
	log syncBuffer
}

func newPulse() *pulse {
	s := &pulse{sum: report.Summary{Ended: time.Unix(1e9, 0)}}
	s.sum.Tunnel.Up = true
	s.stall.log = slog.New(slog.NewTextHandler(&s.log, nil))
	return s
}

// pass lets n seconds pass, each of which does something.
func (s *pulse) pass(n int, each ...func()) (stalled time.Duration) {
	for range n {
		s.sum.Ended = s.sum.Ended.Add(time.Second)
		for _, f := range each {
			f()
		}
		stalled = s.look(&s.sum)
	}
	return stalled
}

func (s *pulse) send() {
	s.sum.Ledger.Client.Sent.Add(100)
	s.sum.Ledger.Sent.InFlight.Add(100)
}

func (s *pulse) speak() { s.sum.Tunnel.BytesReturned += 60 }

func (s *pulse) move() {
	s.speak()
	s.sum.Ledger.Progress(&frame.Moved{Segments: 1, Bytes: 100})
}

// fail sends something that a session drops, since it ended in this way.
func (s *pulse) fail(how frame.CloseHow) func() {
	return func() {
		s.speak()
		l := &s.sum.Ledger
		l.Client.Sent.Add(100)
		l.Sent.InFlight.Add(100)
		l.Sessions.Opened++
		l.Sessions.Open++
		l.Answers.Headers++ // a reset
		l.Settle(&frame.Closed{How: how, DroppedSegments: 1, DroppedBytes: 100}, report.Count{Segments: 1, Bytes: 100})
		l.Progress(&frame.Moved{Segments: 1, Bytes: 100})
	}
}

func (s *pulse) want(t *testing.T, warns, infos int) {
	t.Helper()
	log := s.log.String()
	if w, i := strings.Count(log, "level=WARN"), strings.Count(log, "level=INFO"); w != warns || i != infos {
		t.Errorf("%d warnings and %d other lines, want %d and %d:\n%s", w, i, warns, infos, log)
	}
}

// What copies must never be called stalled, and what does not must be, once.
func TestStall(t *testing.T) {
	t.Run("it goes on", func(t *testing.T) {
		s := newPulse()
		if got := s.pass(100, s.send, s.move); got != 0 {
			t.Errorf("stalled for %v", got)
		}
		s.want(t, 0, 0)
	})
	t.Run("nobody sends anything, and the tunnel is down", func(t *testing.T) {
		s := newPulse()
		if got := s.pass(100); got != 0 {
			t.Errorf("stalled for %v", got)
		}
		s.want(t, 0, 0)
	})
	t.Run("silent responder", func(t *testing.T) {
		s := newPulse()
		s.pass(20, s.send, s.move)
		if got := s.pass(8, s.send); got != 8*time.Second {
			t.Errorf("stalled for %v, want 8s", got)
		}
		s.want(t, 1, 0)
		if !strings.Contains(s.log.String(), "under_way_bytes=400") || !strings.Contains(s.log.String(), "is it running") {
			t.Errorf("log says %s", &s.log)
		}
		if got := s.pass(20, s.send, s.move); got != 0 {
			t.Errorf("stalled for %v", got)
		}
		s.want(t, 1, 1)
		s.pass(8, s.send)
		s.want(t, 2, 1)
	})
	t.Run("silent responder, one request", func(t *testing.T) {
		s := newPulse()
		s.pass(20, s.speak)
		s.send()
		if got := s.pass(9); got == 0 {
			t.Error("it is not said")
		}
	})
	t.Run("the target takes nothing", func(t *testing.T) {
		s := newPulse()
		s.pass(20, s.send, s.move)
		if got := s.pass(15, s.send, s.speak); got != 15*time.Second {
			t.Errorf("stalled for %v, want 15s", got)
		}
		s.want(t, 1, 0)
		if !strings.Contains(s.log.String(), "look at the target") {
			t.Errorf("log says %s", &s.log)
		}
	})
	for how, want := range map[frame.CloseHow]string{
		frame.ClosedTimeout: `nothing delivered: look at the target, and at the responder's log" stalled=10s under_way_bytes=0 responder="" failed="target_timeout 10, target_refused 0"`,
		frame.ClosedRefused: `nothing delivered: look at the target, and at the responder's log" stalled=10s under_way_bytes=0 responder="" failed="target_timeout 0, target_refused 10"`,
		frame.ClosedPaused:  `nothing delivered: the responder refuses these connections, look at its log" stalled=10s under_way_bytes=0 responder="" failed="target_timeout 0, target_refused 0, target_paused 10"`,
	} {
		t.Run("all connections end as "+how.String(), func(t *testing.T) {
			s := newPulse()
			if got := s.pass(11, s.fail(how)); got == 0 {
				t.Error("it is not said")
			}
			s.want(t, 1, 0)
			if !strings.Contains(s.log.String(), want) {
				t.Errorf("log does not say %q: %s", want, &s.log)
			}
			s.pass(1, s.send, s.move)
			s.want(t, 1, 1)
			s.pass(60, s.fail(how), s.send, s.move)
			s.want(t, 1, 1)
		})
	}
	t.Run("the responder ends, which refused before", func(t *testing.T) {
		s := newPulse()
		s.pass(8, s.fail(frame.ClosedDrain))
		s.sum.Tunnel.Up = false
		if got := s.pass(8); got != 0 {
			t.Errorf("stalled for %v", got)
		}
		s.want(t, 0, 0)
	})
	t.Run("some connections are refused, then nobody comes", func(t *testing.T) {
		s := newPulse()
		s.pass(4, s.fail(frame.ClosedRefused))
		s.pass(3600, s.speak)
		if got := s.pass(1, s.fail(frame.ClosedRefused)); got != 0 {
			t.Errorf("stalled for %v", got)
		}
		s.want(t, 0, 0)
	})
	t.Run("a session that is over waits for its client's end", func(t *testing.T) {
		s := newPulse()
		s.pass(20, s.send, s.move)
		s.send()
		if got := s.pass(3600, s.speak); got != 0 {
			t.Errorf("stalled for %v", got)
		}
		s.want(t, 0, 0)
	})
	t.Run("older figures come late", func(t *testing.T) {
		s := newPulse()
		s.pass(20, s.send, s.move)
		old := s.sum
		s.pass(1, s.fail(frame.ClosedBoth))
		s.pass(11, s.send, s.speak)
		s.want(t, 1, 0)
		s.look(&old) // another goroutine added up before, and comes here only now
		s.want(t, 1, 0)
	})
	t.Run("the tunnel is lost", func(t *testing.T) {
		s := newPulse()
		s.pass(20, s.send, s.move)
		s.pass(8, s.send)
		l := &s.sum.Ledger
		l.Sessions.Opened, l.Sessions.Open = 1, 1
		l.Lose(l.Sent.InFlight)
		l.Broke()
		if got := s.pass(20); got != 0 {
			t.Errorf("stalled for %v", got)
		}
		s.want(t, 1, 0) // that it is lost is said elsewhere
	})
}

// The status must say that nothing comes back, and the final ledger what became of it.
func TestStatusSaysStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, c := newRig(t), newConn()
		r.lane.answers = false
		stop := r.start(t)
		r.capture(c.handshake()...)
		r.capture(c.data("hello"))
		elapse(12 * time.Second)
		log := r.log.String()
		for _, want := range []string{"nothing comes back from the responder", `copied="stalled: nothing delivered for `, "nothing delivered yet, 5 B under way", " stalled="} {
			if !strings.Contains(log, want) {
				t.Errorf("the log does not say %q:\n%s", want, log)
			}
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if got := r.out.String(); !strings.HasPrefix(got, "copied ") {
			t.Errorf("ledger is\n%s", got)
		}
	})
}
