package netstack

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// Line is the network that is emulated between each session and its target; the
// zero value is none. Each session has a line of its own, with two directions.
type Line struct {
	RTT       time.Duration // half of it each way
	Jitter    time.Duration // RTT of a packet is up to so much more or less; none overtakes another
	Leased    bool          // the round-trip time is that of the lease, not RTT
	Bandwidth int64         // bits per second each way, 0 for no limit
	Loss      float64       // share of the packets that are lost, each way
}

// Bounds of an emulated network.
const (
	// MaxRTT is the longest that is emulated: a handshake has connectTimeout.
	MaxRTT  = 2 * time.Second
	minRate = 8000 // a packet takes 1.5 s
	maxLoss = 0.5
	// lineMTU is what an emulated network carries.
	lineMTU = 1500
)

func (l *Line) on() bool {
	return l.RTT > 0 || l.Leased || l.Jitter > 0 || l.Bandwidth > 0 || l.Loss > 0
}

// single reports whether each packet counts by itself, and must be as large as on
// the wire.
func (l *Line) single() bool { return l.Bandwidth > 0 || l.Loss > 0 }

// Check says what is wrong with l.
func (l *Line) Check() error {
	switch {
	case l.RTT < 0 || l.RTT > MaxRTT:
		return fmt.Errorf("round-trip time %v: must be 0 to %v", l.RTT, MaxRTT)
	case l.Jitter < 0 || !l.Leased && l.Jitter > l.RTT:
		return fmt.Errorf("jitter %v: must be 0 to the round-trip time", l.Jitter)
	case l.Bandwidth < 0 || l.Bandwidth > 0 && l.Bandwidth < minRate:
		return fmt.Errorf("bandwidth %d bit/s: must be %d or more", l.Bandwidth, minRate)
	case !(l.Loss >= 0 && l.Loss <= maxLoss):
		return fmt.Errorf("loss of %g %%: must be 0 to %g %%", l.Loss*100, maxLoss*100)
	case l.Leased && l.RTT > 0:
		return errors.New("round-trip time: either the lease's or one for all")
	}
	return nil
}

const (
	// maxDelayed bounds the packets in the lines of one stack, about 1 KB each at
	// most: payload to the target is the session's send buffer, which is bounded by
	// itself, and of the target's packets there are only headers.
	maxDelayed = 1 << 17
	// lineBuffer is how long a packet waits at most for those before it, as in the
	// buffer of a router.
	lineBuffer = 200 * time.Millisecond
	// lineGrid has packets arrive together that do so nearly: a wake-up for each
	// would cost more than the packet.
	lineGrid = 250 * time.Microsecond
)

// lines are the emulated network of one stack: one heap and one goroutine for the
// packets of all its sessions. The order within one direction of a session is
// kept.
type lines struct {
	cfg   Line
	stack *Stack
	injector
	now  func() time.Duration
	kick chan struct{} // capacity 1: something is due earlier than the timer

	mu     sync.Mutex
	heap   []delayed // least due first
	count  uint64
	armed  time.Duration // when the goroutine wakes up by itself
	rng    *rand.Rand
	spare  []*arrival
	closed bool

	lost, full, unknown atomic.Uint64
}

// delayed is one packet under way. It holds a reference to pkt.
type delayed struct {
	due     time.Duration
	number  uint64 // the earlier of two that are due together
	conn    *Conn
	pkt     *stack.PacketBuffer // to the target, or nil
	arrived *arrival            // from the target, or nil
}

// arrival is a packet of the target: its headers.
type arrival struct {
	headers []byte
	options int
	payload int
}

// connLine is a conn's part. Directions are guarded by the lines' mutex.
type connLine struct {
	half     time.Duration // of the round-trip time
	out, in  direction
	leaving  atomic.Int32 // packets to the target under way
	finished atomic.Bool  // the stack has let go of the endpoint: tell when leaving is 0
}

// busy reports whether packets to the target are under way. The owner is told when
// they have left, if they are.
func (c *connLine) busy() bool {
	c.finished.Store(true)
	return c.leaving.Load() > 0
}

// A direction remembers the packet before.
type direction struct {
	free time.Duration // when the last bit of it was sent
	last time.Duration // when it arrives
}

func newLines(s *Stack, cfg Line, now func() time.Duration) *lines {
	return &lines{
		cfg: cfg, stack: s, injector: newInjector(), now: now, kick: make(chan struct{}, 1),
		rng: rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())),
	}
}

// line returns a new conn's part.
func (l *lines) line(lease time.Duration) *connLine {
	rtt := l.cfg.RTT
	if l.cfg.Leased {
		if rtt = min(lease, MaxRTT); rtt <= 0 {
			rtt = 0
			l.unknown.Add(1)
		}
	}
	return &connLine{half: rtt / 2}
}

