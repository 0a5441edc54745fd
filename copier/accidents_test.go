package copier

import (
	"slices"
	"testing"

	"flowtwin/copier/capture"
	"flowtwin/copier/report"
	"flowtwin/internal/packet"
	"flowtwin/internal/packet/packettest"
)

// The SYN was missed: the server's answer to it tells the same.
func TestMissedSyn(t *testing.T) {
	b, c := newBench(t), newConn()
	b.feed(c.synAck(), c.ack())
	b.does(c, request(1), 10)
	b.does(c, request(2), 10)
	b.feed(c.fin(), c.serverFin(), c.ack())
	s := b.session()
	b.wantData(s, request(1)+request(2))
	if s.open.Key.ISS != c.iss || b.book.Flows.Adopted != 0 || !slices.Equal(s.seens, []uint64{0, 10}) {
		t.Errorf("opened with %+v, seen %v, flows %+v", s.open, s.seens, b.book.Flows)
	}
	c.sent = 0
	b.feed(c.synAck()) // a late one is none of a new connection
	if b.book.Flows.Seen != 1 {
		t.Errorf("flows %+v", b.book.Flows)
	}
}

// Urgent data goes on as ordinary bytes, which is said.
func TestUrgentIsCounted(t *testing.T) {
	b, c := newBench(t), newConn()
	b.feed(c.handshake()...)
	b.feed(c.data("a"), c.in(packet.ACK|packet.URG|packet.PSH, 1, "!"))
	c.sent++
	b.feed(c.data("b"))
	b.wantData(b.session(), "a!b")
	if b.book.Client.Urgent != 1 {
		t.Errorf("%d urgent segments", b.book.Client.Urgent)
	}
}

// Where a client sends other bytes the second time, the first ones stand, as far as
// they are still known here; the rest counts as sent again.
func TestOverlapsWithOtherBytes(t *testing.T) {
	b, c := newBench(t), newConn()
	b.feed(c.handshake()...)
	b.feed(c.data("first"), c.in(packet.ACK, 3, "XXsecond"))
	b.wantData(b.session(), "firstsecond")
	if got := b.book.Client; got.Retransmitted.Bytes != 2 || got.Conflicts != 0 {
		t.Errorf("client %+v", got)
	}
	c.sent = len("firstsecond")
	b.feed(c.in(packet.ACK, c.sent+3, "third"), c.in(packet.ACK, c.sent, "gapXXird"))
	b.wantData(b.session(), "firstsecondgapthird")
	if got := b.book.Client; got.Conflicts != 1 || got.Retransmitted.Bytes != 2+5 {
		t.Errorf("client %+v", got)
	}
}

// A zero window, the client's probes of it and what it sends when it opens.
func TestZeroWindow(t *testing.T) {
	b, c := newBench(t), newConn()
	b.feed(c.handshake()...)
	b.feed(c.data("full"), c.window(0))
	probe := c.in(packet.ACK, c.sent, "m") // of the next byte, as some stacks do
	b.feed(probe, c.window(0), c.in(packet.ACK, c.sent-1, ""), c.window(0), probe, c.window(65535))
	b.does(c, "more", 10)
	b.wantData(b.session(), "fullmore")
	if got := b.book.Client; got.Missing != 0 || got.Retransmitted.Bytes != 2 {
		t.Errorf("client %+v", got)
	}
}

// window makes the server's ACK with a window.
func (c *conn) window(n uint16) capture.Packet {
	return c.captured(packettest.Packet{
		Src: c.server, Dst: c.client, Flags: packet.ACK, Seq: c.irs.Add(1 + c.answered), Ack: c.iss.Add(1 + c.sent), Window: n,
	}, false)
}

// Both sides close before they see the other's FIN, in either order of capture.
func TestSimultaneousClose(t *testing.T) {
	for name, client := range map[string]bool{"the client's FIN first": true, "the server's FIN first": false} {
		t.Run(name, func(t *testing.T) {
			b, c := newBench(t), newConn()
			b.feed(c.handshake()...)
			b.does(c, "x", 5)
			mine, its := c.in(packet.FIN|packet.ACK, c.sent, ""), c.out(packet.FIN|packet.ACK, c.answered, 0)
			c.sent, c.answered = c.sent+1, c.answered+1
			if client {
				b.feed(mine, its)
			} else {
				b.feed(its, mine)
			}
			b.feed(c.ack(), c.out(packet.ACK, c.answered, 0))
			if s := b.session(); !slices.Equal(s.ends, []string{"fin"}) || b.table.Len() != 0 {
				t.Errorf("ends %v, %d flows are left", s.ends, b.table.Len())
			}
			if f := &b.book.Flows; f.Ended[report.ClientFirst]+f.Ended[report.ServerFirst] != 1 {
				t.Errorf("flows %+v", f)
			}
		})
	}
}
