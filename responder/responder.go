package responder

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"time"

	"flowtwin/internal/ctl"
	"flowtwin/netstack"
	"flowtwin/tunnel"
)

// Run serves copiers until ctx ends, which is success; then it lets the sessions
// finish for cfg.Drain and undoes what it changed on the host.
func Run(ctx context.Context, cfg Config) (err error) {
	cfg, err = cfg.populate()
	if err != nil {
		return err
	}
	if err := checkFirst(&cfg); err != nil {
		return err
	}
	id, fellBack, err := loadIdentity(cfg.StateDir)
	if err != nil {
		return err
	}
	if fellBack != "" {
		cfg.Log.Warn("state folder cannot be used, taking the home folder's", "dir", DefaultStateDir, "instead", fellBack)
	}
	var expires time.Time
	if cfg.InviteTTL > 0 {
		expires = time.Now().Add(cfg.InviteTTL)
	}

	// Nothing above changes the host, but for the key that is made once.
	check := newTargetCheck()
	srv, err := tunnel.Listen(tunnel.ServerConfig{
		Addr: cfg.Listen, Identity: id, Log: cfg.Log,
		Accept: func(h tunnel.Hello) error { return check.accept(h, cfg.Allow) },
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, srv.Close()) }()
	defer check.end()         // Close waits for those that wait for it
	hosts, err := hostAddrs() // before the device adds one
	if err != nil {
		return err
	}
	addrs, err := advertised(&cfg, srv.Addr(), hosts, routed())
	if err != nil {
		return err
	}
	stackNet, err := openNet(&cfg)
	if err != nil {
		return err
	}
	defer func() {
		check.end()
		err = errors.Join(err, stackNet.Close())
	}()
	r := newServer(cfg, realNet{stackNet})

	ctx, quit := context.WithCancel(ctx)
	defer quit()
	defer func() { err = errors.Join(err, r.deafen()) }()
	if err := r.listen(ctx, quit); err != nil {
		return err
	}
	if cfg.InviteFile != "" {
		if err := writeInvite(cfg.InviteFile, id.Invite(addrs, expires)); err != nil {
			return err
		}
	} else {
		cfg.Log.Info("no invite is written (--invite-file): copiers need one that was written before")
	}
	cfg.Log.Info("listening", "addr", srv.Addr().String(), "advertise", addrs, "iface", r.net.Name(),
		"invite_file", cfg.InviteFile, "shards", cfg.Shards, "version", cfg.Version)
	check.begin(r.net)
	cfg.Ready()
	ctx, lost := untilLost(ctx, stackNet.Failed())
	defer func() { err = errors.Join(err, lost()) }()
	return r.serve(ctx, func(ctx context.Context) (peer, error) {
		p, err := srv.Accept(ctx)
		if err != nil {
			return nil, err
		}
		return &realPeer{p, func(maps []tunnel.Map) error { return check.accept(tunnel.Hello{Maps: maps}, cfg.Allow) }}, nil
	})
}

// checkFirst is what can be known before anything is touched.
func checkFirst(cfg *Config) error {
	local, err := localAddrs()
	if err != nil {
		return err
	}
	if err := checkRules(cfg.Allow, local); err != nil {
		return err
	}
	if err := checkReport(cfg.ReportFile); err != nil {
		return err
	}
	if err := checkInvite(cfg.InviteFile); err != nil {
		return err
	}
	return checkPrivilege()
}

// checkRules refuses rules that can never allow anything: a typing error is better
// found now than when the first copier is refused.
func checkRules(rules []Rule, local []netip.Addr) error {
	for _, r := range rules {
		if !r.Prefix.IsSingleIP() {
			continue
		}
		port := max(r.Port, 1)
		if err := allowed(netip.AddrPortFrom(r.Prefix.Addr(), port), nil, local); err != nil {
			return fmt.Errorf("--allow %s: %w", r, err)
		}
	}
	return nil
}

