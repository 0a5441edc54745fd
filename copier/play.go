package copier

import (
	"context"
	"sync/atomic"
	"time"

	"flowtwin/copier/capture"
	"flowtwin/copier/offline"
	"flowtwin/copier/report"
)

// How a recording is paced.
const (
	PaceClock  = "clock"  // as it was recorded
	PaceTarget = "target" // as fast as the target answers
)

// A Replay is a recording to be replayed in the place of live packets.
type Replay struct {
	Files  []string // as [offline.Expand] returns them
	Pace   string   // PaceClock or PaceTarget, "": the first
	Speed  float64  // with PaceClock; 0: 1
	MaxGap time.Duration
	Loops  int // or offline.Forever; 0: once
	Filter offline.Filter
	Window offline.Window
	DryRun bool
}

// A lead is how far a player may be ahead of the target. What is under way is
// bounded, so that nothing is lost for want of room: neither in the lane, nor in
// the queues of the sessions at the responder, which hold 8 MiB each.
type lead struct {
	segments, bytes uint64 // given to the lane, and not done with at the responder
	sessions        uint64 // whose flow is over, and the account is not here
}

func leadFor(pace string) lead {
	if pace == PaceTarget {
		// The gate holds each session's turns; these bound how many sessions it has
		// to hold. A round trip and the 20 ms between two words of the responder
		// carry so many: 100,000 requests a second.
		return lead{segments: 4096, bytes: 4 << 20, sessions: 256}
	}
	return lead{segments: 1 << 15, bytes: 6 << 20, sessions: 1 << 15}
}

const (
	// poll is how soon a player looks again for room; as long as there is none, after
	// twice as long each time.
	poll     = time.Millisecond
	pollMost = 8 * time.Millisecond
	// stuck is how long the target may move nothing at all until a player goes on
	// without it: it is silent on connections that it has accepted.
	stuck = 10 * time.Second
	// longPause is what somebody who looks on wants to be told of.
	longPause = time.Minute
)

// A player is the source of a shard that replays a recording. Unlike a ring, it
// waits: for the time of each packet, and for room ahead of the target. Its methods
// but Wake and Stats are the shard's.
type player struct {
	shard *shard
	feed  *offline.Feed
	pace  string
	speed float64
	gap   int64 // the longest pause between two packets, 0 any
	lead  lead

	block *offline.Block
	done  bool          // all is handed over
	over  chan struct{} // closed when done
	woken chan struct{}
	waits *time.Timer

	// The schedule. elapsed is the recorded time that was played, without what is
	// cut out of long pauses.
	started bool
	begun   bool  // a packet of this loop was handed over
	start   int64 // wall clock
	last    int64 // recorded time of the packet before
	elapsed int64
	now     int64     // wall clock, of this block
	held    time.Time // since when it is paused

	// Of what was sent, what is not waited for any more.
	forgiven report.Count
	epoch    uint64
	moved    report.Count // when it moved last
	since    time.Time
	nap      time.Duration

	told      int64                    // elapsed when a pause was told, and 1
	tellPause func(left time.Duration) // says that nothing is due for so long

	loops    int
	played   atomic.Int64  // recorded time, for the status
	unplayed atomic.Uint64 // packets that were in the block when it was ended
}

func newPlayer(feed *offline.Feed, r *Replay) *player {
	p := &player{
		feed: feed, pace: r.Pace, speed: r.Speed, gap: int64(r.MaxGap), lead: leadFor(r.Pace), loops: r.Loops,
		over: make(chan struct{}), woken: make(chan struct{}, 1), waits: time.NewTimer(time.Hour),
		tellPause: func(time.Duration) {},
	}
	if p.speed == 0 {
		p.speed = 1
	}
	return p
}