// send takes a packet to the target, with its reference.
func (l *lines) send(p outPacket) {
	size := p.pkt.Size()
	p.conn.line.leaving.Add(1)
	if !l.put(&p.conn.line.out, size, delayed{conn: p.conn, pkt: p.pkt}) {
		p.pkt.DecRef()
		l.left(p.conn)
	}
}

// receive takes a packet of the target; it borrows headers.
func (l *lines) receive(c *Conn, headers []byte, options, payload int) {
	l.mu.Lock()
	var a *arrival
	if n := len(l.spare); n > 0 {
		a = l.spare[n-1]
		l.spare = l.spare[:n-1]
	} else {
		a = &arrival{}
	}
	l.mu.Unlock()
	a.headers, a.options, a.payload = append(a.headers[:0], headers...), options, payload
	if !l.put(&c.line.in, len(headers)+payload, delayed{conn: c, arrived: a}) {
		l.recycle(a)
	}
}

// put enters a packet, or loses it.
func (l *lines) put(d *direction, size int, p delayed) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	if l.cfg.Loss > 0 && l.rng.Float64() < l.cfg.Loss {
		l.lost.Add(1)
		return false
	}
	now := l.now()
	sent := max(now, d.free)
	if l.cfg.Bandwidth > 0 {
		takes := time.Duration(int64(size) * 8 * int64(time.Second) / l.cfg.Bandwidth)
		if sent-now > max(lineBuffer, takes) {
			l.full.Add(1)
			return false
		}
		sent += takes
	}
	if len(l.heap) >= maxDelayed {
		l.full.Add(1)
		return false
	}
	d.free = sent
	due := sent + p.conn.line.half
	if j := int64(l.cfg.Jitter) / 2; j > 0 {
		due += time.Duration(l.rng.Int64N(2*j+1) - j)
	}
	due = (max(due, d.last) + lineGrid - 1) / lineGrid * lineGrid
	d.last = due
	p.due, p.number = due, l.count
	l.count++
	l.push(p)
	if due < l.armed {
		l.wake()
	}
	return true
}

func (l *lines) wake() {
	select {
	case l.kick <- struct{}{}:
	default:
	}
}

// run delivers packets when they are due. It ends when stop is closed.
func (l *lines) run(stop <-chan struct{}) {
	defer l.injector.close()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-stop:
			return
		case <-l.kick:
		case <-timer.C:
		}
		l.deliver(l.now())
		l.mu.Lock()
		l.armed = l.now() + time.Hour
		if len(l.heap) > 0 {
			l.armed = l.heap[0].due
		}
		wait := l.armed - l.now()
		l.mu.Unlock()
		timer.Reset(wait)
	}
}

// deliver takes what is due out of the lines, in order.
func (l *lines) deliver(now time.Duration) {
	o := l.stack.out
	o.writing.Lock()
	defer o.writing.Unlock()
	for {
		p, ok := l.take(now)
		switch {
		case !ok:
			return
		case p.pkt != nil:
			o.write(outPacket{p.conn, p.pkt})
			l.left(p.conn)
		case l.stack.slots(p.conn.path.v6).at(p.conn.slot) != p.conn:
			l.recycle(p.arrived) // it is forgotten, and its place may be another's
		default:
			l.inject(l.stack, p.conn, p.arrived.headers, p.arrived.options, p.arrived.payload)
			l.recycle(p.arrived)
		}
	}
}

// take removes the packet that is due first, if its time has come.
func (l *lines) take(now time.Duration) (p delayed, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.heap) == 0 || l.heap[0].due > now {
		return p, false
	}
	return l.pop(), true
}

// left notes that a packet to the target has left its line.
func (l *lines) left(c *Conn) {
	if c.line.leaving.Add(-1) == 0 && c.line.finished.Load() {
		c.mark()
	}
}

func (l *lines) recycle(a *arrival) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.spare = append(l.spare, a)
}

// last has what enters from now on neither be lost nor wait for its turn: the resets
// at the end, behind which nothing would end the target's sockets.
func (l *lines) last() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cfg.Loss, l.cfg.Bandwidth = 0, 0
}

// close delivers what is on its way to the target at once, so that its sockets end
// with the responder, and drops the rest and what comes later.
func (l *lines) close() {
	o := l.stack.out
	o.writing.Lock()
	defer o.writing.Unlock()
	o.drain()
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	for {
		p, ok := l.take(1<<63 - 1)
		if !ok {
			return
		}
		if p.pkt != nil {
			o.write(outPacket{p.conn, p.pkt})
		}
	}
}

func (l *lines) addStats(s *Stats) {
	s.LineLost += l.lost.Load()
	s.LineFull += l.full.Load()
	s.LineUnknown += l.unknown.Load()
}
