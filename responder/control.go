package responder

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"flowtwin/internal/ctl"
)

// Status is what the operation status says.
type Status struct {
	Summary

	Paused          bool           `json:"paused"`           // no sessions are taken
	RateConnections float64        `json:"rate_connections"` // by the second, 0: no limit
	RateBytes       float64        `json:"rate_bytes"`
	Connected       []CopierStatus `json:"connected"`
}

// A CopierStatus is what one copier has, and has had since it connected.
type CopierStatus struct {
	Name      string    `json:"name"`
	Remote    string    `json:"remote"`
	Connected time.Time `json:"connected"`
	Sessions  int64     `json:"sessions"` // now, copies not counted

	// The rates that it has set itself, 0: no limit.
	RateConnections float64 `json:"rate_connections"`
	RateBytes       float64 `json:"rate_bytes"`

	Delivered uint64   `json:"delivered"`
	Absorbed  uint64   `json:"absorbed"`
	Copies    CopyBook `json:"copies"`
}

// listen opens the control socket, if there is to be one. quit ends the responder.
func (r *server) listen(ctx context.Context, quit func()) (err error) {
	if r.cfg.Control != "" {
		r.control, err = ctl.Listen(ctx, r.cfg.Control, r.table(quit), r.log)
	}
	return err
}

// deafen closes it. It may be called again.
func (r *server) deafen() error {
	if r.control == nil {
		return nil
	}
	return r.control.Close()
}

// table is what the responder can be asked and told while it runs.
func (r *server) table(quit func()) ctl.Table {
	say := func(text string) (any, error) { return text, nil }
	return ctl.Table{
		"status": {Help: "counters, copiers and limits, as JSON", Reads: true, Do: func(ctx context.Context, _ []string) (any, error) {
			return r.state(ctx), nil
		}},
		"pause": {Help: "refuse flows that begin from now on; sessions go on", Do: func(context.Context, []string) (any, error) {
			r.host.paused.Store(true)
			return say("flows that begin from now on are refused")
		}},
		"resume": {Help: "take flows again, after pause or stop", Do: func(context.Context, []string) (any, error) {
			r.host.stopped.Store(false)
			r.host.paused.Store(false)
			return say("flows that begin from now on are replayed")
		}},
		"stop": {Help: "the kill switch: end all sessions at once and refuse all flows, until resume", Do: func(ctx context.Context, _ []string) (any, error) {
			n, err := r.cutAll(ctx)
			if err != nil {
				return nil, err
			}
			return say(fmt.Sprintf("%d sessions are ended, and flows refused", n))
		}},
		"drain": {Help: "take no more flows, let sessions finish for --drain, and end, as with SIGTERM", Do: func(context.Context, []string) (any, error) {
			quit()
			return say("the responder ends when its sessions have")
		}},
		"rate": {Args: "connections|bytes N|off", Help: "refuse whole flows of all copiers beyond so much a second", Min: 2, Do: func(_ context.Context, args []string) (any, error) {
			return r.limit(args[0], args[1])
		}},
	}
}

// limit changes a rate.
func (r *server) limit(what, per string) (any, error) {
	rates := r.host.limits.get() // operations come one at a time
	said, err := rates.Change(what, per)
	if err != nil {
		return nil, err
	}
	r.host.limits.set(rates, time.Now())
	return said, nil
}

var errEnding = errors.New("the responder ends")

// cutAll refuses flows and ends all sessions, also those that were admitted a moment
// before. It returns how many there were.
func (r *server) cutAll(ctx context.Context) (int64, error) {
	r.host.paused.Store(true)
	r.host.stopped.Store(true)
	n := r.host.open.Load()
	if err := r.order(ctx, whatStop); err != nil {
		return 0, errEnding
	}
	return n, nil
}

// order has all workers do something, and waits until they have or ctx ends.
func (r *server) order(ctx context.Context, what what) error {
	for _, w := range r.host.workers {
		b := r.host.newBatch(nil)
		b.what, b.done = what, make(chan struct{})
		done := b.done
		select {
		case w.batches <- b:
		case <-ctx.Done():
			return ctx.Err()
		}
		select {
		case <-done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// current is summary with what the workers have counted until now, not only until
// their last tick: beside the number of sessions that would not add up. A worker that
// does not find the time within a tick shows what it published last.
func (r *server) current(ctx context.Context) Summary {
	ctx, cancel := context.WithTimeout(ctx, tickEvery)
	defer cancel()
	_ = r.order(ctx, whatTell) // they have published before
	return r.summary()
}

// state returns the state of everything.
func (r *server) state(ctx context.Context) *Status {
	s := &Status{
		Summary: r.current(ctx), Paused: r.host.paused.Load(),
	}
	own := r.host.limits.get()
	s.RateConnections, s.RateBytes = own.Connections, own.Bytes
	r.mu.Lock()
	for p, c := range r.peers {
		h := p.Hello()
		rates := c.limits.get()
		cs := CopierStatus{
			Name: h.Name, Remote: h.Remote.String(), Connected: c.since,
			RateConnections: rates.Connections, RateBytes: rates.Bytes,
		}
		for _, l := range c.lanes {
			l.mu.Lock()
			cs.Sessions += l.sessions.Load()
			cs.Delivered += l.moved.delivered
			cs.Absorbed += l.moved.absorbed
			cs.Copies.add(&l.copies)
			l.mu.Unlock()
		}
		s.Connected = append(s.Connected, cs)
	}
	r.mu.Unlock()
	slices.SortFunc(s.Connected, func(a, b CopierStatus) int {
		return cmp.Or(a.Connected.Compare(b.Connected), cmp.Compare(a.Remote, b.Remote))
	})
	return s
}
