// Package copier is the online half: it follows clients' connections through
// captured packets and sends what clients sent through the tunnel.
//
// pipeline.go reads in the order in which a packet moves. Per shard one goroutine
// does all of it; see [Run] for the others.
package copier

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"flowtwin/copier/capture"
	"flowtwin/copier/recording"
	"flowtwin/copier/report"
	"flowtwin/internal/ctl"
	"flowtwin/tunnel"
)

// Run copies until ctx ends: then it admits no more flows, lets those that live
// finish for cfg.Drain, and returns nil after the final ledger. It returns an
// error when it cannot start, when the responder refuses it, or when a ring
// fails; what it opened is closed in every case, and all its goroutines have
// ended. A responder that cannot be reached is no error: it is tried again and
// again.
//
// Goroutines, for each target: one for each shard, one that keeps the tunnel, one
// that reports, and one that brings all of it to an end.
func Run(ctx context.Context, cfg Config) (err error) {
	if cfg, err = cfg.populate(); err != nil {
		return err
	}
	if cfg.Replay != nil && cfg.Replay.DryRun {
		return dryRun(ctx, cfg)
	}
	alone := cfg.Record != nil && cfg.Record.Alone
	configs := cfg.each()
	clients := make([]*tunnel.Client, len(configs))
	for i := range configs {
		if alone {
			break
		}
		if clients[i], err = tunnel.NewClient(configs[i].tunnel()); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, clients[i].Close()) }()
	}
	if err := report.CheckFile(cfg.ReportFile); err != nil {
		return err
	}
	// Nothing above has touched the system.
	f := &fleet{cfg: cfg}
	for i := range configs {
		var c *copier
		if c, err = open(configs[i], clients[i]); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, c.close()) }()
		f.copiers = append(f.copiers, c)
	}
	recorder, err := openRecorder(&cfg)
	if err != nil {
		return err
	}
	if recorder != nil {
		defer func() { err = errors.Join(err, recorder.Close()) }()
	}
	f.record(recorder)
	if cfg.Control == "" {
		return f.run(ctx)
	}
	ctx, drain := context.WithCancel(ctx)
	defer drain()
	server, err := ctl.Listen(ctx, cfg.Control, f.table(drain), cfg.Log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Close()) }()
	return f.run(ctx)
}

// open returns the copier of one target.
func open(cfg Config, client *tunnel.Client) (*copier, error) {
	switch {
	case cfg.Replay != nil:
		return openReplay(cfg, client)
	case client == nil:
		return openAlone(cfg)
	}
	return openLive(cfg, client)
}

// openLive returns a copier of live packets for one target.
func openLive(cfg Config, client *tunnel.Client) (*copier, error) {
	set, err := capture.Open(cfg.capture())
	if err != nil {
		return nil, err
	}
	maps := newMapping(cfg.Maps)
	maps.refresh(set.Addrs())
	c := newCopier(cfg, maps, set, client)
	c.close = set.Close
	for i := range cfg.Shards {
		ring, lane := set.Ring(i), client.Lane(i)
		c.add(ring, lane)
		lane.SetWake(ring.Wake)
	}
	c.tellLocked(nil)
	c.tellStart(set.Interfaces())
	return c, nil
}

// A copier is what Run runs.
type copier struct {
	cfg     Config
	maps    *mapping
	set     selector
	tunnel  client
	shards  []*shard
	rings   []stater // of the shards
	started time.Time
	headers *headerFile           // or nil
	told    map[tunnel.Map]secret // of clients; used by one goroutine at a time

	close    func() error  // of its packets' source
	halt     chan struct{} // closed: do not wait for flows that live
	halts    sync.Once
	draining atomic.Bool
	ordered  atomic.Int64 // when the copier was told to end, in the packets' time
	ended    atomic.Bool
	recorder *recording.Recorder
	records  bool            // it is named in this copier's report
	taken    []capture.Match // servers whose packets another copier records; guarded by sampling.mu

	// Of a recording that is replayed, else not set.
	player *player
	flaw   error // of its files

	stall      stall
	refusals   refusals
	unanswered unanswered
	sampling   sampling
	amount     amount       // guarded by sampling.mu
	rates      tunnel.Rates // guarded by sampling.mu
}

func newCopier(cfg Config, maps *mapping, set selector, client client) *copier {
	return &copier{
		cfg: cfg, maps: maps, set: set, tunnel: client, started: time.Now(), halt: make(chan struct{}), told: make(map[tunnel.Map]secret),
		stall: stall{log: cfg.Log}, refusals: refusals{log: cfg.Log}, unanswered: unanswered{log: cfg.Log}, sampling: newSampling(cfg.first()), amount: newAmount(cfg.Copies, cfg.Jitter), rates: cfg.Rates,
	}
}

// add adds a shard. It begins with the orders that it is told.
func (c *copier) add(ring ring, l lane) *shard {
	s := newShard(ring, l, c.maps, c.cfg.Shards, func() time.Duration { return c.tunnel.Stats().ClockOffset })
	s.skip = c.cfg.Midstream == MidstreamSkip
	s.sieve = newSieve(c.cfg.HTTP, c.cfg.HTTPPass, c.cfg.Shards)
	if c.cfg.InjectLoss > 0 {
		s.loses(c.cfg.InjectLoss, uint64(len(c.shards)))
	}
	c.shards = append(c.shards, s)
	c.rings = append(c.rings, ring)
	return s
}

