package responder

import (
	"testing"
	"time"

	"flowtwin/tunnel"
	"flowtwin/tunnel/frame"
)

// Over any time no more may be taken than the rate allows, and one burst; and a flow
// of many sessions must not pass for one.
func TestRate(t *testing.T) {
	for name, tt := range map[string]struct {
		per   float64
		each  float64 // taken by a flow
		every time.Duration
		want  float64 // taken in 100 s, within one flow
	}{
		"slower than the rate": {10, 1, 200 * time.Millisecond, 500},
		"faster":               {10, 1, 10 * time.Millisecond, 10*100 + 10},
		"ten sessions each":    {10, 10, 10 * time.Millisecond, 10*100 + 10},
		"less than one":        {0.5, 1, 10 * time.Millisecond, 51},
		"a thousand at once":   {10, 1000, 10 * time.Millisecond, 10*100 + 1000},
	} {
		now := time.Unix(0, 0)
		r := &rate{}
		r.set(tt.per, now)
		taken := 0.0
		for end := now.Add(100 * time.Second); now.Before(end); now = now.Add(tt.every) {
			if r.open(tt.each, now) {
				taken += tt.each
			}
		}
		if taken < tt.want-tt.each-1 || taken > tt.want+tt.each+1 {
			t.Errorf("%s: %v taken, want %v", name, taken, tt.want)
		}
	}
}

func TestRateOfBytesIsPaidBackByNewFlows(t *testing.T) {
	now := time.Unix(0, 0)
	r := &rate{}
	r.set(1000, now)
	r.spend(4000, now) // 3 s ahead
	for i, want := range []bool{false, false, false, false, true} {
		if got := r.open(0, now); got != want {
			t.Errorf("after %d s: %v, want %v", i, got, want)
		}
		now = now.Add(time.Second)
	}
	r.spend(1e9, now)
	if now = now.Add(rateDebt + time.Second); !r.open(0, now) {
		t.Error("one flow keeps the others out for longer than it may")
	}
	r.set(0, now)
	r.spend(1e9, now)
	if !r.open(1e9, now) {
		t.Error("refuses without a limit")
	}
}

// What is over the rate is refused as a whole flow, with its copies, under a name of
// its own.
func TestFlowsOverTheRate(t *testing.T) {
	t.Parallel()
	const copies = 5
	for name, cfg := range map[string]Config{
		"connections": {RateConnections: 0.001},
		"bytes":       {RateBytes: 0.001},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, cfg, newFakeNet(2, target{}))
			for f := range uint32(3) {
				r.openAs(f, frame.Open{Copies: copies})
				r.data(f, 0, "abc")
				r.lane().Fin(f, 0, false)
				r.lane().Flush()
				wait(t, "the frames", func() bool { return r.server.host.received.bytes.Load() == uint64(3*(f+1)) })
			}
			r.wait("the accounts", func() bool { return len(r.closed) == 3 })
			r.wait("the copies' ends", func() bool { return r.copies.Opened == 3*(copies-1) && r.copies.Open == 0 })
			if r.closed[0].How != frame.ClosedBoth || r.copies.Closed[frame.ClosedBoth] != copies-1 {
				t.Errorf("the first flow: %+v, copies %+v", r.closed[0], r.copies)
			}
			for f := uint32(1); f < 3; f++ {
				if c := r.closed[f]; c.How != frame.ClosedRate || c.DroppedBytes != 3 {
					t.Errorf("flow %d: %+v, want it refused for the rate", f, c)
				}
			}
			if r.copies.Closed[frame.ClosedRate] != 2*(copies-1) || r.copies.GivenBytes != 3*(copies-1) {
				t.Errorf("copies %+v", r.copies)
			}
		})
	}
}

// A copier's own rates must hold for all its lanes, beside the responder's: neither
// may let pass what the other refuses, and what one refuses must not be taken from the
// other. Another copier does not feel them.
func TestRatesOfACopier(t *testing.T) {
	now := time.Unix(0, 0)
	h := &host{most: 100}
	h.limits.set(tunnel.Rates{Connections: 3}, now)
	ours, others := &limits{}, &limits{}
	ours.set(tunnel.Rates{Connections: 2}, now)
	lanes := []*lane{{host: h, limits: ours}, {host: h, limits: ours}, {host: h, limits: others}}
	const yes, no = frame.CloseHow(0), frame.ClosedRate
	for i, tt := range []struct {
		lane int
		want frame.CloseHow
	}{{0, yes}, {1, yes}, {0, no}, {1, no}, {2, yes}, {2, no}} {
		if got := lanes[tt.lane].refuses(1); got != tt.want {
			t.Errorf("flow %d: %v, want %v", i, got, tt.want)
		}
	}
	if ours.connections.level < 0 || h.limits.connections.level < 0 {
		t.Errorf("levels %v and %v", ours.connections.level, h.limits.connections.level)
	}
	ours.set(tunnel.Rates{Connections: 50}, now)
	lanes[0].refuses(1)
	if got := ours.connections.level; got < 50 {
		t.Errorf("a flow that the host refused took %v of the copier's", 50-got)
	}
}

// A copier that says its rates later, or again after its tunnel was lost, must find
// them kept, and see them in the status.
func TestRatesAreToldByTheCopier(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{}, newFakeNet(2, target{}))
	flow := uint32(0)
	opens := func(want frame.CloseHow) {
		t.Helper()
		f := flow
		flow++
		r.open(f)
		r.data(f, 0, "abc")
		r.lane().Fin(f, 0, false)
		r.lane().Flush()
		r.wait("the account", func() bool { _, ok := r.closed[f]; return ok })
		if got := r.closed[f].How; got != want {
			t.Errorf("flow %d: %v, want %v", f, got, want)
		}
	}
	opens(frame.ClosedBoth)
	if _, err := r.client.SetRates(t.Context(), tunnel.Rates{Connections: 0.001}); err != nil {
		t.Fatal(err)
	}
	opens(frame.ClosedBoth)
	opens(frame.ClosedRate)
	if c := r.server.state(t.Context()).Connected; len(c) != 1 || c[0].RateConnections != 0.001 || c[0].RateBytes != 0 {
		t.Errorf("status: %+v", c)
	}
	if _, err := r.client.SetRates(t.Context(), tunnel.Rates{Bytes: 0.001}); err != nil {
		t.Fatal(err)
	}
	opens(frame.ClosedBoth)
	opens(frame.ClosedRate)

	epoch := r.lane().Epoch()
	r.server.mu.Lock()
	for p := range r.server.peers {
		_ = p.Close("test")
	}
	r.server.mu.Unlock()
	wait(t, "another connection", func() bool { return r.lane().Epoch() > epoch && r.lane().Up() })
	opens(frame.ClosedBoth)
	opens(frame.ClosedRate)
}

// Whoever changes one rate must not forgive what is owed to the other.
func TestChangingOneRateKeepsTheOthersDebt(t *testing.T) {
	now := time.Unix(0, 0)
	l := &limits{}
	l.set(tunnel.Rates{Bytes: 1000}, now)
	l.bytes.spend(3000, now)
	l.set(tunnel.Rates{Bytes: 1000, Connections: 5}, now)
	if l.open(1, now) {
		t.Error("what was owed is forgotten")
	}
	l.set(tunnel.Rates{Connections: 5}, now)
	if !l.open(1, now) {
		t.Error("a rate that is off still refuses")
	}
}
