package copier

import (
	"bytes"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"flowtwin/copier/capture"
	"flowtwin/copier/report"
	"flowtwin/internal/packet"
	"flowtwin/internal/packet/packettest"
	"flowtwin/tunnel"
	"flowtwin/tunnel/frame"
)

// fakeRing hands out the packets that a test has put in, all as one block.
type fakeRing struct {
	mu     sync.Mutex
	next   []capture.Packet
	block  []capture.Packet
	wake   chan struct{}
	closed bool
	stats  capture.Stats
	slow   time.Duration // not 0: a block is one packet, and takes so long
}

func newFakeRing() *fakeRing { return &fakeRing{wake: make(chan struct{}, 1)} }

func (r *fakeRing) put(p ...capture.Packet) {
	r.mu.Lock()
	r.next = append(r.next, p...)
	r.mu.Unlock()
	r.Wake()
}

func (r *fakeRing) Next(timeout time.Duration) (bool, error) {
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	for {
		r.mu.Lock()
		r.block, r.next = r.next, nil
		if r.slow > 0 && len(r.block) > 1 {
			r.block, r.next = r.block[:1], r.block[1:]
		}
		closed := r.closed
		r.mu.Unlock()
		switch {
		case closed:
			return false, os.ErrClosed
		case len(r.block) > 0:
			if r.slow > 0 {
				<-time.After(r.slow)
			}
			return true, nil
		case timeout == 0:
			return false, nil
		}
		select {
		case <-r.wake:
			r.mu.Lock()
			empty := len(r.next) == 0
			r.mu.Unlock()
			if empty {
				return false, nil
			}
		case <-timer.C:
			return false, nil
		}
	}
}

func (r *fakeRing) Packet(p *capture.Packet) bool {
	if len(r.block) == 0 {
		return false
	}
	*p, r.block = r.block[0], r.block[1:]
	return true
}

func (r *fakeRing) Release() {}

func (r *fakeRing) Wake() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

func (r *fakeRing) Stats() capture.Stats { return r.stats }

// fakeLane is a lane with a responder behind it, which keeps what it gets.
type fakeLane struct {
	bye      chan struct{} // a value: end all sessions, at the next Returns
	epoch    uint64
	up       bool
	full     bool // no room for Data
	jam      bool // no room for anything
	room     int
	answers  bool // accounts come by themselves once a flow has ended
	sessions []*fakeSession
	byFlow   map[uint32]*fakeSession
	returns  []byte
	misuse   []string // frames that the protocol does not allow
}

// fakeSession is what the responder knows of a flow.
type fakeSession struct {
	flow      uint32
	open      frame.Open
	data      []byte
	seens     []uint64
	segments  uint64
	finSeen   uint64
	finSecond bool
	ends      []string // fin, reset, abort:reason
	closed    bool
}

func newFakeLane() *fakeLane {
	return &fakeLane{epoch: 1, up: true, room: 1000, answers: true, bye: make(chan struct{}, 1), byFlow: make(map[uint32]*fakeSession)}
}

func (l *fakeLane) Epoch() uint64 { return l.epoch }
func (l *fakeLane) Up() bool      { return l.up }
func (l *fakeLane) Room() int     { return l.room }
func (l *fakeLane) Size() int     { return 1000 }
func (l *fakeLane) Flush()        {}

func (l *fakeLane) Open(flow uint32, o *frame.Open) bool {
	if !l.up || l.jam {
		return false
	}
	if s := l.byFlow[flow]; s != nil && !s.closed {
		l.misuse = append(l.misuse, "open of a number in use")
	}
	s := &fakeSession{flow: flow, open: *o}
	l.sessions = append(l.sessions, s)
	l.byFlow[flow] = s
	return true
}

func (l *fakeLane) Data(flow uint32, seen uint64, _ int64, payload []byte) bool {
	if !l.up || l.full || l.jam {
		return false
	}
	s := l.byFlow[flow]
	if s == nil || len(s.ends) > 0 {
		l.misuse = append(l.misuse, "data of a flow that is not open")
		return true
	}
	if s.closed {
		return true // on its way when the session ended
	}
	s.data = append(s.data, payload...)
	s.seens = append(s.seens, seen)
	s.segments++
	return true
}

func (l *fakeLane) end(flow uint32, how string) bool {
	if !l.up || l.jam {
		return false
	}
	s := l.byFlow[flow]
	if s == nil || len(s.ends) > 0 && (s.ends[0] != "fin" || how == "fin") {
		l.misuse = append(l.misuse, how+" of a flow that is not open")
		return true
	}
	s.ends = append(s.ends, how)
	if l.answers {
		l.close(s, frame.ClosedBoth)
	}
	return true
}

