package responder

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"flowtwin/tunnel"
	"flowtwin/tunnel/frame"
)

// The whole way: real QUIC, several shards, a target that answers each write.
func TestFlowsThroughTheTunnel(t *testing.T) {
	const flows, turns = 60, 5
	r := newRig(t, Config{Shards: 3}, newFakeNet(3, target{answer: 10}))
	want := make(map[uint32]string)
	for turn := range turns {
		for f := range uint32(flows) {
			if turn == 0 {
				r.open(f)
			}
			p := fmt.Sprintf("turn %d of %d;", turn, f)
			want[f] += p
			r.data(f, uint64(10*turn), p)
		}
		r.lane().Flush()
	}
	for f := range uint32(flows) {
		r.lane().Fin(f, 10*turns, false) // having read the last answer
	}
	r.lane().Flush()
	r.wait("the accounts", func() bool { return len(r.closed) == flows })
	for f := range uint32(flows) {
		if got := r.net.received(client(f)); got != want[f] {
			t.Errorf("flow %d: target got %q, want %q", f, got, want[f])
		}
		c := r.closed[f]
		if c.How != frame.ClosedBoth || c.DeliveredBytes != uint64(len(want[f])) || c.DeliveredSegments != turns ||
			c.DroppedBytes+c.DroppedSegments != 0 || c.Turns != turns || c.AnswerBytes != 10*turns || c.HeadersReturned == 0 {
			t.Errorf("flow %d: account %+v", f, c)
		}
	}
	if r.estab != flows {
		t.Errorf("%d established, want %d", r.estab, flows)
	}
	// The numbers are free again.
	r.open(0)
	r.lane().Fin(0, 0, false)
	delete(r.closed, 0)
	r.heads[0] = 0
	r.lane().Flush()
	r.wait("the account of the flow that has the number now", func() bool { return len(r.closed) == flows })

	r.read()
	done := make(chan error, 1)
	go func() { done <- r.client.Finish(t.Context()) }()
	r.wait("the lane's end", func() bool { return r.said })
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// When nothing ever comes about, the operator must read what to look at, once.
func TestSilentTargetIsNamed(t *testing.T) {
	const flows = 30
	for name, tt := range map[string]struct {
		target target
		want   int
	}{
		"silent":  {target{absent: true}, 1},
		"refuses": {target{refuse: true}, 0},
		"answers": {target{}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			var out lines
			r := newRig(t, Config{Log: slog.New(slog.NewTextHandler(&out, nil))}, newFakeNet(2, tt.target))
			for f := range uint32(flows) {
				r.open(f)
				r.lane().Fin(f, 0, false)
			}
			r.lane().Flush()
			r.wait("the accounts", func() bool { return len(r.closed) == flows })
			if got := out.count("firewall"); got != tt.want {
				t.Errorf("%d lines of it, want %d:\n%s", got, tt.want, &out)
			}
		})
	}
}

// lines is a log that can be read while it is written.
type lines struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *lines) count(s string) int { return strings.Count(l.String(), s) }

// A flow must reach the target of its own map, whatever the order of the maps.
func TestEachMapHasItsTarget(t *testing.T) {
	targets := []string{"127.0.0.3:9", "127.0.0.1:2", "127.0.0.3:9", "127.0.0.2:1", "127.0.0.1:1", "127.0.0.1:2"}
	n := newFakeNet(2, target{})
	r := newRig(t, Config{}, n, targets...)
	for i := range targets {
		r.openMap(uint32(i), uint16(i))
		r.lane().Fin(uint32(i), 0, false)
	}
	r.lane().Flush()
	r.wait("the accounts", func() bool { return len(r.closed) == len(targets) })
	for i, want := range targets {
		if got := n.dialledTo(client(uint32(i))); got.String() != want {
			t.Errorf("flow of map %d went to %s, want %s", i, got, want)
		}
	}
}

func TestSessionsThatDoNotComeAbout(t *testing.T) {
	tests := []struct {
		name string
		cfg  Config
		net  func() *fakeNet
		how  frame.CloseHow
	}{
		{"refused", Config{}, func() *fakeNet { return newFakeNet(2, target{refuse: true}) }, frame.ClosedRefused},
		{"no tuple", Config{}, func() *fakeNet {
			n := newFakeNet(2, target{})
			n.exhausted = true
			return n
		}, frame.ClosedNoTuple},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, tt.cfg, tt.net())
			for f := range uint32(4) {
				r.open(f)
				r.data(f, 0, "abc")
				r.lane().Fin(f, 0, false)
			}
			r.lane().Flush()
			r.wait("the accounts", func() bool { return len(r.closed) == 4 })
			for f, c := range r.closed {
				if c.How != tt.how || c.DroppedBytes != 3 || c.DroppedSegments != 1 || c.DeliveredBytes != 0 {
					t.Errorf("flow %d: account %+v, want %s", f, c, tt.how)
				}
			}
			// Else a copier that goes by it would wait for ever.
			r.wait("all to be done with", func() bool { return r.moved == frame.Moved{Segments: 4, Bytes: 12} })
		})
	}
}

// One session too many is refused as a whole, and a place that is free again is
// given to the next.
func TestSessionLimit(t *testing.T) {
	r := newRig(t, Config{Sessions: 2}, newFakeNet(1, target{}))
	for f := range uint32(3) {
		r.open(f)
		r.data(f, 0, "abc")
	}
	r.lane().Fin(2, 0, false)
	r.lane().Flush()
	r.wait("the refusal", func() bool { return r.closed[2].How == frame.ClosedRejected })
	r.lane().Fin(0, 0, false)
	r.lane().Flush()
	r.wait("a free place", func() bool { return r.closed[0].How == frame.ClosedBoth })
	r.open(5)
	r.lane().Fin(5, 0, false)
	r.lane().Flush()
	r.wait("the next session", func() bool { return r.closed[5].How == frame.ClosedBoth })
}

