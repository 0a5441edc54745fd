package copier

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"flowtwin/copier/capture"
	"flowtwin/copier/offline"
	"flowtwin/copier/report"
	"flowtwin/internal/flow"
	"flowtwin/tunnel"
)

// populate checks r and fills in the defaults.
func (r *Replay) populate(cfg *Config) error {
	if r.Pace == "" {
		r.Pace = PaceClock
	}
	switch {
	case r.Pace != PaceClock && r.Pace != PaceTarget:
		return fmt.Errorf("pace: %q is neither %s nor %s", r.Pace, PaceClock, PaceTarget)
	case r.Speed < 0 || r.MaxGap < 0:
		return fmt.Errorf("speed %v, gap %v: negative", r.Speed, r.MaxGap)
	}
	// One shard reads a recording faster than a target answers.
	cfg.Shards, cfg.Connections = 1, 1
	return nil
}

// open opens the recording.
func (r *Replay) open(cfg *Config, stdin io.Reader) (*offline.Feed, error) {
	f, err := offline.Open(offline.Config{
		Files: r.Files, Stdin: stdin, Matches: cfg.matches(), Filter: r.Filter, Window: r.Window, Loops: r.Loops, Log: cfg.Log,
	})
	if err != nil {
		return nil, fmt.Errorf("recording: %w", err)
	}
	return f, nil
}

// anySelector stands for a kernel's filter where the feed picks the packets.
type anySelector struct{}

// Select implements selector: shards sample by themselves.
func (anySelector) Select([]capture.Match, flow.Choice) error { return nil }

// Addrs implements selector: those of this host are not the recording's.
func (anySelector) Addrs() []netip.Addr { return nil }

// replay copies a recording, in the place of [Run]. It needs no privileges, and ends
// when all of it is played and the sessions are over, or before, when ctx ends.
func replay(ctx context.Context, cfg Config) (err error) {
	r := cfg.Replay
	stdin, closeInput := input(r.Files)
	defer closeInput()
	feed, err := r.open(&cfg, stdin)
	if err != nil {
		return err
	}
	maps := newMapping(cfg.Maps)
	maps.every = true
	if r.DryRun {
		return dryRun(ctx, cfg, feed, maps)
	}
	client, err := tunnel.NewClient(cfg.tunnel())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, client.Close()) }()

	c := &copier{cfg: cfg, maps: maps, set: anySelector{}, sampling: newSampling(cfg.first()), amount: newAmount(cfg.Copies, cfg.Jitter), tunnel: client, started: time.Now()}
	p := newPlayer(feed, r)
	s := newShard(p, client.Lane(0), maps, 1, func() time.Duration { return client.Stats().ClockOffset })
	s.skip = cfg.Midstream == MidstreamSkip
	s.player, p.shard = p, s
	client.Lane(0).SetWake(p.Wake)
	c.shards, c.rings, c.player = []*shard{s}, []stater{p}, p
	c.closeInput = closeInput
	c.tellLocked(nil)
	c.tellStart([]string{strings.Join(r.Files, ", ")})
	return c.run(ctx)
}

// input returns the standard input if it is one of the files. A read of it cannot be
// broken off: it is left to a goroutine of its own, which ends with the process or
// with the next byte.
func input(files []string) (in io.Reader, stop func()) {
	if !slices.Contains(files, offline.Stdin) {
		return nil, func() {}
	}
	r, w := io.Pipe()
	go func() {
		_, err := io.Copy(w, os.Stdin)
		w.CloseWithError(err)
	}()
	return r, func() { r.CloseWithError(io.EOF) }
}

// play reads the recording for the player until it is over or ctx ends. What is
// wrong with the files is kept for the end: what could be read is replayed first.
func (c *copier) play(ctx context.Context) {
	defer context.AfterFunc(ctx, c.closeInput)()
	c.flaw = c.player.feed.Run(ctx)
}

// over is closed when a recording has been played.
func (c *copier) over() <-chan struct{} {
	if c.player == nil {
		return nil
	}
	return c.player.over
}

// leftover counts the packets that were read and not played. All goroutines have
// ended.
func (c *copier) leftover() {
	if c.player == nil {
		return
	}
	for b := range c.player.feed.Blocks() {
		c.player.unplayed.Add(uint64(b.Left()))
	}
}

// recording says what became of the recording's packets, or nil without one.
func (c *copier) recording() *report.Recording {
	if c.player == nil {
		return nil
	}
	return recordingOf(c.player)
}

func recordingOf(p *player) *report.Recording {
	st := p.feed.Stats()
	return &report.Recording{
		Read: uint64(st.Read), Total: uint64(st.Total), Loops: st.Loops, Packets: st.Packets,
		NotIP: st.NotIP, NotTCP: st.NotTCP, Unmapped: st.Unmapped, Filtered: st.Filtered, Outside: st.Outside, Unplayed: p.unplayed.Load(),
		Endless: p.loops == offline.Forever, Times: uint64(max(p.loops, 1)), Played: time.Duration(p.played.Load()),
	}
}
