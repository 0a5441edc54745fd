package responder

import (
	"testing"
	"time"

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

func TestParseRate(t *testing.T) {
	for text, want := range map[string]float64{
		"500": 500, "0.5/s": 0.5, "10M": 10e6, "10MB/s": 10e6, "64KiB/s": 64 << 10, "1k": 1000, "2G": 2e9, "3Gi/s": 3 << 30,
		"": 0, "0": 0, "-1": 0, "NaN": 0, "inf": 0, "10 M": 0, "M": 0, "1e300": 0, "10/m": 0,
	} {
		if got, err := ParseRate(text); got != want || (err == nil) != (want > 0) {
			t.Errorf("%q: %v, %v; want %v", text, got, err, want)
		}
	}
}
