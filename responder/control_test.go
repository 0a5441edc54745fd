package responder

import (
	"encoding/json"
	"strings"
	"testing"

	"flowtwin/tunnel/frame"
)

// do has an operation done.
func (r *rig) do(op string, args ...string) any {
	r.t.Helper()
	got, err := r.server.table(r.stop)[op].Do(r.t.Context(), args)
	if err != nil {
		r.t.Errorf("%s %v: %v", op, args, err)
	}
	return got
}

// flow has a flow come and go, and returns how its session ended.
func (r *rig) flow(f uint32) frame.CloseHow {
	r.t.Helper()
	r.openAs(f, frame.Open{Copies: 3})
	r.data(f, 0, "abc")
	r.lane().Fin(f, 0, false)
	r.lane().Flush()
	r.wait("the account", func() bool { return r.closed[f].How != 0 })
	return r.closed[f].How
}

// What is told must hold for the flows that begin then, and leave the others alone.
func TestPauseAndRates(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{}, newFakeNet(2, target{}))
	r.open(0)
	r.data(0, 0, "abc")
	r.lane().Flush()
	r.wait("a session", func() bool { return r.estab == 1 })

	r.do("pause")
	if how := r.flow(1); how != frame.ClosedPaused {
		t.Errorf("while paused: %s", how)
	}
	r.data(0, 0, "def")
	r.lane().Fin(0, 0, false)
	r.lane().Flush()
	r.wait("the session that was open", func() bool { return r.closed[0].How == frame.ClosedBoth })
	r.do("resume")
	if how := r.flow(2); how != frame.ClosedBoth {
		t.Errorf("resumed: %s", how)
	}
	r.do("rate", "connections", "0.001")
	if first, second := r.flow(3), r.flow(4); first != frame.ClosedBoth || second != frame.ClosedRate {
		t.Errorf("over the rate: %s, %s", first, second)
	}
	r.do("rate", "connections", "off")
	if how := r.flow(5); how != frame.ClosedBoth {
		t.Errorf("without a rate: %s", how)
	}
	r.wait("the copies", func() bool { return r.copies.Opened == 10 && r.copies.Open == 0 })
	if c := r.copies.Closed; c[frame.ClosedPaused] != 2 || c[frame.ClosedRate] != 2 || c[frame.ClosedBoth] != 6 {
		t.Errorf("copies closed %v", c)
	}
	for _, args := range [][]string{{"flows", "1"}, {"bytes", "much"}, {"bytes", "-1"}} {
		if _, err := r.server.limit(args[0], args[1]); err == nil {
			t.Errorf("rate %v is taken", args)
		}
	}
}

// After the kill switch nothing may be left, nothing may begin, and every byte must
// be accounted for.
func TestKillSwitch(t *testing.T) {
	t.Parallel()
	const flows, copies = 10, 5
	r := newRig(t, Config{Shards: 2}, newFakeNet(2, target{silent: true}))
	for f := range uint32(flows) {
		r.openAs(f, frame.Open{Copies: copies, Jitter: 1000 * (f % 2)})
		r.data(f, 0, "abc")
	}
	r.lane().Flush()
	r.wait("the sessions", func() bool { return r.estab == flows })
	r.do("stop")
	if n := r.server.host.open.Load(); n != 0 {
		t.Errorf("%d sessions are left", n)
	}
	r.wait("the accounts", func() bool { return len(r.closed) == flows })
	for f, c := range r.closed {
		if c.How != frame.ClosedPaused || c.DeliveredBytes+c.DroppedBytes != 3 {
			t.Errorf("flow %d: %+v", f, c)
		}
	}
	if how := r.flow(50); how != frame.ClosedPaused {
		t.Errorf("a flow after it: %s", how)
	}
	if n := r.closed[50].DroppedBytes; n != 3 {
		t.Errorf("%d of its 3 bytes have the stop for a reason, the others came behind its account", n)
	}
	r.wait("the copies", func() bool { return r.copies.Opened == flows*(copies-1)+2 && r.copies.Open == 0 })
	if n := r.copies.Closed[frame.ClosedPaused]; n != r.copies.Opened {
		t.Errorf("%d of %d copies are cut", n, r.copies.Opened)
	}
	r.do("resume")
	r.open(60)
	r.lane().Reset(60, 0)
	r.lane().Flush()
	r.wait("a flow after resume", func() bool { return r.closed[60].How == frame.ClosedClientReset })
}

// Who asks must find each copier with its own figures.
func TestStateNamesCopiers(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{RateBytes: 1e6}, newFakeNet(1, target{}))
	r.flow(0)
	var s *Status
	r.wait("the figures", func() bool {
		s = r.do("status").(*Status)
		return len(s.Connected) == 1 && s.Connected[0].Copies.GivenBytes == 6 && s.Connected[0].Copies.Open == 0
	})
	if c := s.Connected[0]; c.Name != "test" || c.Remote == "" || s.Paused || s.RateBytes != 1e6 {
		t.Errorf("status %+v", s)
	}
	b, err := json.Marshal(s)
	if err != nil || !strings.Contains(string(b), `"name":"test"`) || !strings.Contains(string(b), `"both":2`) {
		t.Errorf("status is written as %s, %v", b, err)
	}
}

// Draining is what a signal does.
func TestDrainByOrder(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{}, newFakeNet(1, target{}))
	r.do("drain")
	<-r.ended
}

// Of a flow that was admitted before the kill switch and begins behind it, copies that
// are late must not begin when flows are taken again: its own session is over, and the
// client's end would never reach them.
func TestKillSwitchTakesLateCopies(t *testing.T) {
	t.Parallel()
	const copies = 5
	r := newRig(t, Config{Shards: 2}, newFakeNet(2, target{}))
	r.server.host.stopped.Store(true) // and paused, but the reader has looked before
	r.openAs(0, frame.Open{Copies: copies, Jitter: 3_600_000})
	r.data(0, 0, "abc")
	r.lane().Flush()
	r.wait("the account", func() bool { return len(r.closed) == 1 })
	r.do("resume")
	fin(r)
	r.wait("the copies", func() bool { return r.copies.Opened == copies-1 && r.copies.Open == 0 })
	if n := r.copies.Closed[frame.ClosedPaused]; n != copies-1 || r.server.host.open.Load() != 0 {
		t.Errorf("copies %+v, %d sessions are left", r.copies, r.server.host.open.Load())
	}
}

// Who asks for the status gets it as it is, not as it was up to a second ago: sessions
// that are there, but were never opened, do not add up.
func TestStatusIsOfNow(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{}, newFakeNet(2, target{}))
	for f := range uint32(5) {
		how := r.flow(f)
		n := uint64(f + 1)
		s, ok := r.do("status").(*Status)
		if !ok || s.Opened != n || s.Established != n || s.Closed[how] != n ||
			s.Delivered+s.DroppedBytes != 3*n || s.Connected[0].Delivered != s.Delivered {
			t.Fatalf("after %d sessions with 3 bytes each: %+v, of the copier %+v", n, s.Book, s.Connected)
		}
	}
}