// A stop must not leave a session without account, nor wait for one that lasts.
func TestDrain(t *testing.T) {
	r := newRig(t, Config{Drain: 10 * time.Millisecond, Shards: 2}, newFakeNet(2, target{silent: true}))
	for f := range uint32(10) {
		r.open(f)
		r.data(f, 0, "abc")
	}
	r.lane().Flush()
	r.wait("the sessions", func() bool { return r.estab == 10 })
	for f := range uint32(10) {
		wait(t, "delivery", func() bool { return r.net.received(client(f)) == "abc" })
	}
	r.stop()
	r.wait("the accounts", func() bool { return len(r.closed) == 10 })
	<-r.ended
	for f, c := range r.closed {
		if c.How != frame.ClosedDrain || c.DeliveredBytes+c.DroppedBytes != 3 {
			t.Errorf("flow %d: account %+v", f, c)
		}
	}
	if s := r.server.summary(); s.Opened != 10 || s.Closed[frame.ClosedDrain] != 10 || s.Open != 0 {
		t.Errorf("summary %+v", s)
	}
	if !strings.Contains(r.out.String(), "10 drain") {
		t.Errorf("summary says\n%s", &r.out)
	}
}

// Bye is a copier's last word: sessions whose end it did not tell must not hold
// back the lane's.
func TestByeEndsWhatIsOpen(t *testing.T) {
	r := newRig(t, Config{}, newFakeNet(2, target{}))
	for f := range uint32(4) {
		r.open(f)
		r.data(f, 0, "abc")
	}
	r.lane().Flush()
	done := make(chan error, 1)
	go func() { done <- r.client.Finish(t.Context()) }()
	r.wait("the lane's end", func() bool { return r.said })
	if r.moved != (frame.Moved{Segments: 4, Bytes: 12}) {
		t.Errorf("moved %+v, want 4 segments of 3 bytes", r.moved)
	}
	if err := <-done; err != nil || len(r.closed) != 4 {
		t.Errorf("finish: %v, %d accounts", err, len(r.closed))
	}
	for f, c := range r.closed {
		if c.How != frame.ClosedAborted || c.DeliveredBytes != 3 {
			t.Errorf("flow %d: account %+v", f, c)
		}
	}
}

// A copier that comes while the sessions finish must learn that it is too late.
func TestCopierDuringTheDrain(t *testing.T) {
	r := newRig(t, Config{Drain: 10 * time.Second}, newFakeNet(1, target{silent: true}))
	r.open(0)
	r.lane().Flush()
	r.wait("the session", func() bool { return r.estab == 1 })
	r.stop()
	wait(t, "the drain", r.server.host.draining.Load)
	c := r.copier()
	if err := c.Connect(t.Context()); err != nil && !strings.Contains(err.Error(), stopping) {
		t.Errorf("connect: %v", err)
	}
	wait(t, "the late copier's being told", func() bool {
		s := c.Stats() // down comes an instant before the reason
		return !s.Up && strings.Contains(s.LastError, stopping)
	})
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	r.lane().Reset(0, 0)
	r.lane().Flush()
	<-r.ended
}

// A copier that is gone takes its sessions with it.
func TestSessionsEndWithTheConnection(t *testing.T) {
	r := newRig(t, Config{}, newFakeNet(2, target{}))
	for f := range uint32(5) {
		r.open(f)
		r.data(f, 0, "abc")
	}
	r.lane().Flush()
	r.wait("the sessions", func() bool { return r.estab == 5 })
	if err := r.client.Close(); err != nil {
		t.Fatal(err)
	}
	wait(t, "the end of the sessions", func() bool { return r.server.host.open.Load() == 0 })
	wait(t, "the end of the peer", func() bool { return r.server.summary().Copiers == 0 })
}

// A copier that comes back while the responder starts again must not be refused
// for good, nor wait for one that does not come up.
func TestCopierWaitsForTheStart(t *testing.T) {
	hello := tunnel.Hello{Maps: maps(nil)}
	for name, tt := range map[string]struct {
		happens func(c *targetCheck)
		ok      bool
	}{
		"starts":  {func(c *targetCheck) { c.begin(newFakeNet(1, target{})) }, true},
		"fails":   {func(c *targetCheck) { c.end() }, false},
		"neither": {func(*targetCheck) { <-time.After(startWait) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newTargetCheck()
				got := make(chan error, 1)
				go func() { got <- c.accept(hello, nil) }()
				synctest.Wait()
				if len(got) > 0 {
					t.Fatalf("decided before: %v", <-got)
				}
				tt.happens(c)
				if err := <-got; (err == nil) != tt.ok || !tt.ok && !errors.Is(err, tunnel.ErrNotNow) {
					t.Errorf("accept: %v", err)
				}
			})
		})
	}
}

// A copier that comes back while the responder stops is told so, not what is wrong
// with a device that is being removed.
func TestCopierMeetsTheStop(t *testing.T) {
	c := newTargetCheck()
	c.begin(newFakeNet(1, target{}))
	c.end()
	c.end()
	if err := c.accept(tunnel.Hello{Maps: maps(nil)}, nil); !errors.Is(err, tunnel.ErrNotNow) {
		t.Errorf("accept: %v", err)
	}
}