// Next waits until packets are due, a timeout at most.
func (p *player) Next(timeout time.Duration) (bool, error) {
	switch {
	case p.done:
		p.wait(timeout)
		return false, nil
	case p.shard.phase >= phaseDraining:
		p.finish()
		return false, nil
	case !p.room(time.Now()):
		if timeout > 0 {
			p.nap = min(max(2*p.nap, poll), pollMost)
			p.wait(min(p.nap, timeout))
		}
		return false, nil
	case !p.load(timeout):
		return false, nil
	}
	now := time.Now()
	p.now = now.UnixNano()
	p.played.Store(p.elapsed)
	if !p.started {
		p.started, p.start = true, p.now
	}
	if early := p.due() - p.now; early > 0 {
		if early > int64(longPause) && p.told != p.elapsed+1 {
			p.told = p.elapsed + 1
			p.tellPause(time.Duration(early))
		}
		p.wait(min(timeout, time.Duration(early)))
		return false, nil
	}
	return true, nil
}

// load sees to it that there is a block with a packet.
func (p *player) load(timeout time.Duration) bool {
	for {
		if p.block != nil {
			if _, ok := p.block.Peek(); ok {
				return true
			}
			p.unload()
		}
		b, ok, came := p.receive(timeout)
		switch {
		case !came:
			return false
		case !ok:
			p.finish()
			return false
		}
		p.block = b
	}
}

// unload gives a block back that is played.
func (p *player) unload() {
	if p.block.Last {
		p.shard.cutAll()
		p.begun = false
	}
	p.feed.GiveBack(p.block)
	p.block = nil
}

// receive takes the next block, if it comes in time; !ok: it was the last.
func (p *player) receive(timeout time.Duration) (b *offline.Block, ok, came bool) {
	select {
	case b, ok = <-p.feed.Blocks():
		return b, ok, true
	default:
	}
	if timeout == 0 {
		return nil, false, false
	}
	p.waits.Reset(timeout)
	defer p.waits.Stop()
	select {
	case b, ok = <-p.feed.Blocks():
		return b, ok, true
	case <-p.woken:
	case <-p.waits.C:
	}
	return nil, false, false
}

// wait waits, or until Wake.
func (p *player) wait(timeout time.Duration) {
	if timeout <= 0 {
		return
	}
	p.waits.Reset(timeout)
	defer p.waits.Stop()
	select {
	case <-p.woken:
	case <-p.waits.C:
	}
}

// finish ends the playing: what is left of the flows ends.
func (p *player) finish() {
	if p.block != nil {
		p.unplayed.Add(uint64(p.block.Left()))
		p.feed.GiveBack(p.block)
		p.block = nil
	}
	p.shard.cutAll()
	p.done = true
	p.played.Store(p.elapsed)
	close(p.over)
}

// step returns how much recorded time is between the last packet and one at t.
func (p *player) step(t int64) int64 {
	if !p.begun {
		return 0
	}
	return max(t-p.last, 0)
}

// due returns the wall clock's time at which the next packet is due.
func (p *player) due() int64 {
	if p.pace == PaceTarget {
		return p.now
	}
	t, _ := p.block.Peek()
	return p.dueAfter(p.shorten(p.step(t)))
}

func (p *player) shorten(step int64) int64 {
	if p.gap > 0 {
		return min(step, p.gap)
	}
	return step
}

func (p *player) dueAfter(step int64) int64 {
	return p.start + int64(float64(p.elapsed+step)/p.speed)
}

// Packet fills c with the next packet that is due. Its time is the one at which it
// was due: the lag that the responder measures is that behind the schedule.
func (p *player) Packet(c *capture.Packet) bool {
	t, ok := p.block.Peek()
	if !ok {
		return false
	}
	at := p.due()
	if at > p.now || p.shard.ticked() { // what time has run out for goes before
		return false
	}
	step := p.step(t)
	p.elapsed += p.shorten(step)
	// The shard's clock is the recording's: what waits, waits as long as it did.
	p.shard.clock += step
	if p.last = max(p.last, t); !p.begun {
		p.begun, p.last = true, t
	}
	p.block.Packet(c)
	c.Time, c.Recorded = at, t
	if c.ToServer && p.pace != PaceTarget {
		p.shard.book.Schedule.Add(time.Duration(p.now - at))
	}
	return true
}

