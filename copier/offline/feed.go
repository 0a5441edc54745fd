package offline

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync/atomic"

	"flowtwin/copier/capture"
	"flowtwin/internal/flow"
	"flowtwin/internal/packet"
)

// Forever is the number of loops of a recording that is played until it is stopped.
const Forever = -1

// Config configures [Open].
type Config struct {
	Files   []string // as [Expand] returns them
	Stdin   io.Reader
	Matches []capture.Match // the servers
	Filter  Filter          // nil: everything
	Window  Window
	Loops   int // how often, or Forever; 0: once
	Log     *slog.Logger
}

// A Feed reads a recording, in a goroutine of its own ([Feed.Run]), and hands it
// over in blocks.
type Feed struct {
	cfg    Config
	files  []opening
	total  int64 // bytes of the files, 0 unknown
	free   chan *Block
	full   chan *Block
	counts counts
	read   atomic.Int64

	// Of Run.
	sums        sums
	both        sides
	view        packet.View
	fault       packet.Fault // of the packet at hand
	size, whole int          // of it, as recorded and as it was
	origin      int64        // time of the first packet
	begun       bool
	warned      bool // of packets that are cut
}

// counts are [Stats] while they grow.
type counts struct {
	packets, notIP, notTCP, unmapped, filtered, outside, cut atomic.Uint64
	loops                                                    atomic.Uint64
}

// Stats say how far the reading is, over all loops, and what became of the packets
// that were not handed over.
type Stats struct {
	Read, Total int64 // bytes of the files as they lie on the disk; Total of one loop, 0 unknown
	Loops       uint64
	Packets     uint64
	NotIP       uint64
	NotTCP      uint64
	Unmapped    uint64 // of none of the servers
	Filtered    uint64 // by the filter
	Outside     uint64 // of the window of time
	Cut         uint64 // to the server, and recorded shorter than they were; handed over
}

// Left returns how many packets were not handed over.
func (s *Stats) Left() uint64 { return s.NotIP + s.NotTCP + s.Unmapped + s.Filtered + s.Outside }

// Open looks at the beginning of each file.
func Open(cfg Config) (*Feed, error) {
	if len(cfg.Files) == 0 {
		return nil, errors.New("no file given")
	}
	if cfg.Loops == 0 {
		cfg.Loops = 1
	}
	if cfg.Filter == nil {
		cfg.Filter = func(*flow.Tuple) bool { return true }
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	f := &Feed{cfg: cfg, free: make(chan *Block, blocks), full: make(chan *Block, blocks)}
	if cfg.Loops != 1 && slices.Contains(cfg.Files, Stdin) {
		return nil, errors.New("standard input can be read once only, not in a loop")
	}
	names, total, err := sized(cfg.Files, cfg.Log)
	if err != nil {
		return nil, err
	}
	f.total = total
	if f.files, err = survey(names); err != nil {
		return nil, err
	}
	for range blocks {
		f.free <- new(Block)
	}
	return f, nil
}

// Blocks brings the blocks; it is closed behind the last one. Each is given back.
func (f *Feed) Blocks() <-chan *Block { return f.full }

// GiveBack returns a block that was read.
func (f *Feed) GiveBack(b *Block) {
	b.reset()
	f.free <- b
}

// Stats returns how far the reading is. Any goroutine.
func (f *Feed) Stats() Stats {
	c := &f.counts
	return Stats{
		Read: f.read.Load(), Total: f.total, Loops: c.loops.Load(),
		Packets: c.packets.Load(), NotIP: c.notIP.Load(), NotTCP: c.notTCP.Load(), Unmapped: c.unmapped.Load(),
		Filtered: c.filtered.Load(), Outside: c.outside.Load(), Cut: c.cut.Load(),
	}
}

// Run reads until the recording's end, or until ctx ends, which is no error. Files
// that could not be read to their end are one, after all the rest was handed over.
// A file that was only cut off is told, and no error.
func (f *Feed) Run(ctx context.Context) error {
	defer close(f.full)
	for n := 0; f.cfg.Loops == Forever || n < f.cfg.Loops; n++ {
		r := &recording{read: &f.read, later: f.files}
		err := f.loop(ctx, r)
		r.close()
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		}
		f.counts.loops.Add(1)
		if err := f.flaws(r.flaws, n == 0); err != nil {
			return err // once is enough
		}
		if f.counts.packets.Load() == f.counts.left() {
			return nil // nothing to play, however often
		}
	}
	return nil
}