// openNet opens the network. With original addresses it finds out now whether the
// targets that are known by --allow can see them; others are checked when a copier
// names them.
func openNet(cfg *Config) (*netstack.Net, error) {
	n, err := netstack.Open(netstack.Config{
		Pool: cfg.Pool, Shards: cfg.Shards, Loopback: loopback(cfg.Allow), Log: cfg.Log,
		Original: cfg.Original, Force: cfg.Force, Line: cfg.Line,
	})
	if err != nil || !cfg.Original {
		return n, err
	}
	for _, r := range cfg.Allow {
		if !r.Prefix.IsSingleIP() || r.Port == 0 {
			continue
		}
		if err := n.CheckTarget(netip.AddrPortFrom(r.Prefix.Addr(), r.Port)); err != nil {
			return nil, errors.Join(fmt.Errorf("--allow %s: %w", r, err), n.Close())
		}
	}
	return n, nil
}

// A peer is what the responder needs of tunnel.Peer.
type peer interface {
	Hello() tunnel.Hello
	Lane(i int) laneIO
	Context() context.Context
	Close(reason string) error
	HandleMaps(f func([]tunnel.Map) error)
	HandleRates(f func(tunnel.Rates))
}

type realPeer struct {
	*tunnel.Peer
	accept func([]tunnel.Map) error // whether the targets are allowed; nil: all are
}

// HandleMaps asks f only about targets that are allowed.
func (p realPeer) HandleMaps(f func([]tunnel.Map) error) {
	if f == nil || p.accept == nil {
		p.Peer.HandleMaps(f)
		return
	}
	p.Peer.HandleMaps(func(maps []tunnel.Map) error {
		if err := p.accept(maps); err != nil {
			return err
		}
		return f(maps)
	})
}

func (p realPeer) Lane(i int) laneIO { return p.Peer.Lane(i) }

// A server runs workers and peers on a network.
type server struct {
	cfg     Config
	log     *slog.Logger
	net     network
	host    *host
	stop    chan struct{} // ends the workers
	workers sync.WaitGroup
	control *ctl.Server // nil: none

	mu    sync.Mutex
	peers map[peer]*attached
	left  sync.WaitGroup // of peers
}

// attached is a copier that is connected.
type attached struct {
	since  time.Time
	lanes  []*lane
	limits limits // that it has set itself
}

// newServer starts the workers.
func newServer(cfg Config, n network) *server {
	r := &server{
		cfg: cfg, log: cfg.Log, net: n, stop: make(chan struct{}), peers: make(map[peer]*attached),
		host: &host{
			net: n, most: int64(cfg.Sessions), clientRTT: cfg.Line.Leased,
			watches: watches{log: cfg.Log, iface: n.Name()},
		},
	}
	r.host.limits.set(tunnel.Rates{Connections: cfg.RateConnections, Bytes: cfg.RateBytes}, time.Now())
	for i := range n.Shards() {
		w := newWorker(i, n.Stack(i), cfg.replay(), &r.host.open)
		r.host.workers = append(r.host.workers, w)
		r.workers.Go(func() { w.run(r.stop) })
	}
	return r
}

// serve takes copiers until ctx ends, then drains. All its goroutines, and the
// workers, have ended when it returns.
func (r *server) serve(ctx context.Context, accept func(context.Context) (peer, error)) error {
	statusCtx, stopStatus := context.WithCancel(context.WithoutCancel(ctx))
	var status sync.WaitGroup
	status.Go(func() { r.status(statusCtx) })
	var err error
	for {
		var p peer
		if p, err = accept(ctx); err != nil {
			break
		}
		r.begin(p)
	}
	if ctx.Err() != nil {
		err = nil
	}
	ctx, stopTurning := context.WithCancel(context.WithoutCancel(ctx))
	var turning sync.WaitGroup
	turning.Go(func() { turnAway(ctx, accept) })
	r.drain(ctx)
	r.left.Wait()
	stopTurning()
	turning.Wait()
	stopStatus()
	status.Wait()
	err = errors.Join(err, r.deafen()) // operations need the workers
	close(r.stop)
	r.workers.Wait()
	return errors.Join(err, r.report())
}

