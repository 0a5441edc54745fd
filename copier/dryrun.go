package copier

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"

	"flowtwin/copier/offline"
	"flowtwin/copier/report"
	"flowtwin/internal/http1"
	"flowtwin/tunnel/frame"
)

// dryRun says what a recording holds and what of it would be replayed. The shard
// does all that it does otherwise, with a lane that only notes.
func dryRun(ctx context.Context, cfg Config) (err error) {
	r := *cfg.Replay
	endless := r.Loops == offline.Forever
	if endless {
		r.Loops = 1
	}
	cfg.Replay = &r
	feed, closeInput, err := cfg.Replay.open(&cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeInput()) }()
	out := bufio.NewWriter(cfg.Out)
	lane := &dryLane{out: out, flows: make(map[uint32]*dryFlow), amount: newAmount(cfg.Copies, 0)}
	copies := cfg.Copies
	p := newPlayer(feed, &Replay{Pace: PaceTarget, Loops: 1})
	p.lead = lead{segments: 1 << 62, bytes: 1 << 62, sessions: 1 << 62}
	cfg.Copies, cfg.Ramp, cfg.More = 1, 0, nil
	c := newCopier(cfg, recordedMapping(cfg.Maps), anySelector{}, nil)
	s := c.addPlayer(p, lane)
	lane.shard = s
	c.tellLocked(nil)

	var g errgroup.Group
	reading, stop := context.WithCancel(ctx)
	g.Go(func() error { return feed.Run(reading) })
	g.Go(func() error {
		defer stop()
		return s.run()
	})
	g.Go(func() error {
		select {
		case <-p.over:
		case <-reading.Done():
		}
		s.ask(phaseOver)
		return nil
	})
	flaw := g.Wait()
	c.leftover()
	sum := &report.Summary{Final: true, Recording: recordingOf(p), Ledger: s.book}
	fmt.Fprintf(out, "\n%d connections, %d requests of HTTP/1, %d turns, %d bytes in %d segments; %v recorded\n",
		s.book.Flows.Admitted, lane.sum.requests, lane.sum.turns, lane.sum.bytes, lane.sum.segments, sum.Recording.Played.Round(time.Millisecond))
	if copies > 1 {
		fmt.Fprintf(out, "with -n %v: %d connections, %d requests\n", copies, lane.sum.sessions, lane.sum.copied)
	}
	if endless {
		fmt.Fprintln(out, "this again and again: --loop forever")
	}
	sum.WriteSkipped(out)
	if err := out.Flush(); err != nil {
		return err
	}
	return flaw
}

// longestLine is more than the line of a flow takes.
const longestLine = 512

// A dryLane takes what a shard sends and writes a line for each flow. What it
// returns are accounts that say that all of it was delivered.
type dryLane struct {
	shard   *shard
	out     *bufio.Writer
	flows   map[uint32]*dryFlow
	amount  amount
	returns []byte
	lent    []byte

	sum dryFlow // of all flows
}

// dryFlow is one flow's figures.
type dryFlow struct {
	open     frame.Open
	seen     uint64
	last     int64
	segments uint64
	bytes    uint64
	turns    uint64
	requests uint64
	sessions uint64 // with all copies
	copied   uint64 // requests, with all copies
	cursor   http1.Cursor
	head     []byte // of a request, as far as it has come
	plain    bool   // not HTTP/1
}

// Epoch implements lane.
func (l *dryLane) Epoch() uint64 { return 1 }

// Up implements lane.
func (l *dryLane) Up() bool { return true }

// Room implements lane.
func (l *dryLane) Room() int { return l.Size() }

// Size implements lane.
func (l *dryLane) Size() int { return 1 << 30 }

// Flush implements lane.
func (l *dryLane) Flush() {}

// Open implements lane.
func (l *dryLane) Open(slot uint32, o *frame.Open) bool {
	l.flows[slot] = &dryFlow{open: *o, seen: o.BaseSeen, last: l.shard.player.last}
	return true
}

// Data implements lane.
func (l *dryLane) Data(slot uint32, seen uint64, _ int64, payload []byte) bool {
	f := l.flows[slot]
	if f == nil {
		return true
	}
	if f.segments == 0 || seen > f.seen {
		f.turns++
	}
	if seen != seenUnknown {
		f.seen = max(f.seen, seen)
	}
	f.segments++
	f.bytes += uint64(len(payload))
	f.last = l.shard.player.last
	f.read(payload)
	return true
}

// read counts requests.
func (f *dryFlow) read(b []byte) {
	if f.plain {
		return
	}
	f.head = append(f.head, b...)
	var r http1.Request
	for len(f.head) > 0 {
		n, e := f.cursor.Next(f.head, &r)
		switch e {
		case http1.More:
			return
		case http1.Head:
			f.requests++
		case http1.Bad, http1.Opaque:
			f.plain, f.head = true, nil
			return
		case http1.Body:
		}
		f.head = f.head[n:]
	}
	f.head = f.head[:0]
}

// Fin implements lane.
func (l *dryLane) Fin(slot uint32, _ uint64, _ bool) bool {
	return l.end(slot, "closed", frame.ClosedBoth)
}

// Reset implements lane.
func (l *dryLane) Reset(slot uint32, _ uint64) bool {
	return l.end(slot, "reset", frame.ClosedClientReset)
}

// Abort implements lane.
func (l *dryLane) Abort(slot uint32, _ frame.AbortReason) bool {
	r := l.shard.table.At(slot)
	return l.end(slot, "given up: "+r.drop.String(), frame.ClosedAborted)
}

// end writes the line of a flow.
func (l *dryLane) end(slot uint32, how string, closed frame.CloseHow) bool {
	f := l.flows[slot]
	if f == nil {
		return true
	}
	delete(l.flows, slot)
	requests := "no HTTP/1"
	if f.requests > 0 {
		requests = fmt.Sprintf("%d requests", f.requests)
	}
	k := &f.open.Key
	if l.out.Available() < longestLine {
		_ = l.out.Flush() // whole lines: warnings come between. What fails is told at the end
	}
	fmt.Fprintf(l.out, "%s > %s  %s in %d turns, %d bytes in %d segments, %s\n",
		end(k.Client.Netip(), k.ClientPort), end(k.Server.Netip(), k.ServerPort), requests, f.turns, f.bytes, f.segments, how)
	s := &l.sum
	s.segments += f.segments
	s.bytes += f.bytes
	s.turns += f.turns
	s.requests += f.requests
	n := uint64(l.amount.of(&k.Tuple))
	s.sessions += n
	s.copied += n * f.requests
	l.returns = frame.AppendClosed(l.returns, slot, &frame.Closed{
		How: closed, DeliveredBytes: f.bytes, DeliveredSegments: f.segments, Turns: f.turns,
	})
	return true
}

func end(a netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(a, port) }

// Returns implements lane.
func (l *dryLane) Returns() (frames []byte, epoch uint64) {
	if len(l.returns) == 0 {
		return nil, 0
	}
	l.lent, l.returns = l.returns, l.lent[:0]
	return l.lent, 1
}

var _ lane = (*dryLane)(nil)
