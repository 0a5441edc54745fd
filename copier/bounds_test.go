package copier

import (
	"net/netip"
	"reflect"
	"testing"
	"time"

	"flowtwin/copier/report"
	"flowtwin/internal/flow"
	"flowtwin/tunnel/frame"
)

// caller returns the n-th client's connection.
func caller(n int) *conn {
	c := newConn()
	c.client = netip.AddrPortFrom(netip.AddrFrom4([4]byte{100, byte(n >> 16), byte(n >> 8), byte(n)}), 40000)
	return c
}

// A flood of SYNs takes its own share of the table, not that of connections.
func TestSynFlood(t *testing.T) {
	b := newBench(t)
	b.table = flow.NewTable[record](64)
	for n := range 1000 {
		b.feed(caller(n).syn())
		if n%20 == 0 {
			b.feed(caller(10_000 + n).handshake()...)
		}
	}
	f := &b.book.Flows
	if f.Live != 50 || f.Pending > 8 || f.Refused[report.TableFull] != 0 || f.Refused[report.NeverEstablished] != 1000-f.Pending {
		t.Errorf("flows %+v", f)
	}
	// The one evicted was the oldest.
	b.feed(caller(999).synAck(), caller(999).ack())
	if f.Live != 51 {
		t.Errorf("the latest did not get in: %+v", f)
	}
}

// The server's repeated SYN-ACKs do not keep a client's SYN alive.
func TestPendingCountsFromTheSyn(t *testing.T) {
	b, c := newBench(t), newConn()
	b.feed(c.syn(), c.synAck())
	for range 5 {
		b.wait(16 * time.Second)
		b.feed(c.synAck())
	}
	if b.book.Flows.Refused[report.NeverEstablished] != 1 || b.table.Len() != 0 {
		t.Errorf("flows %+v", b.book.Flows)
	}
	again := newConn()
	again.iss = 7
	b.feed(again.syn())
	for range 5 {
		b.wait(16 * time.Second)
		b.feed(again.syn())
	}
	if b.book.Flows.Pending != 1 {
		t.Error("a client that tries on was given up")
	}
}

// What has closed on one side, or is not copied any more, does not keep its slot
// for hours.
func TestDeadConnectionsLeave(t *testing.T) {
	tests := map[string]func(b *bench, c *conn){
		"the client's FIN was missed": func(b *bench, c *conn) { b.feed(c.data("a"), c.serverFin()) },
		"the server's FIN was missed": func(b *bench, c *conn) { b.feed(c.data("a"), c.fin()) },
		"the server's FIN was missed, the account came later": func(b *bench, c *conn) {
			b.lane.answers = false
			b.feed(c.data("a"), c.fin())
			b.lane.close(b.session(), frame.ClosedBoth)
		},
		"given up": func(b *bench, c *conn) { b.feed(c.data("a")); c.data("lost"); b.feed(c.data("b"), c.answer(1)) },
	}
	for name, script := range tests {
		t.Run(name, func(t *testing.T) {
			b, c := newBench(t), newConn()
			b.feed(c.handshake()...)
			script(b, c)
			b.wait(2 * time.Minute)
			if b.table.Len() != 1 {
				t.Error("left early")
			}
			b.wait(5 * time.Minute)
			if b.table.Len() != 0 {
				t.Errorf("state %d is still there", b.table.At(0).state)
			}
		})
	}
	b, c := newBench(t), newConn()
	b.feed(c.handshake()...)
	b.wait(2 * time.Hour)
	if b.book.Flows.Live != 1 {
		t.Error("an idle connection was given up")
	}
}