// stands reports whether somebody has paused the copier. The schedule stands still
// meanwhile.
func (p *player) stands(now time.Time) bool {
	switch paused := p.shard.orders.paused; {
	case paused && p.held.IsZero():
		p.held = now
	case !paused && !p.held.IsZero():
		p.start += int64(now.Sub(p.held))
		p.held, p.since = time.Time{}, time.Time{}
	}
	return !p.held.IsZero()
}

// room reports whether the target is near enough.
func (p *player) room(now time.Time) bool {
	s := p.shard
	if p.stands(now) || !s.up || s.lane.Room() < s.lane.Size()*3/4 {
		return false
	}
	if s.epoch != p.epoch {
		p.forgive()
		p.epoch = s.epoch
	}
	ahead := p.ahead()
	over := s.book.Sessions.Open - min(s.book.Flows.Live, s.book.Sessions.Open)
	if ahead.Segments < p.lead.segments && ahead.Bytes < p.lead.bytes && over < p.lead.sessions {
		p.since, p.nap = time.Time{}, 0
		return true
	}
	if at := s.book.Moved; p.since.IsZero() || at != p.moved {
		p.moved, p.since = at, now
	}
	if now.Sub(p.since) < stuck {
		return false
	}
	p.forgive()
	s.book.Stuck++
	return over < 2*p.lead.sessions // sessions that never end are those of the responder's linger
}

// ahead is what was sent and is waited for. What was forgiven may be done with after
// all, by a target that was away: then there is less to forgive.
func (p *player) ahead() report.Count {
	b := &p.shard.book
	n := b.Client.Sent
	n.Plus(b.Client.Prologue)
	n.Minus(b.Moved)
	n.Minus(b.Sent.AfterClose)
	f := &p.forgiven
	f.Segments, f.Bytes = min(f.Segments, n.Segments), min(f.Bytes, n.Bytes)
	n.Minus(*f)
	return n
}

// forgive counts what is under way as done with.
func (p *player) forgive() {
	p.forgiven.Plus(p.ahead())
	p.since = time.Time{}
}

// Release implements source. Blocks are given back when they are played.
func (p *player) Release() {}

// Wake makes a Next that waits return.
func (p *player) Wake() { signal(p.woken) }

// Stats returns what stands for a kernel's counts.
func (p *player) Stats() capture.Stats { return capture.Stats{Packets: p.feed.Stats().Packets} }

var _ source = (*player)(nil)

// settle waits for the sessions of a recording that has been played, for as long
// as they come nearer to their ends, or until ctx ends. Copies may be late by
// cfg.Jitter, and be quiet until then.
func (c *copier) settle(ctx, failed context.Context) {
	c.ask(phaseDraining)
	patience := c.cfg.Drain
	if c.cfg.Copies > 1 {
		patience += c.cfg.Jitter
	}
	for _, s := range c.shards {
		for before := s.ledger(); ; {
			wait, cancel := context.WithTimeout(ctx, patience)
			stop := context.AfterFunc(failed, cancel)
			await(wait, s.quiet)
			quiet := wait.Err() == nil
			stop()
			cancel()
			now := s.ledger()
			if quiet || failed.Err() != nil {
				break
			}
			if ctx.Err() != nil {
				c.drain(failed)
				return
			}
			if now.Moved == before.Moved && now.Sessions.Open == before.Sessions.Open && now.Copies.Open == before.Copies.Open {
				c.cfg.Log.Warn("the target does not come to an end", "sessions", now.Sessions.Open, "copies", now.Copies.Open, "waited", patience)
				break
			}
			before = now
		}
	}
	c.finish(failed)
}
