package copier

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"
	"time"

	"flowtwin/copier/capture"
	"flowtwin/copier/report"
	"flowtwin/internal/packet"
	"flowtwin/internal/packet/packettest"
	"flowtwin/tunnel"
)

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
