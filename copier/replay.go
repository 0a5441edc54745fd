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
	case len(cfg.More) > 0 && slices.Contains(r.Files, offline.Stdin):
		return errors.New("recording: standard input can be read for one target only")
	case r.Speed < 0 || r.MaxGap < 0:
		return fmt.Errorf("speed %v, gap %v: negative", r.Speed, r.MaxGap)
	}
	// One shard reads a recording faster than a target answers.
	cfg.Shards, cfg.Connections = 1, 1
	return nil
}

// open opens the recording. What close closes is what is read.
func (r *Replay) open(cfg *Config) (f *offline.Feed, closeInput func() error, err error) {
	stdin, closeInput := input(r.Files)
	f, err = offline.Open(offline.Config{
		Files: r.Files, Stdin: stdin, Matches: cfg.matches(), Filter: r.Filter, Window: r.Window, Loops: r.Loops, Log: cfg.Log,
	})
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("recording: %w", err), closeInput())
	}
	return f, closeInput, nil
}

// anySelector stands for a kernel's filter where the feed picks the packets.
type anySelector struct{}

// Select implements selector: shards sample by themselves.
func (anySelector) Select([]capture.Match, flow.Choice) error { return nil }

// Addrs implements selector: those of this host are not the recording's.
func (anySelector) Addrs() []netip.Addr { return nil }

// openReplay returns a copier that replays a recording to one target. It needs no
// privileges, and ends when all of it is played and the sessions are over.
func openReplay(cfg Config, client *tunnel.Client) (*copier, error) {
	feed, closeInput, err := cfg.Replay.open(&cfg)
	if err != nil {
		return nil, err
	}
	c := newCopier(cfg, recordedMapping(cfg.Maps), anySelector{}, client)
	c.close = closeInput
	c.addPlayer(newPlayer(feed, cfg.Replay), client.Lane(0))
	client.Lane(0).SetWake(c.player.Wake)
	c.player.tellPause = func(left time.Duration) {
		cfg.Log.Info("the recording pauses; --max-gap shortens pauses", "left", left.Round(time.Second))
	}
	c.tellLocked(nil)
	c.tellStart([]string{strings.Join(cfg.Replay.Files, ", ")})
	return c, nil
}

// recordedMapping returns the mapping of a recording, whose hosts nobody knows.
func recordedMapping(maps []tunnel.Map) *mapping {
	m := newMapping(maps)
	m.every = true
	return m
}

// addPlayer adds the shard of a recording.
func (c *copier) addPlayer(p *player, l lane) *shard {
	s := c.add(p, l)
	s.player, p.shard, c.player = p, s, p
	return s
}

// input returns the standard input if it is one of the files. A read of it cannot be
// broken off: it is left to a goroutine of its own, which ends with the process or
// with the next byte.
func input(files []string) (in io.Reader, stop func() error) {
	if !slices.Contains(files, offline.Stdin) {
		return nil, func() error { return nil }
	}
	r, w := io.Pipe()
	go func() {
		_, err := io.Copy(w, os.Stdin)
		w.CloseWithError(err)
	}()
	return r, func() error { return r.CloseWithError(io.EOF) }
}

// play reads the recording for the player until it is over or ctx ends. What is
// wrong with the files is kept for the end: what could be read is replayed first.
func (c *copier) play(ctx context.Context) {
	defer context.AfterFunc(ctx, func() { _ = c.close() })()
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