// turnAway parts with copiers that still come, so that they know, until ctx ends.
func turnAway(ctx context.Context, accept func(context.Context) (peer, error)) {
	for {
		p, err := accept(ctx)
		if err != nil {
			return
		}
		_ = p.Close(stopping) // it says only that it is closed already
	}
}

// stopping tells copiers why they are disconnected.
const stopping = "responder stops"

// drain lets the sessions finish, ends those that do not, sees to it that their
// accounts are returned, and parts with the copiers.
func (r *server) drain(ctx context.Context) {
	r.host.draining.Store(true)
	r.log.Info("stopping", "sessions", r.host.open.Load(), "drain", r.cfg.Drain)
	r.waitIdle(r.cfg.Drain)
	for _, w := range r.host.workers {
		b := r.host.newBatch(nil)
		b.what, b.done = whatDrain, make(chan struct{})
		done := b.done
		w.batches <- b
		<-done
	}
	r.mu.Lock()
	var peers []peer
	for p := range r.peers {
		peers = append(peers, p)
	}
	r.mu.Unlock()
	if len(peers) == 0 {
		return
	}
	// What is queued for the copiers is written within milliseconds.
	ctx, cancel := context.WithTimeout(ctx, farewell)
	defer cancel()
	for _, p := range peers {
		select {
		case <-p.Context().Done():
		case <-ctx.Done():
		}
	}
	for _, p := range peers {
		_ = p.Close(stopping) // it says only that it is closed already
	}
}

// waitIdle waits until no session is left, at most for d.
func (r *server) waitIdle(d time.Duration) {
	deadline := time.NewTimer(d)
	defer deadline.Stop()
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	for r.host.open.Load() > 0 {
		select {
		case <-deadline.C:
			return
		case <-poll.C:
		}
	}
}

// status logs how things stand, now and then and when asked. Beside that it looks
// after the memory.
func (r *server) status(ctx context.Context) {
	tick := time.NewTicker(statusEvery)
	defer tick.Stop()
	trim := time.NewTicker(trimTick)
	defer trim.Stop()
	trimmer := newTrimmer()
	for {
		select {
		case <-ctx.Done():
			return
		case <-trim.C:
			trimmer.tick()
			continue
		case <-tick.C:
		case <-r.cfg.Status:
		}
		s := r.current(ctx)
		r.log.Info("status", s.attrs()...)
	}
}

// summary adds the workers' counters up.
func (r *server) summary() Summary {
	h := r.host
	s := Summary{
		Open: h.open.Load(), Net: r.net.Stats(),
		Received: h.received.bytes.Load(), ReceivedSegments: h.received.segments.Load(),
		Strays: h.stray.frames.Load(), StrayBytes: h.stray.bytes.Load(), StraySegments: h.stray.segments.Load(),
	}
	r.mu.Lock()
	s.Copiers = len(r.peers)
	r.mu.Unlock()
	for _, w := range r.host.workers {
		w.mu.Lock()
		s.add(&w.published)
		w.mu.Unlock()
	}
	return s
}

// checkReport makes sure that the report can be written in the end.
func checkReport(file string) error {
	if file == "" {
		return nil
	}
	f, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY, 0o644)
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		return fmt.Errorf("report file: %w", err)
	}
	return nil
}

// report prints the final summary, and writes it to the report file.
func (r *server) report() error {
	s := r.summary()
	if s.Sums = s.check(); len(s.Sums) > 0 {
		r.log.Error("the sums do not add up", "sums", s.Sums)
	}
	r.log.Info("stopped", "opened", s.Opened, "sums_ok", len(s.Sums) == 0) // the rest is in the summary
	var err error
	if r.cfg.Out == nil {
		r.log.Info("ledger", "ledger", s)
	} else {
		err = s.write(r.cfg.Out)
	}
	if r.cfg.ReportFile == "" {
		return err
	}
	b, jsonErr := json.MarshalIndent(&s, "", "  ")
	if jsonErr == nil {
		jsonErr = os.WriteFile(r.cfg.ReportFile, append(b, '\n'), 0o644)
	}
	if jsonErr != nil {
		jsonErr = fmt.Errorf("report file: %w", jsonErr)
	}
	return errors.Join(err, jsonErr)
}