func (c *counts) left() uint64 {
	return c.notIP.Load() + c.notTCP.Load() + c.unmapped.Load() + c.filtered.Load() + c.outside.Load()
}

// flaws tells of files that are cut off, in the first loop, and returns the other flaws.
func (f *Feed) flaws(all []error, first bool) error {
	var damage []error
	for _, err := range all {
		var e *FileError
		if errors.As(err, &e) && e.Cut() {
			if first {
				f.cfg.Log.Warn("a file is not complete; what it holds is replayed", "err", e)
			}
			continue
		}
		damage = append(damage, err)
	}
	return errors.Join(damage...)
}

// A pipe is a standard input. What was read of it is handed over before the next read,
// which may wait for long: somebody may be recording at the other end.
type pipe struct {
	io.Reader
	handOver func() error
}

// Read implements io.Reader.
func (p pipe) Read(b []byte) (int, error) {
	if err := p.handOver(); err != nil {
		return 0, err
	}
	return p.Reader.Read(b)
}

// loop hands one pass over the recording over.
func (f *Feed) loop(ctx context.Context, r *recording) error {
	b, err := f.block(ctx)
	if err != nil {
		return err
	}
	handOver := func() (err error) {
		f.full <- b // never waits: there is room for all blocks
		b, err = f.block(ctx)
		return err
	}
	r.stdin = pipe{f.cfg.Stdin, func() error {
		if b == nil || len(b.entries) == 0 {
			return ctx.Err()
		}
		return handOver()
	}}
	for b != nil {
		from, err := r.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		p := &from.at
		toServer, ok := f.wanted(p)
		if !ok {
			f.counts.packets.Add(1)
			continue
		}
		if b.full(len(p.data)) {
			if err := handOver(); err != nil {
				return err
			}
		}
		f.counts.packets.Add(1)
		b.add(p, toServer, f.checked(p, toServer))
		if f.fault == packet.Truncated || f.fault == packet.OK && toServer && !f.view.Whole() {
			f.tellCut(from)
		}
	}
	if b == nil {
		return ctx.Err()
	}
	b.Last = true
	f.full <- b
	return nil
}

func (f *Feed) block(ctx context.Context) (*Block, error) {
	select {
	case b := <-f.free:
		return b, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// wanted reports whether a packet is to be handed over, cut to its IP packet, and
// whether it goes to the server. Of packets from the server only the headers are.
func (f *Feed) wanted(p *record) (toServer, ok bool) {
	c := &f.counts
	if !f.begun {
		f.begun, f.origin = true, p.time
	}
	f.size, f.whole = len(p.data), p.wireLen
	switch {
	case !f.cfg.Window.holds(p.time, f.origin):
		c.outside.Add(1)
		return false, false
	case !p.strip():
		c.notIP.Add(1)
		return false, false
	}
	v := &f.view
	f.fault = v.Parse(p.data, p.wireLen)
	switch f.fault {
	case packet.OK:
	case packet.NotTCP:
		c.notTCP.Add(1)
		return false, false
	default: // whose it is cannot be told; the shard counts it
		return true, true
	}
	toServer, mapped := f.direction(v)
	if !mapped {
		c.unmapped.Add(1)
		return false, false
	}
	t := flow.Tuple{Client: v.Dst, Server: v.Src, ClientPort: v.DstPort, ServerPort: v.SrcPort}
	if toServer {
		t = flow.Tuple{Client: v.Src, Server: v.Dst, ClientPort: v.SrcPort, ServerPort: v.DstPort}
	} else {
		p.data = p.data[:len(v.Headers)]
	}
	if !f.cfg.Filter(&t) {
		c.filtered.Add(1)
		return false, false
	}
	return toServer, true
}

// tellCut says once what is wrong with a recording of cut packets.
func (f *Feed) tellCut(from *file) {
	f.counts.cut.Add(1)
	if f.warned {
		return
	}
	f.warned = true
	f.cfg.Log.Warn("a packet is cut: recorded with a snap length; record with tcpdump -s 0",
		"err", fmt.Sprintf("packet %d of %s is cut at %d of %d bytes", from.number, from.name, f.size, f.whole))
}