func (l *fakeLane) Fin(flow uint32, seen uint64, second bool) bool {
	if s := l.byFlow[flow]; s != nil {
		s.finSeen, s.finSecond = seen, second
	}
	return l.end(flow, "fin")
}

func (l *fakeLane) Reset(flow uint32, _ uint64) bool { return l.end(flow, "reset") }
func (l *fakeLane) Abort(flow uint32, r frame.AbortReason) bool {
	return l.end(flow, "abort:"+r.String())
}

// close sends the session's account: everything was delivered.
func (l *fakeLane) close(s *fakeSession, how frame.CloseHow) {
	if s.closed {
		return
	}
	s.closed = true
	l.returns = frame.AppendClosed(l.returns, s.flow, &frame.Closed{
		How: how, DeliveredBytes: uint64(len(s.data)), DeliveredSegments: s.segments, Turns: 1,
	})
}

// crash breaks the connection and makes a new one.
func (l *fakeLane) crash() {
	l.epoch++
	l.returns = nil
	for _, s := range l.sessions {
		s.closed = true
	}
	l.byFlow = make(map[uint32]*fakeSession)
}

func (l *fakeLane) Returns() ([]byte, uint64) {
	select {
	case <-l.bye:
		for _, s := range l.sessions {
			l.close(s, frame.ClosedDrain)
		}
	default:
	}
	b := l.returns
	l.returns = nil
	return b, l.epoch
}

// sink is a lane with nothing behind it but accounts, for measuring.
type sink struct {
	*fakeLane
	sent map[uint32]*[2]uint64
}

func (l *sink) Open(flow uint32, _ *frame.Open) bool {
	if l.sent[flow] == nil {
		l.sent[flow] = new([2]uint64)
	}
	*l.sent[flow] = [2]uint64{}
	return true
}

func (l *sink) Data(flow uint32, _ uint64, _ int64, payload []byte) bool {
	n := l.sent[flow]
	n[0]++
	n[1] += uint64(len(payload))
	return true
}

func (l *sink) Fin(flow uint32, _ uint64, _ bool) bool {
	n := l.sent[flow]
	l.returns = frame.AppendClosed(l.returns, flow, &frame.Closed{
		How: frame.ClosedBoth, DeliveredSegments: n[0], DeliveredBytes: n[1],
	})
	return true
}

func (l *sink) Returns() ([]byte, uint64) {
	b := l.returns
	l.returns = l.returns[:0]
	return b, l.epoch
}

var (
	onlineAddr = netip.MustParseAddrPort("10.0.0.1:80")
	clientAddr = netip.MustParseAddrPort("192.0.2.7:40000")
)

func testMaps() *mapping {
	return newMapping([]tunnel.Map{
		{Server: onlineAddr.Addr(), Port: 80, Target: netip.MustParseAddrPort("10.9.0.1:8080")},
		{Port: 443, Target: netip.MustParseAddrPort("10.9.0.1:8443")},
	})
}

// bench is a shard on a test's bench, driven packet by packet.
type bench struct {
	*shard
	t    *testing.T
	ring *fakeRing
	lane *fakeLane
	now  int64
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{t: t, ring: newFakeRing(), lane: newFakeLane(), now: int64(time.Hour)}
	b.shard = newShard(b.ring, b.lane, testMaps(), 1, func() time.Duration { return 0 })
	t.Cleanup(func() {
		for _, m := range b.lane.misuse {
			t.Errorf("protocol broken: %s", m)
		}
		b.check()
	})
	return b
}

// feed captures packets, each in a block of its own, a millisecond apart.
func (b *bench) feed(packets ...capture.Packet) {
	b.t.Helper()
	for i := range packets {
		b.now += int64(time.Millisecond)
		p := packets[i]
		p.Time = b.now
		b.clock = b.now
		b.follow()
		b.one(&p)
		b.turn()
	}
	b.follow()
	b.turn()
	b.check()
}

// wait lets time pass without a packet.
func (b *bench) wait(d time.Duration) {
	b.t.Helper()
	for end := b.now + int64(d); b.now < end; {
		b.now = min(b.now+int64(time.Second), end)
		b.clock = b.now
		b.follow()
		b.turn()
	}
	b.check()
}

