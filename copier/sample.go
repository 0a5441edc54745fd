package copier

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"flowtwin/copier/capture"
	"flowtwin/internal/flow"
)

// rampSteps is in how many steps --ramp raises the percentage, at least rampLeast
// apart: each gives the rings another filter.
const (
	rampSteps = 100
	rampLeast = 100 * time.Millisecond
)

// selector is what a copier needs of [capture.Set].
type selector interface {
	Addrs() []netip.Addr
	Select(matches []capture.Match, choice flow.Choice) error
}

// A sampling is which part of the clients' connections is copied. It is decided in
// the kernel's filter, so that others cost nothing, and by the shards again.
//
// When the part grows, connections that began before are not adopted: the shards
// adopt only what has been chosen from the start. When it shrinks, those that are
// copied go on: shards refuse new ones at once, and the filter follows when no
// connection needs it to be wider any more.
type sampling struct {
	mu     sync.Mutex
	now    flow.Share // of new connections
	always flow.Share // the smallest so far
	filter flow.Share // what the filter takes
	manual bool       // somebody has set it: the ramp is over
	paused bool
}

func newSampling(percent float64) sampling {
	s := flow.Sampled(percent)
	return sampling{now: s, always: s, filter: s}
}

// choice returns which connections are copied to this target when those in s are
// copied at all; a share that takes everything is left out.
func (cfg *Config) choice(s flow.Share) flow.Choice {
	c := cfg.split()
	if s != flow.Sampled(100) {
		c = append(c, s)
	}
	return c
}

// sampleLocked copies percent of the connections that begin from now on.
func (c *copier) sampleLocked(percent float64) error {
	s := &c.sampling
	s.now = flow.Sampled(percent)
	s.always.To = min(s.always.To, s.now.To)
	// The shards first: what the filter lets pass is admitted.
	c.tellLocked(nil)
	if s.now.To <= s.filter.To {
		return nil
	}
	return c.filterLocked(s.now)
}

// sampled returns the percentage that is copied now.
func (c *copier) sampled() float64 {
	c.sampling.mu.Lock()
	defer c.sampling.mu.Unlock()
	return c.sampling.now.Percent()
}

// tellLocked gives the shards their orders; need gets an answer of each.
func (c *copier) tellLocked(need chan<- uint64) {
	for _, s := range c.shards {
		s.tell(&orders{
			admit: c.cfg.choice(c.sampling.now), adopt: c.cfg.choice(c.sampling.always), need: need, amount: c.amount,
			paused: c.sampling.paused, maps: c.maps.list.Load(), taken: c.taken,
		})
	}
}

// filterLocked gives the rings a filter that takes s.
func (c *copier) filterLocked(s flow.Share) error {
	if err := c.set.Select(matches(c.maps.list.Load().present()), c.cfg.choice(s)); err != nil {
		return err
	}
	c.sampling.filter = s
	return nil
}

// narrow makes the filter take no more than is needed.
func (c *copier) narrow(ctx context.Context) {
	s := &c.sampling
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.filter.To <= s.now.To {
		return
	}
	need := make(chan uint64, len(c.shards))
	c.tellLocked(need)
	least := s.now
	for range c.shards {
		select {
		case to := <-need:
			least.To = max(least.To, to)
		case <-time.After(localEvery): // its ring has failed, or it is over
			return
		case <-ctx.Done():
			return
		}
	}
	if least.To >= s.filter.To {
		return
	}
	if err := c.filterLocked(least); err != nil {
		c.cfg.Log.Warn("the filter takes more than is needed", "err", err)
	}
}

// ramp raises the percentage from 0 to the configured one.
func (c *copier) ramp(ctx context.Context) {
	began := time.Now()
	step := time.NewTicker(max(c.cfg.Ramp/rampSteps, rampLeast))
	defer step.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-step.C:
		}
		part := min(float64(time.Since(began))/float64(c.cfg.Ramp), 1)
		if over := c.rampTo(c.cfg.Sample * part); over || part == 1 {
			return
		}
	}
}

// rampTo sets the percentage unless somebody has, in which case the ramp is over.
func (c *copier) rampTo(percent float64) (over bool) {
	c.sampling.mu.Lock()
	defer c.sampling.mu.Unlock()
	if c.sampling.manual {
		return true
	}
	if err := c.sampleLocked(percent); err != nil {
		c.cfg.Log.Warn("the sample does not grow", "err", err)
	}
	return false
}
