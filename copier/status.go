package copier

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"flowtwin/copier/report"
	"flowtwin/tunnel"
)

// localEvery is how often the host's addresses are looked up again: a service
// address that moves here is copied after so long.
const localEvery = 2 * time.Second

// tellStart says what is copied, from which interfaces or files, and through whom.
func (c *copier) tellStart(from []string) {
	responder := c.cfg.Server
	if responder == "" {
		responder = strings.Join(c.cfg.Invite.Addrs, ", ")
	}
	source := strings.Join(from, ", ")
	if c.cfg.Replay != nil {
		c.cfg.Log.Info("replaying", "maps", describe(c.cfg.Maps, "any server"), "files", source, "responder", responder)
		return
	}
	c.cfg.Log.Info("copying", "maps", describeMaps(c.cfg.Maps), "interfaces", source, "responder", responder)
}

// describeMaps names maps of live packets for people.
func describeMaps(maps []tunnel.Map) string { return describe(maps, "this host") }

// describe names maps for people; one without an address stands for all of host.
func describe(maps []tunnel.Map, host string) string {
	out := make([]string, len(maps))
	for i, m := range maps {
		from := fmt.Sprintf("port %d of %s", m.Port, host)
		if m.Server.IsValid() {
			from = netip.AddrPortFrom(m.Server, m.Port).String()
		}
		out[i] = fmt.Sprintf("%s to %v", from, m.Target)
	}
	return strings.Join(out, ", ")
}

// report prints the status now and then, and what is worth a line of its own.
func (c *copier) report(ctx context.Context) {
	status := time.NewTicker(statusEvery)
	defer status.Stop()
	local := time.NewTicker(localEvery)
	defer local.Stop()
	bar, takeAway := c.progress()
	defer takeAway()
	for {
		select {
		case <-ctx.Done():
			return
		case <-local.C:
			c.maps.refresh(c.set.Addrs())
			c.tellSecrets()
			sum := c.summary() // says when nothing is delivered, or taken
			c.unanswered.look(&sum.Ledger, sum.Ended)
			c.narrow(ctx)
			continue
		case <-bar:
			c.cfg.Progress(c.summary().Progress())
			continue
		case <-status.C:
			if bar != nil {
				continue
			}
		case <-c.cfg.Status:
		}
		sum := c.summary()
		c.cfg.Log.Info("status", sum.Attrs()...)
	}
}

// progressEvery is how often a terminal's progress bar moves.
const progressEvery = 200 * time.Millisecond

// progress returns a ticker for the progress bar, nil if there is none, and what
// takes the bar away.
func (c *copier) progress() (tick <-chan time.Time, takeAway func()) {
	if c.player == nil || c.cfg.Progress == nil {
		return nil, func() {}
	}
	t := time.NewTicker(progressEvery)
	return t.C, func() {
		t.Stop()
		c.cfg.Progress("")
	}
}

// summary adds up what is known now.
func (c *copier) summary() *report.Summary {
	st := c.tunnel.Stats()
	sum := &report.Summary{
		Version:   c.cfg.Version,
		Started:   c.started,
		Target:    c.cfg.name,
		Split:     c.cfg.splitName(),
		Sample:    c.sampled(),
		Rates:     report.Rates(c.limited()),
		State:     c.state(),
		Ended:     time.Now(),
		Recording: c.recording(),
		Headers:   c.headers.stats(),
		Tunnel: report.Tunnel{
			Up: st.Up, Remote: st.Remote, Connects: st.Connects, RTT: st.RTT,
			BytesSent: st.BytesSent, BytesReturned: st.BytesReturned,
		},
	}
	var t taking
	for i, s := range c.shards {
		l := s.ledger()
		sum.Ledger.Add(&l)
		t.add(s.heard())
		k := c.rings[i].Stats()
		sum.Kernel.Packets += k.Packets
		sum.Kernel.Dropped += k.Drops
	}
	sum.Recorded = c.recorded(&sum.Ledger)
	sum.Stalled = c.stall.look(sum)
	c.refusals.look(t, st.Remote)
	return sum
}

// final prints and writes the last ledger. The shards have ended.
func (c *copier) final() error {
	c.tellSecrets()
	sum := c.finalSummary()
	err := c.cfg.publish(sum, func() []byte { return sum.AppendText(nil) })
	if c.cfg.ReportFile != "" {
		err = errors.Join(err, sum.WriteFile(c.cfg.ReportFile))
	}
	return err
}

// publish puts a ledger where it is wanted.
func (cfg *Config) publish(ledger any, text func() []byte) error {
	if cfg.Out == nil {
		cfg.Log.Info("ledger", "ledger", ledger)
		return nil
	}
	_, err := cfg.Out.Write(text())
	return err
}

// finalSummary closes the books. The shards have ended.
func (c *copier) finalSummary() *report.Summary {
	c.leftover()
	if c.recorder != nil {
		c.recorder.Sync()
	}
	sum := c.summary()
	sum.Final, sum.Stalled = true, 0 // what has not come by now is named
	sum.Ledger.Close()
	return sum
}