func (b *bench) check() {
	b.t.Helper()
	b.publish()
	for _, w := range b.book.Check() {
		b.t.Errorf("books: %s", w)
	}
}

// session returns the only session there is.
func (b *bench) session() *fakeSession {
	b.t.Helper()
	if len(b.lane.sessions) != 1 {
		b.t.Fatalf("%d sessions, want 1", len(b.lane.sessions))
	}
	return b.lane.sessions[0]
}

func (b *bench) wantData(s *fakeSession, want string) {
	b.t.Helper()
	if !bytes.Equal(s.data, []byte(want)) {
		b.t.Errorf("session got %q, want %q", s.data, want)
	}
}

func (b *bench) wantDropped(why report.Reason, n uint64) {
	b.t.Helper()
	if got := b.book.Client.Dropped[why].Bytes; got != n {
		b.t.Errorf("%d bytes dropped as %s, want %d", got, why, n)
	}
}

// A play is what can happen to an open flow, and what the target is to see of it.
type play struct {
	name   string
	script func(b *bench, c *conn)
	data   string
	ends   string
	check  func(b *bench) bool
}

func playAll(t *testing.T, plays []play) {
	t.Helper()
	for _, p := range plays {
		t.Run(p.name, func(t *testing.T) {
			b, c := newBench(t), newConn()
			b.feed(c.handshake()...)
			p.script(b, c)
			s := b.lane.sessions[0]
			b.wantData(s, p.data)
			if got := strings.Join(s.ends, " "); got != p.ends {
				t.Errorf("ends %q, want %q", got, p.ends)
			}
			if !p.check(b) {
				t.Errorf("books are %+v", b.book)
			}
		})
	}
}

// conn builds the packets of one connection.
type conn struct {
	client, server netip.AddrPort
	iss, irs       packet.Seq
	sent, answered int // so far, by c.data and c.answer
	iface          int32
}

func newConn() *conn { return &conn{client: clientAddr, server: onlineAddr, iss: 1000, irs: 5000} }

// in makes a packet to the server, n bytes into the stream of the client.
func (c *conn) in(flags packet.Flags, n int, payload string) capture.Packet {
	p := packettest.Packet{
		Src: c.client, Dst: c.server, Flags: flags, Payload: []byte(payload),
		Seq: c.iss.Add(1 + n), Ack: c.irs.Add(1 + c.answered),
	}
	if flags&packet.SYN != 0 {
		p.Seq, p.Ack = c.iss, 0
		p.Options = packettest.MSS(1400)
	}
	return c.captured(p, true)
}

// out makes a packet to the client, n bytes into the stream of the server.
func (c *conn) out(flags packet.Flags, n int, size int) capture.Packet {
	p := packettest.Packet{
		Src: c.server, Dst: c.client, Flags: flags, Payload: make([]byte, size),
		Seq: c.irs.Add(1 + n), Ack: c.iss.Add(1 + c.sent),
	}
	if flags&packet.SYN != 0 {
		p.Seq = c.irs
	}
	q := c.captured(p, false)
	q.Data = q.Data[:len(q.Data)-size] // cut to the headers
	return q
}

func (c *conn) captured(p packettest.Packet, toServer bool) capture.Packet {
	b := p.Bytes()
	return capture.Packet{Data: b, WireLen: len(b), Iface: c.iface, ToServer: toServer}
}

func (c *conn) syn() capture.Packet    { return c.in(packet.SYN, 0, "") }
func (c *conn) synAck() capture.Packet { return c.out(packet.SYN|packet.ACK, 0, 0) }
func (c *conn) ack() capture.Packet    { return c.in(packet.ACK, c.sent, "") }

func (c *conn) handshake() []capture.Packet {
	return []capture.Packet{c.syn(), c.synAck(), c.ack()}
}

// data sends the client's next bytes.
func (c *conn) data(s string) capture.Packet {
	p := c.in(packet.ACK|packet.PSH, c.sent, s)
	c.sent += len(s)
	return p
}

// answer sends the server's next bytes.
func (c *conn) answer(n int) capture.Packet {
	p := c.out(packet.ACK|packet.PSH, c.answered, n)
	c.answered += n
	return p
}

// fin closes the client's side. The server's later packets acknowledge it.
func (c *conn) fin() capture.Packet {
	p := c.in(packet.FIN|packet.ACK, c.sent, "")
	c.sent++
	return p
}

// serverFin closes the server's side.
func (c *conn) serverFin() capture.Packet {
	p := c.out(packet.FIN|packet.ACK, c.answered, 0)
	c.answered++
	return p
}
