package replay

import (
	"bytes"
	"math/rand/v2"
	"testing"
	"time"

	"flowtwin/tunnel/frame"
)

// A crowd is the copies of one flow, each with a target of its own.
type crowd struct {
	t      *testing.T
	sh     *Shard
	copies *Copies
	now    int64
	all    []*fellow
	sent   []byte
	frames int // of data
	ended  bool
	given  uint64 // bytes, all copies together
}

// A fellow is one of the copies.
type fellow struct {
	Session

	conn    *fakeConn // nil: not begun
	again   bool      // it is not the first one
	delay   int64
	began   int64
	account *frame.Closed
}

func newCrowd(t *testing.T, cfg Config, n int, delay func(i int) time.Duration) *crowd {
	t.Helper()
	c := &crowd{t: t, now: 1000 * ms}
	c.sh = NewShard(cfg, c)
	c.copies = c.sh.NewCopies(func(s *Session, now int64) {
		f := s.Owner.(*fellow)
		f.conn, f.began = &fakeConn{t: t, room: 1 << 30}, now
		c.sh.Start(s, f.conn, 0, now)
	})
	for i := range n {
		f := &fellow{delay: int64(delay(i))}
		f.Owner = f
		c.all = append(c.all, f)
		c.copies.Add(&f.Session, time.Duration(f.delay))
	}
	c.copies.Open(c.now)
	c.sh.Feed(c.now)
	return c
}

func (c *crowd) Redial(s *Session) Conn {
	f := s.Owner.(*fellow)
	f.conn, f.again = &fakeConn{t: c.t, room: 1 << 30}, true
	return f.conn
}

func (c *crowd) Gate(*Session, GateNews)         {}
func (c *crowd) Accepted(*Session) uint64        { return 0 }
func (c *crowd) Reached(*Session, bool)          {}
func (c *crowd) Parted(*Session, frame.CloseHow) {}
func (c *crowd) Established(*Session, int64)     {}
func (c *crowd) Wrote(_ *Session, _, _ int64)    {}
func (c *crowd) Moved(_ *Session, _, _ uint64)   {}
func (c *crowd) Closed(s *Session, a frame.Closed, _ int64) {
	f := s.Owner.(*fellow)
	if f.account != nil {
		c.t.Error("a second account")
	}
	f.account = &a
}

func (c *crowd) data(n int) {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(len(c.sent) + i*i)
	}
	c.sent = append(c.sent, p...)
	c.frames++
	c.given += uint64(n * c.copies.Data(&frame.Data{Time: c.now, Payload: p}, c.now))
	clear(p) // lent
	c.sh.Feed(c.now)
}

func (c *crowd) end(t frame.Type) {
	c.ended = true
	c.copies.End(t, 0, false, c.now)
	c.sh.Feed(c.now)
}

func (c *crowd) pass(d time.Duration) {
	end := c.now + int64(d)
	for at := c.sh.NextTimer(); at != 0 && at <= end; at = c.sh.NextTimer() {
		c.now = max(c.now, at)
		c.sh.Expire(c.now)
		c.sh.Feed(c.now)
	}
	c.now = end
}

// target lets something happen at a fellow's target.
func (c *crowd) target(f *fellow, what func(*fakeConn)) {
	if f.conn == nil || f.conn.released || f.conn.aborted {
		return
	}
	what(f.conn)
	f.News(c.now)
	c.sh.Feed(c.now)
}

// serve has all targets take, acknowledge and close what they can.
func (c *crowd) serve() {
	for _, f := range c.all {
		c.target(f, func(t *fakeConn) { t.state, t.room = max(t.state, ConnEstablished), 1<<30 })
		c.target(f, func(t *fakeConn) { t.acked = uint64(len(t.got)) })
		c.target(f, func(t *fakeConn) {
			if t.closed && t.state == ConnEstablished {
				t.fin, t.state = true, ConnFinished
			}
		})
	}
}

// check adds up the accounts when all is over.
func (c *crowd) check() {
	c.t.Helper()
	var sum uint64
	for i, f := range c.all {
		if f.account == nil {
			c.t.Fatalf("copy %d has no account, state %s", i, f.State())
		}
		sum += f.account.DeliveredBytes + f.account.DroppedBytes
		if f.conn != nil && !f.again && !bytes.HasPrefix(c.sent, f.conn.got) {
			c.t.Errorf("copy %d: target got %d bytes that are not how the %d sent begin", i, len(f.conn.got), len(c.sent))
		}
	}
	if sum != c.given {
		c.t.Errorf("%d bytes are in the accounts, %d were given", sum, c.given)
	}
	if c.sh.Queued() != 0 || len(c.sh.timers.heap) != 0 || len(c.copies.members) != 0 || c.copies.log.len() != 0 {
		c.t.Errorf("left over: %d bytes, %d timers, %d members, %d entries",
			c.sh.Queued(), len(c.sh.timers.heap), len(c.copies.members), c.copies.log.len())
	}
}

