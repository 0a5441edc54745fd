package copier

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"flowtwin/copier/report"
	"flowtwin/internal/flow"
	"flowtwin/internal/packet"
)

// What is not admitted must count as one flow, and all its bytes under the reason.
func TestRefusals(t *testing.T) {
	tests := []struct {
		name   string
		why    report.Reason
		before func(b *bench)
	}{
		{"tunnel is down", report.TunnelDown, func(b *bench) { b.lane.up = false }},
		{"lane is half full", report.Overload, func(b *bench) { b.lane.room = 499 }},
		{"no room for Open", report.Overload, func(b *bench) { b.lane.jam = true }},
		{"shutting down", report.Draining, func(b *bench) { b.ask(phaseDraining) }},
		{"table is full", report.TableFull, func(b *bench) {
			for port := uint16(1); ; port++ {
				c := newConn()
				c.client = netip.AddrPortFrom(c.client.Addr(), port)
				b.feed(c.handshake()...)
				if b.book.Flows.Refused[report.TableFull] > 0 {
					b.book = report.Ledger{} // from here on
					b.lane.sessions = nil
					b.book.Flows.Seen, b.book.Flows.Admitted, b.book.Flows.Live = 64, 64, 64
					b.book.Sessions.Opened, b.book.Sessions.Open = 64, 64
					return
				}
			}
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b, c := newBench(t), newConn()
			b.table = flow.NewTable[record](64)
			tt.before(b)
			b.feed(c.handshake()...)
			b.feed(c.syn(), c.data("one"), c.answer(10), c.data("two"), c.fin(), c.serverFin())
			if len(b.lane.sessions) != 0 {
				t.Fatal("was opened")
			}
			b.wantDropped(tt.why, 6)
			if got := b.book.Flows.Refused[tt.why]; got != 1 {
				t.Errorf("%d flows refused, want 1", got)
			}
			// The next connection of the client is another matter.
			b.lane.up, b.lane.room, b.lane.jam = true, 1000, false
			if tt.why == report.Draining || tt.why == report.TableFull {
				return
			}
			next := newConn()
			next.iss = 77
			b.feed(next.handshake()...)
			b.feed(next.data("hello"))
			b.wantData(b.session(), "hello")
		})
	}
}

// With --midstream=skip.
func TestMidstreamSkipped(t *testing.T) {
	b, c := newBench(t), newConn()
	b.skip = true
	b.feed(c.ack(), c.answer(10))
	if b.book.Flows.Seen != 0 || b.book.Packets.NoFlow != 2 {
		t.Errorf("packets without data made a flow: %+v", b.book.Flows)
	}
	b.feed(c.data("one"), c.answer(10), c.data("two"))
	if got := b.book.Flows.Refused[report.Midstream]; got != 1 {
		t.Errorf("%d midstream flows, want 1", got)
	}
	b.wantDropped(report.Midstream, 6)
	b.feed(c.handshake()...) // the same ISN means nothing: that one's was never seen
	b.session()
}

func TestNeverEstablished(t *testing.T) {
	tests := map[string]func(b *bench, c *conn){
		"no answer":           func(b *bench, c *conn) { b.feed(c.syn(), c.syn()); b.wait(2 * time.Minute) },
		"server refuses":      func(b *bench, c *conn) { b.feed(c.syn(), c.out(packet.RST|packet.ACK, -1, 0)) },
		"client gives up":     func(b *bench, c *conn) { b.feed(c.syn(), c.synAck(), c.in(packet.RST, 0, "")) },
		"client begins again": func(b *bench, c *conn) { b.feed(c.syn()); c.iss += 5000; b.feed(c.syn()); b.wait(2 * time.Minute) },
	}
	for name, script := range tests {
		t.Run(name, func(t *testing.T) {
			b, c := newBench(t), newConn()
			script(b, c)
			f := &b.book.Flows
			if f.Refused[report.NeverEstablished] != f.Seen || f.Seen == 0 || b.table.Len() != 0 || len(b.lane.sessions) != 0 {
				t.Errorf("flows %+v, %d in the table, %d opened", f, b.table.Len(), len(b.lane.sessions))
			}
		})
	}
}

// Data in the SYN (TCP Fast Open), which the server takes or asks for again.
func TestDataInSYN(t *testing.T) {
	for name, taken := range map[string]bool{"taken": true, "asked for again": false} {
		t.Run(name, func(t *testing.T) {
			b, c := newBench(t), newConn()
			syn := c.in(packet.SYN, 0, "early")
			if taken {
				c.sent = 5
			}
			b.feed(syn, c.synAck())
			c.sent = 5
			if !taken {
				b.feed(c.in(packet.ACK, 0, "early"))
			}
			b.feed(c.answer(10), c.ack(), c.data(" more"))
			b.wantData(b.session(), "early more")
			if s := b.session(); s.seens[len(s.seens)-1] != 10 {
				t.Errorf("seen %v, want 10 at last", s.seens)
			}
		})
	}
}

// The SYN-ACK may have been dropped by the ring; the client's ACK tells the same.
func TestMissedSynAck(t *testing.T) {
	b, c := newBench(t), newConn()
	b.feed(c.syn(), c.ack(), c.data("a"), c.answer(7), c.ack(), c.data("b"))
	if s := b.session(); !slices.Equal(s.seens, []uint64{0, 7}) || s.open.RTT != 0 {
		t.Errorf("seen %v, RTT %d", s.seens, s.open.RTT)
	}
}

// An ACK of the tuple's last connection does not complete the new one's handshake.
func TestStaleAck(t *testing.T) {
	b, c := newBench(t), newConn()
	b.feed(c.syn(), c.synAck())
	stale := newConn()
	stale.irs -= 100_000
	b.feed(stale.ack())
	if len(b.lane.sessions) != 0 {
		t.Fatal("opened")
	}
	b.feed(c.ack())
	b.session()
}

func TestMapsAndFaults(t *testing.T) {
	b, c := newBench(t), newConn()
	c.server = netip.MustParseAddrPort("10.0.0.1:81")
	b.feed(c.syn(), c.data("x"), c.answer(1))
	// Port 443 of any local address: not that of a host which this one visits.
	c.server = netip.MustParseAddrPort("203.0.113.5:443")
	b.feed(c.syn(), c.data("x"))
	if b.book.Packets.Unmapped != 5 || b.book.Flows.Seen != 0 {
		t.Errorf("packets %+v", b.book.Packets)
	}
	c.server = netip.MustParseAddrPort("127.0.0.2:443")
	b.feed(c.handshake()...)
	if s := b.session(); s.open.Map != 1 {
		t.Errorf("map %d, want 1", s.open.Map)
	}
	p := c.syn()
	p.Data = p.Data[:30]
	b.feed(p)
	p.Data = nil
	b.feed(p)
	if b.book.Packets.Truncated != 2 {
		t.Errorf("packets %+v", b.book.Packets)
	}
}
