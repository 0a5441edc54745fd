package replay

import (
	"errors"
	"testing"
	"time"

	"flowtwin/tunnel/frame"
)

// fakeConn is a target: tests say what it takes, acknowledges and answers.
type fakeConn struct {
	t        *testing.T
	state    ConnState
	room     int // of the send buffer
	got      []byte
	acked    uint64
	answers  int // not absorbed yet
	fin      bool
	closed   bool // our FIN
	aborted  bool
	released bool
	broken   bool // writes fail
	opened   time.Duration
}

var errBroken = errors.New("connection is broken")

func (c *fakeConn) State() ConnState { c.use(); return c.state }

func (c *fakeConn) use() {
	if c.released {
		c.t.Error("conn used after its release")
	}
}

func (c *fakeConn) Write(p []byte) (int, error) {
	c.use()
	if c.state == ConnConnecting || c.closed || c.aborted {
		c.t.Errorf("write in state %d, closed %v, aborted %v", c.state, c.closed, c.aborted)
	}
	if c.broken {
		return 0, errBroken
	}
	n := min(len(p), c.room)
	c.room -= n
	c.got = append(c.got, p[:n]...)
	return n, nil
}

func (c *fakeConn) Absorb() (int, bool, error) {
	c.use()
	n := c.answers
	c.answers = 0
	return n, c.fin, nil
}

func (c *fakeConn) CloseWrite() error {
	c.use()
	if c.closed {
		c.t.Error("FIN twice")
	}
	c.closed = true
	return nil
}

func (c *fakeConn) Connect() time.Duration { c.use(); return c.opened }

func (c *fakeConn) Acked() uint64 { return c.acked }
func (c *fakeConn) Abort()        { c.use(); c.aborted = true; c.state = ConnReset }
func (c *fakeConn) Release()      { c.use(); c.released = true }

// log is a Listener that remembers.
type log struct {
	established       int
	accepted, refused int
	wrote             []int64
	delivered, answer uint64
	closed            []frame.Closed
	parted            []frame.CloseHow
	news              []GateNews
	redial            func() *fakeConn // nil: no connection can be had
}

func (l *log) Redial(*Session) Conn {
	if l.redial != nil {
		if c := l.redial(); c != nil {
			return c
		}
	}
	return nil
}

func (l *log) Gate(_ *Session, news GateNews) { l.news = append(l.news, news) }
func (l *log) Accepted(*Session) uint64       { return uint64(l.accepted) }
func (l *log) Reached(_ *Session, accepted bool) {
	if accepted {
		l.accepted++
	} else {
		l.refused++
	}
}
func (l *log) Parted(_ *Session, how frame.CloseHow) { l.parted = append(l.parted, how) }

func (l *log) Established(*Session, int64)                { l.established++ }
func (l *log) Wrote(_ *Session, captured, _ int64)        { l.wrote = append(l.wrote, captured) }
func (l *log) Moved(_ *Session, d, a uint64)              { l.delivered += d; l.answer += a }
func (l *log) Closed(_ *Session, c frame.Closed, _ int64) { l.closed = append(l.closed, c) }

// A rig is one session with its target and a clock that only tests move.
type rig struct {
	t    *testing.T
	log  log
	sh   *Shard
	conn *fakeConn
	s    *Session
	now  int64
	seen uint64
}

const ms = int64(time.Millisecond)

func newRig(t *testing.T, cfg Config) *rig {
	t.Helper()
	r := &rig{t: t, now: 1000 * ms}
	r.sh = NewShard(cfg, &r.log)
	r.conn = &fakeConn{t: t, room: 1 << 30}
	r.s = new(Session)
	r.sh.Start(r.s, r.conn, 0, r.now)
	return r
}

// connected is a rig whose handshake is done.
func connected(t *testing.T, cfg Config) *rig {
	t.Helper()
	r := newRig(t, cfg)
	r.conn.state = ConnEstablished
	r.s.News(r.now)
	return r
}

// turn has the client send p after it has seen n more bytes of answers.
func (r *rig) turn(n uint64, p string) {
	r.seen += n
	r.s.Data(&frame.Data{Seen: r.seen, Time: r.now, Payload: []byte(p)}, r.now)
}

// answer has the target send n bytes.
func (r *rig) answer(n int) {
	r.conn.answers += n
	r.s.News(r.now)
}

// ack has the target acknowledge all that it got.
func (r *rig) ack() {
	r.conn.acked = uint64(len(r.conn.got))
	r.s.News(r.now)
}

// pass lets time go by, timer by timer.
func (r *rig) pass(d time.Duration) {
	end := r.now + int64(d)
	for at := r.sh.NextTimer(); at != 0 && at <= end; at = r.sh.NextTimer() {
		r.now = max(r.now, at)
		r.sh.Expire(r.now)
	}
	r.now = end
}

func (r *rig) want(state, got string) {
	r.t.Helper()
	if r.s.State() != state || string(r.conn.got) != got {
		r.t.Errorf("%s, target has %q; want %s, %q", r.s.State(), r.conn.got, state, got)
	}
}

// account checks the one account of the session.
func (r *rig) account(want frame.Closed) {
	r.t.Helper()
	if len(r.log.closed) != 1 {
		r.t.Fatalf("%d accounts in state %s, want one", len(r.log.closed), r.s.State())
	}
	if got := r.log.closed[0]; got != want {
		r.t.Errorf("account\n %+v, want\n %+v", got, want)
	}
	if !r.conn.released || r.sh.Queued() != 0 || len(r.sh.timers.heap) != 0 {
		r.t.Errorf("left over: released %v, %d bytes queued, %d timers",
			r.conn.released, r.sh.Queued(), len(r.sh.timers.heap))
	}
}