// Whatever targets, clients and time do: each copy's target gets the client's bytes
// in order, and each byte given is in one account.
func TestCopiesProperty(t *testing.T) {
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 7))
		jitter := time.Duration(rng.IntN(2)*rng.IntN(100)) * time.Millisecond
		c := newCrowd(t, Config{Reconnect: seed%3 == 0}, 1+rng.IntN(8), func(i int) time.Duration { return jitter * time.Duration(i) })
		for range 100 {
			f := c.all[rng.IntN(len(c.all))]
			switch rng.IntN(12) {
			case 0, 1, 2:
				if !c.ended {
					c.data(1 + rng.IntN(5000))
				}
			case 3:
				c.pass(time.Duration(rng.IntN(40)) * time.Millisecond)
			case 4:
				c.target(f, func(t *fakeConn) { t.state = max(t.state, ConnEstablished) })
			case 5:
				c.target(f, func(t *fakeConn) { t.acked = uint64(len(t.got)) })
			case 6:
				c.target(f, func(t *fakeConn) { t.room = rng.IntN(4000) })
			case 7:
				c.serve()
			case 8:
				if rng.IntN(10) == 0 {
					c.target(f, func(t *fakeConn) { t.state = ConnReset })
				}
			case 9:
				if rng.IntN(20) == 0 && f.account == nil {
					f.Cut(frame.ClosedDrain, c.now)
				}
			case 10:
				if rng.IntN(20) == 0 && !c.ended {
					c.end([]frame.Type{frame.TypeFin, frame.TypeReset, frame.TypeAbort}[rng.IntN(3)])
				}
			case 11:
				if rng.IntN(40) == 0 {
					c.hurry()
				}
			}
			c.sh.Feed(c.now)
		}
		if !c.ended {
			c.end(frame.TypeFin)
		}
		for range 20 {
			c.serve()
			c.pass(time.Hour)
		}
		if c.check(); t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func (c *crowd) hurry() {
	for _, f := range c.all {
		if f.account == nil {
			f.Hurry(c.now)
		}
	}
	c.ended = true
	c.sh.Feed(c.now)
}

// A copy that is late must be so as a whole: its connection begins late, and each
// frame comes when the flow's own came, and the delay.
func TestLateCopiesKeepTheirDistance(t *testing.T) {
	c := newCrowd(t, Config{}, 3, func(i int) time.Duration { return time.Duration(i) * 50 * time.Millisecond })
	start := c.now
	got := func(want ...int) {
		t.Helper()
		c.serve()
		for i, f := range c.all {
			n := -1
			if f.conn != nil {
				n = len(f.conn.got)
			}
			if n != want[i] {
				t.Errorf("after %d ms copy %d has %d bytes, want %d", (c.now-start)/ms, i, n, want[i])
			}
		}
	}
	c.pass(10 * time.Millisecond)
	c.data(100)
	got(100, -1, -1)
	c.pass(40 * time.Millisecond) // 50
	got(100, 0, -1)
	c.pass(10 * time.Millisecond) // 60
	got(100, 100, -1)
	c.data(100)
	c.pass(50 * time.Millisecond) // 110
	got(200, 200, 0+100)
	c.pass(49 * time.Millisecond) // 159
	got(200, 200, 100)
	c.pass(time.Millisecond)
	got(200, 200, 200)
	c.end(frame.TypeFin)
	for range 3 {
		c.pass(100 * time.Millisecond)
		c.serve()
	}
	c.check()
}

// A thousand copies of an upload whose targets do not read must not take a thousand
// times the memory; and when there is no more, those behind end, not all.
func TestCopiesShareTheirMemory(t *testing.T) {
	const copies, size = 1000, 32 << 10
	c := newCrowd(t, Config{ShardBytes: 16 << 20}, copies, func(int) time.Duration { return 0 })
	for _, f := range c.all {
		c.target(f, func(t *fakeConn) { t.state, t.room = ConnEstablished, 0 })
	}
	first := c.all[0]
	c.target(first, func(t *fakeConn) { t.room = 1 << 30 })
	// Connected copies take a frame each; further ones wait in the log.
	c.data(100)
	before := c.sh.Queued()
	for range 8 {
		c.data(size)
	}
	if got := c.sh.Queued() - before; got > 10*size {
		t.Errorf("8 frames of %d bytes hold %d for %d copies", size, got, copies)
	}
	for range 2000 {
		c.data(size)
	}
	if got := c.sh.Queued(); got > 16<<20 {
		t.Errorf("%d bytes are held", got)
	}
	c.end(frame.TypeFin)
	for range 3 {
		c.serve()
		c.pass(time.Hour)
	}
	c.check()
	if first.account.How != frame.ClosedBoth || !bytes.Equal(first.conn.got, c.sent) {
		t.Errorf("the copy that kept up: %+v", first.account)
	}
	if how := c.all[1].account.How; how != frame.ClosedBacklog {
		t.Errorf("one that did not: %s", how)
	}
}
