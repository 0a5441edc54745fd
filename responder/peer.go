package responder

import (
	"context"
	"sync"
	"time"

	"flowtwin/tunnel"
)

// begin serves p on goroutines of its own.
func (r *server) begin(p peer) {
	r.mu.Lock()
	hello := p.Hello()
	m, twice := r.twin(hello)
	r.peers[p] = &attached{since: time.Now()}
	r.mu.Unlock()
	if twice {
		r.log.Warn("two copiers on one host copy the same: what both copy arrives twice; unless one of them is gone in 10 s, since it was started anew or has lost its tunnel",
			"copier", hello.Name, "remote", hello.Remote.String(), "port", m.Port, "target", m.Target.String())
	}
	r.left.Go(func() {
		r.run(p)
		r.mu.Lock()
		delete(r.peers, p)
		r.mu.Unlock()
	})
}

// run serves a copier until its connection ends, or it has said Bye on all lanes
// and all its sessions are over.
func (r *server) run(p peer) {
	hello := p.Hello()
	ts := &targets{watches: &r.host.watches}
	ts.grow(hello.Maps)
	log := r.log.With("copier", hello.Name, "remote", hello.Remote.String())
	log.Info("replaying", "targets", ts.from(0)) // the tunnel logs who comes and goes

	ctx, cancel := context.WithCancel(p.Context())
	defer cancel()
	var helpers, readers sync.WaitGroup
	r.mu.Lock()
	own := &r.peers[p].limits
	r.mu.Unlock()
	p.HandleRates(func(to tunnel.Rates) { // before the lanes: the first flow is subject to them
		if before := own.get(); to != before {
			own.set(to, time.Now())
			log.Info("its rates", "connections", tunnel.FormatRate(to.Connections), "bytes", tunnel.FormatRate(to.Bytes))
		}
	})
	defer p.HandleRates(nil)
	lanes := make([]*lane, hello.Lanes)
	for i := range lanes {
		lanes[i] = newLane(r.host, p.Lane(i), ts, own)
	}
	r.mu.Lock()
	r.peers[p].lanes = lanes
	r.mu.Unlock()
	for i := range lanes {
		readers.Go(func() {
			if err := lanes[i].run(p.Context().Done()); err != nil {
				log.Warn("copier is disconnected", "err", err)
				_ = p.Close(err.Error()) // the reason is logged; Close has nothing to add
			}
		})
	}
	helpers.Go(func() { progress(ctx, lanes) })
	try := func(first int) {
		for _, t := range ts.from(first) {
			helpers.Go(func() {
				if err := probe(ctx, t); err != nil && ctx.Err() == nil && r.host.watches.of(t).refuses() {
					log.Warn("target is not listening; its sessions are tried all the same", "target", t.String(), "err", err)
				}
			})
		}
	}
	try(0)
	p.HandleMaps(func(maps []tunnel.Map) error {
		before := ts.len()
		if err := ts.extend(maps); err != nil {
			return err
		}
		log.Info("replaying to further targets", "targets", ts.from(before))
		try(before)
		return nil
	})
	readers.Wait()
	p.HandleMaps(nil)
	cancel()
	helpers.Wait()
	part(p.Context(), farewell)
	_ = p.Close("all sessions are over") // closed already, most often
}

// progress tells the copier once a second how its lanes stand.
func progress(ctx context.Context, lanes []*lane) {
	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			for _, l := range lanes {
				l.progress(now)
			}
		}
	}
}

// part waits until a copier has left, at most for d.
func part(ctx context.Context, d time.Duration) {
	timeout := time.NewTimer(d)
	defer timeout.Stop()
	select {
	case <-ctx.Done():
	case <-timeout.C:
	}
}
