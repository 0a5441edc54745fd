package copier

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"flowtwin/copier/report"
	"flowtwin/internal/flow"
	"flowtwin/tunnel"
)

// A Target is a responder, and what is copied through it.
type Target struct {
	Maps   []tunnel.Map
	Invite tunnel.Invite
	Server string // host[:port] instead of the invite's addresses, "" none
}

// name returns what the target is called in the log and the report.
func (t *Target) name() string {
	if t.Server != "" {
		return t.Server
	}
	if len(t.Invite.Addrs) > 0 {
		return t.Invite.Addrs[0]
	}
	return "target"
}

// A fleet copies to several targets at once. Each has a copier of its own, with
// its rings, flows, tunnel and books: nothing is shared but the process, so that
// what one target does, or fails to do, another cannot feel.
type fleet struct {
	cfg     Config
	copiers []*copier
	sharing sync.Mutex // one at a time says who records what
}

// each returns the configuration of each target's copier.
func (cfg *Config) each() []Config {
	targets := append([]Target{cfg.Target}, cfg.More...)
	if len(targets) == 1 {
		return []Config{*cfg}
	}
	ready := &countdown{left: len(targets), then: cfg.Ready}
	taken := map[string]int{}
	out := make([]Config, len(targets))
	for i, t := range targets {
		c := *cfg
		c.Target, c.More = t, nil
		c.name = t.name()
		if taken[c.name]++; taken[c.name] > 1 {
			c.name = fmt.Sprintf("%s#%d", c.name, taken[c.name])
		}
		c.Log = cfg.Log.With("target", c.name)
		c.Ready = ready.once()
		if cfg.HeaderFile != "" {
			c.HeaderFile = fmt.Sprintf("%s.%d", cfg.HeaderFile, i+1)
		}
		c.status = make(chan os.Signal, 1)
		c.Status = c.status
		if cfg.Split {
			c.part, c.parts = i, len(targets)
		}
		out[i] = c
	}
	return out
}

// split returns the clients of this target.
func (cfg *Config) split() flow.Choice {
	if cfg.parts < 2 {
		return nil
	}
	return flow.Choice{flow.Split(cfg.part, cfg.parts)}
}

// splitName returns which part that is, as 1/3.
func (cfg *Config) splitName() string {
	if cfg.parts < 2 {
		return ""
	}
	return fmt.Sprintf("%d/%d", cfg.part+1, cfg.parts)
}

// A countdown calls then when as many as left have said so.
type countdown struct {
	mu   sync.Mutex
	left int
	then func()
}

// once returns a function that counts once.
func (c *countdown) once() func() {
	return sync.OnceFunc(func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.left--; c.left == 0 {
			c.then()
		}
	})
}

// run copies to all targets until ctx ends. One that fails is not waited for: the
// others go on, and its error is returned at the end.
func (f *fleet) run(ctx context.Context) error {
	if len(f.copiers) == 1 {
		return f.copiers[0].run(ctx)
	}
	stop := make(chan struct{})
	var signals, all sync.WaitGroup
	signals.Go(func() { f.forward(stop) })
	errs := make([]error, len(f.copiers))
	for i, c := range f.copiers {
		all.Go(func() {
			if err := c.copy(ctx); err != nil {
				errs[i] = fmt.Errorf("target %s: %w", c.cfg.name, err)
				c.cfg.Log.Error("copying to this target has ended", "err", err)
				c.ended.Store(true)
				f.share() // another one records what it has recorded
				c.cfg.Ready()
			}
		})
	}
	all.Wait()
	close(stop)
	signals.Wait()
	return errors.Join(append(errs, f.final())...)
}

// forward passes requests for the status on to all copiers.
func (f *fleet) forward(stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		case sig := <-f.cfg.Status:
			for _, c := range f.copiers {
				select {
				case c.cfg.status <- sig:
				default: // it is about to print one
				}
			}
		}
	}
}

// final prints and writes the last ledgers.
func (f *fleet) final() error {
	var sums []*report.Summary
	for _, c := range f.copiers {
		sums = append(sums, c.finalSummary())
	}
	err := f.cfg.publish(sums, func() []byte { return report.AppendText(nil, sums) })
	if f.cfg.ReportFile != "" {
		err = errors.Join(err, report.WriteFile(f.cfg.ReportFile, sums))
	}
	return err
}