// When the table is full, flows that are not copied any more make way, and what
// comes of them still counts as theirs.
func TestFullTableEvictsShunned(t *testing.T) {
	b := newBench(t)
	b.table = flow.NewTable[record](8)
	conns := make([]*conn, 8)
	for n := range conns {
		conns[n] = caller(n)
		b.feed(conns[n].handshake()...)
	}
	b.lane.full = true
	b.feed(conns[5].data("x"), conns[2].data("x"))
	b.lane.full = false
	b.wait(time.Second)
	next := caller(100)
	b.feed(next.handshake()...)
	b.feed(conns[5].data("yy"), conns[2].data("yy"))
	f := &b.book.Flows
	if f.Live != 7 || f.Refused[report.TableFull] != 0 || f.Refused[report.Midstream] != 0 {
		t.Errorf("flows %+v", f)
	}
	b.wantDropped(report.Overload, 6)
	if b.known.find(&flow.Tuple{}) != nil || b.table.Len() != 8 {
		t.Errorf("%d in the table", b.table.Len())
	}
	if _, ok := b.known.where(conns[5]); !ok {
		t.Error("not the one that was shunned first was evicted")
	}
}

// where finds what is known of c.
func (m *memory) where(c *conn) (*memo, bool) {
	p := c.syn()
	b := bench{shard: &shard{}}
	b.view.Parse(p.Data, p.WireLen)
	v := &b.view
	e := m.find(&flow.Tuple{Client: v.Src, Server: v.Dst, ClientPort: v.SrcPort, ServerPort: v.DstPort})
	return e, e != nil
}

// Connections that began before the copier are counted once, however many.
func TestManyMidstreamFlows(t *testing.T) {
	const flows = 20_000
	b := newBench(t)
	b.skip = true
	conns := make([]*conn, flows)
	for round := range 2 {
		for n := range conns {
			if round == 0 {
				conns[n] = caller(n)
			}
			p := conns[n].data("x")
			b.one(&p)
		}
	}
	// A few may be forgotten where many happen to have the same place.
	if got := b.book.Flows.Refused[report.Midstream]; got < flows || got > flows+flows/200 {
		t.Errorf("%d midstream flows, want %d", got, flows)
	}
	b.check()
}

// Connections that happen to have the same place do not push each other out again and
// again.
func TestMemoryMakesRoomForNeighbours(t *testing.T) {
	m := newMemory(1 << 17)
	var same []memo
	for n := 0; len(same) <= memoryWays; n++ {
		e := memo{drop: report.Midstream}
		e.tuple.ClientPort, e.tuple.Client[15] = uint16(n), byte(n>>16)
		if len(same) == 0 || m.index(&e.tuple) == m.index(&same[0].tuple) {
			same = append(same, e)
		}
	}
	missed := 0
	for range 1000 {
		for _, e := range same {
			if m.find(&e.tuple) == nil {
				missed++
				m.put(e, 1)
			}
		}
	}
	if missed > 50 {
		t.Errorf("%d times not known", missed)
	}
}

// A memory that only sees connections come and go does not grow.
func TestMemoryForgetsEnded(t *testing.T) {
	m := newMemory(1 << 17)
	e := memo{}
	for n := range 100_000 {
		e.tuple.ClientPort, e.tuple.Client[15] = uint16(n), byte(n>>16)
		m.put(e, int64(n)*int64(300*time.Millisecond))
	}
	if len(m.sets) > 2*memoryFirst {
		t.Errorf("grew to %d sets", len(m.sets))
	}
	m = newMemory(1 << 10)
	e.drop = report.Midstream
	for n := range 100_000 {
		e.tuple.ClientPort, e.tuple.Client[15] = uint16(n), byte(n>>16)
		m.put(e, int64(n))
	}
	if len(m.sets) != m.max || m.max != memoryFirst {
		t.Errorf("grew to %d sets of %d", len(m.sets), m.max)
	}
}

// What is said of their sizes.
func TestSizes(t *testing.T) {
	if n := reflect.TypeFor[record]().Size(); n > 256 {
		t.Errorf("a record has %d bytes", n)
	}
	if n := reflect.TypeFor[memo]().Size(); n > 52 {
		t.Errorf("a memo has %d bytes", n)
	}
}