// ring is a shard's source that can say how it does.
type ring interface {
	source
	stater
}

// client is what a copier needs of [tunnel.Client].
type client interface {
	Connect(ctx context.Context) error
	Run(ctx context.Context) error
	Finish(ctx context.Context) error
	SetMaps(ctx context.Context, maps []tunnel.Map) error
	SetRates(ctx context.Context, r tunnel.Rates) (told bool, err error)
	Stats() tunnel.ClientStats
}

// stater is what the report needs of a ring.
type stater interface{ Stats() capture.Stats }

// run copies and prints the ledger.
func (c *copier) run(ctx context.Context) error {
	err := c.copy(ctx)
	if err != nil && c.tunnel.Stats().Connects == 0 {
		return err // it never began: a ledger of nothing would hide the reason
	}
	return errors.Join(err, c.final())
}

// copy starts everything and returns when everything has ended.
func (c *copier) copy(ctx context.Context) (err error) {
	if c.cfg.HeaderFile != "" {
		if err := c.recordHeaders(); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, c.headers.close()) }()
	}
	g, failed := errgroup.WithContext(context.WithoutCancel(ctx))
	side, stop := context.WithCancel(failed) // of what runs beside the shards
	for _, s := range c.shards {
		g.Go(s.run)
	}
	if c.player != nil {
		g.Go(func() error { c.play(side); return nil })
	}
	g.Go(func() error { return c.connect(side) })
	g.Go(func() error { c.report(side); return nil })
	if c.cfg.Ramp > 0 {
		g.Go(func() error { c.ramp(side); return nil })
	}
	g.Go(func() error {
		defer stop()
		select {
		case <-ctx.Done():
			c.drain(failed)
		case <-c.over():
			c.settle(ctx, failed)
		case <-c.useless():
			c.finish(failed)
		case <-failed.Done():
			c.finish(failed)
		}
		c.ask(phaseOver)
		return nil
	})
	err = g.Wait()
	stop()
	return errors.Join(err, c.flaw)
}

// connect keeps the tunnel up. A responder that does not answer now may later;
// one that refuses will not.
func (c *copier) connect(ctx context.Context) error {
	switch err := c.tunnel.Connect(ctx); {
	case ctx.Err() != nil:
		return nil
	case err == nil:
	case refused(err):
		return err
	default:
		meanwhile := "flows that begin now are not copied"
		if c.cfg.Replay != nil {
			meanwhile = "the replay waits for it"
		}
		c.cfg.Log.Warn("responder cannot be reached, trying on", "meanwhile", meanwhile, "err", err)
	}
	c.cfg.Ready()
	return c.tunnel.Run(ctx)
}

// refused reports whether trying again cannot help.
func refused(err error) bool {
	for _, final := range []error{
		tunnel.ErrNoInvite, tunnel.ErrBadInvite, tunnel.ErrExpired, tunnel.ErrFingerprint,
		tunnel.ErrSecret, tunnel.ErrRefused, tunnel.ErrVersion, tunnel.ErrProtocol,
	} {
		if errors.Is(err, final) {
			return true
		}
	}
	return false
}

// order notes that the copier is told to end: what is captured from now on is behind that.
func (c *copier) order() { c.ordered.CompareAndSwap(0, time.Now().UnixNano()) }

// stop has the shards admit no flows that began after the order. Packets of a recording
// bear other times: there it takes effect at once.
func (c *copier) stop() {
	if c.player != nil {
		c.ask(phaseDraining)
		return
	}
	c.order()
	for _, s := range c.shards {
		s.stopAt(c.ordered.Load())
	}
}

func (c *copier) ask(p phase) {
	for _, s := range c.shards {
		s.ask(p)
	}
}

// drain lets the flows that live finish, as long as that may take.
func (c *copier) drain(failed context.Context) {
	c.draining.Store(true)
	c.stop() // first: who reads the line may count on it
	c.cfg.Log.Info("stopping: no new flows, waiting for the live ones", "drain", c.cfg.Drain)
	wait, cancel := context.WithTimeout(failed, c.cfg.Drain)
	defer cancel()
	for _, s := range c.shards {
		select {
		case <-s.quiet:
		case <-wait.Done():
		case <-c.halt:
		}
	}
	c.finish(failed)
}

// finish gives the rest up and fetches the accounts.
func (c *copier) finish(failed context.Context) {
	c.ask(phaseFinishing)
	wait, cancel := context.WithTimeoutCause(context.WithoutCancel(failed), finishWait, errSlow)
	defer cancel()
	for _, s := range c.shards {
		await(wait, s.ended)
	}
	if err := c.tunnel.Finish(wait); err != nil && !errors.Is(err, tunnel.ErrNotConnected) {
		c.cfg.Log.Warn("accounts are missing", "err", err)
	}
}

var errSlow = fmt.Errorf("the responder has not finished within %v", finishWait)

// await waits for a value from c, or for ctx.
func await(ctx context.Context, c <-chan struct{}) {
	select {
	case <-c:
	case <-ctx.Done():
	}
}
