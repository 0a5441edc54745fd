package copier

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"flowtwin/copier/report"
	"flowtwin/internal/flow"
	"flowtwin/internal/packet"
	"flowtwin/internal/packet/packettest"
)

// Each row is what comes late, early, or from somebody else, and must not end a
// flow that lives; or what could be that, and is the flow's end.
func TestOutOfSequence(t *testing.T) {
	const rst, fin = packet.RST | packet.ACK, packet.FIN | packet.ACK
	playAll(t, []play{
		{"FIN of an older connection", func(b *bench, c *conn) {
			b.feed(c.data("abc"), c.in(fin, -5000, ""), c.data("d"))
		}, "abcd", "", func(b *bench) bool { return b.book.Flows.Live == 1 }},

		{"FIN from far ahead", func(b *bench, c *conn) {
			b.feed(c.in(fin, 1<<29, ""), c.data("abc"), c.fin())
		}, "abc", "fin", func(*bench) bool { return true }},

		{"FIN that the client's data goes past", func(b *bench, c *conn) {
			b.feed(c.in(fin, 2, ""), c.data("abc"), c.data("d"), c.fin())
		}, "abcd", "fin", func(*bench) bool { return true }},

		{"segments without an ACK, which no server takes", func(b *bench, c *conn) {
			b.feed(c.in(packet.PSH, 0, "evil"), c.in(packet.FIN|packet.PSH|packet.URG, 0, "x"), c.in(packet.FIN, 0, ""), c.in(0, 3, "evil"))
			b.feed(c.data("abc"), c.data("d"))
		}, "abcd", "", func(b *bench) bool { return b.book.Flows.Live == 1 && b.book.Client.Dropped[report.Outside].Bytes == 9 }},

		{"reset that overtook data", func(b *bench, c *conn) {
			d := c.data("GET 1")
			b.feed(c.in(rst, c.sent, ""), d)
		}, "GET 1", "reset", func(b *bench) bool { return b.book.Flows.Ended[report.ClientReset] == 1 }},

		{"reset that overtook data and the FIN", func(b *bench, c *conn) {
			d, f := c.data("GET 1"), c.fin()
			b.feed(f, c.in(rst, c.sent, ""), d)
		}, "GET 1", "fin reset", func(b *bench) bool { return b.book.Flows.Ended[report.ClientReset] == 1 }},

		{"reset that overtook data, and the client's answer to the server's question", func(b *bench, c *conn) {
			c.data("lost")
			early := c.in(rst, c.sent, "")
			c.sent = 0
			b.feed(early, c.out(packet.ACK, 0, 0), c.in(packet.RST, 0, ""))
		}, "", "reset", func(*bench) bool { return true }},

		{"reset behind bytes that were not captured", func(b *bench, c *conn) {
			b.feed(c.data("a"))
			c.data("lost")
			b.feed(c.in(rst, c.sent, ""))
			if b.book.Flows.Live != 1 {
				t.Error("ended at once")
			}
			b.wait(5 * time.Second)
		}, "a", "reset", func(b *bench) bool { return b.book.Client.Missing == 4 }},

		{"forged reset inside the window", func(b *bench, c *conn) {
			b.feed(c.data("a"), c.in(rst, 5000, ""), c.out(packet.ACK, 0, 0))
			b.wait(time.Minute)
			b.feed(c.data("b"))
		}, "ab", "", func(b *bench) bool { return b.book.Flows.Live == 1 }},

		{"forged reset while the client sends", func(b *bench, c *conn) {
			b.feed(c.in(rst, 5000, ""))
			b.wait(time.Second)
			b.feed(c.data("a"))
			b.wait(time.Minute)
			b.feed(c.data("b"))
		}, "ab", "", func(b *bench) bool { return b.book.Flows.Live == 1 }},

		{"forged reset while the server sends", func(b *bench, c *conn) {
			b.feed(c.in(rst, 5000, ""))
			b.wait(time.Second)
			b.feed(c.answer(5000))
			b.wait(time.Minute)
			b.feed(c.data("a"))
		}, "a", "", func(b *bench) bool { return b.book.Flows.Live == 1 }},

		{"forged reset outside the window", func(b *bench, c *conn) {
			b.feed(c.in(packet.RST, 1<<29, ""))
			b.wait(time.Minute)
		}, "", "", func(b *bench) bool { return b.book.Flows.Live == 1 }},

		{"SYN that the server does not accept", func(b *bench, c *conn) {
			forged := newConn()
			forged.iss = 999_000
			b.feed(c.data("a"), forged.in(packet.SYN, 0, "evil"), forged.ack(), c.answer(1), c.data("b"))
			b.wait(2 * time.Minute)
		}, "ab", "", func(b *bench) bool {
			return b.book.Flows.Seen == 1 && b.book.Client.Dropped[report.NeverEstablished].Bytes == 4
		}},

		{"SYN that the server accepts", func(b *bench, c *conn) {
			again := newConn()
			again.iss, again.irs = 999_000, 777_000
			b.feed(c.data("a"))
			b.feed(again.handshake()...)
			b.feed(again.data("new"))
			if s := b.lane.sessions[1]; string(s.data) != "new" || s.open.MSS != 1400 || s.open.RTT == 0 {
				t.Errorf("new session is %+v", s)
			}
		}, "a", "abort:replaced", func(b *bench) bool { return b.book.Flows.Seen == 2 }},

		{"SYN that the client goes on from, with the server unseen", func(b *bench, c *conn) {
			b.table.At(0).heard = false
			again := newConn()
			again.iss = 999_000
			b.feed(c.data("a"), again.syn(), again.ack(), again.data("new"))
			if s := b.lane.sessions[1]; string(s.data) != "new" {
				t.Errorf("new session is %+v", s)
			}
		}, "a", "abort:replaced", func(b *bench) bool { return b.book.Flows.Seen == 2 }},

		{"the client's FIN was not captured, the server closes", func(b *bench, c *conn) {
			b.feed(c.data("a"))
			c.fin()
			b.feed(c.out(packet.ACK, 0, 0), c.serverFin())
		}, "a", "fin", func(b *bench) bool {
			return b.book.Client.Missing == 0 && b.book.Flows.Ended[report.ClientFirst] == 1
		}},

		{"the client's FIN was not captured, the server had closed", func(b *bench, c *conn) {
			b.feed(c.data("a"), c.serverFin())
			c.fin()
			b.feed(c.out(packet.ACK, c.answered, 0))
		}, "a", "fin", func(b *bench) bool { return b.book.Flows.Ended[report.ServerFirst] == 1 }},

		{"the client's FIN was not captured, and the server goes on", func(b *bench, c *conn) {
			b.feed(c.data("a"))
			c.fin()
			b.feed(c.out(packet.ACK, 0, 0), c.answer(100))
			b.wait(5 * time.Second)
		}, "a", "fin", func(b *bench) bool { return b.book.Client.Missing == 0 && b.book.Flows.Live == 1 }},

		{"one byte was not captured", func(b *bench, c *conn) {
			b.feed(c.data("a"))
			c.data("x")
			b.feed(c.answer(1), c.data("b"), c.answer(1))
		}, "a", "abort:capture_hole", func(b *bench) bool { return b.book.Client.Missing == 1 }},

		{"one byte that was captured after its ACK", func(b *bench, c *conn) {
			x := c.data("x")
			b.feed(c.answer(1), x)
			b.wait(time.Minute)
		}, "x", "", func(b *bench) bool { return b.book.Flows.Live == 1 }},

		{"segment behind the server's window", func(b *bench, c *conn) {
			b.feed(c.in(packet.ACK, 65535+windowSlack+1, "far"), c.data("a"))
		}, "a", "", func(b *bench) bool { return b.book.Client.Dropped[report.Outside].Bytes == 3 && b.store.Len() == 0 }},
	})
}

// A SYN in another's handshake takes over only when it is the one that the server
// answers.
func TestSynDuringHandshake(t *testing.T) {
	b, c := newBench(t), newConn()
	forged := newConn()
	forged.iss = 999_000
	b.feed(c.syn(), c.synAck(), forged.syn(), c.ack(), c.data("a"))
	b.wantData(b.session(), "a")
	if b.book.Flows.Seen != 1 {
		t.Errorf("flows %+v", b.book.Flows)
	}
}

// Windows are as the server offers them: scaled if both sides said so.
func TestScaledWindow(t *testing.T) {
	for name, offered := range map[string]bool{"scaled": true, "not offered by the client": false} {
		t.Run(name, func(t *testing.T) {
			b, c := newBench(t), newConn()
			syn := packettest.Packet{Src: c.client, Dst: c.server, Seq: c.iss, Flags: packet.SYN}
			if offered {
				syn.Options = packettest.WindowScale(2)
			}
			synAck := packettest.Packet{
				Src: c.server, Dst: c.client, Seq: c.irs, Ack: c.iss.Add(1), Flags: packet.SYN | packet.ACK,
				Options: packettest.WindowScale(8),
			}
			b.feed(c.captured(syn, true), c.captured(synAck, false), c.ack(), c.out(packet.ACK, 0, 0))
			b.feed(c.in(packet.ACK, 15<<20, "far"))
			if got := b.store.Len(); got == 1 != offered {
				t.Errorf("%d segments stored", got)
			}
		})
	}
}

// Nobody knows whether a server takes the data of a SYN before it says so.
func TestSynDataWaits(t *testing.T) {
	b, c := newBench(t), newConn()
	b.feed(c.in(packet.SYN, 0, "early"))
	if len(b.lane.sessions) != 0 || b.book.Client.Stored.Bytes != 5 {
		t.Fatalf("%d sessions, stored %+v", len(b.lane.sessions), b.book.Client.Stored)
	}
	b.wait(2 * time.Minute) // a flood of such SYNs reaches nobody
	b.wantDropped(report.NeverEstablished, 5)
	if b.store.Len() != 0 || b.table.Len() != 0 {
		t.Error("still there")
	}
}

// Without the SYN-ACK, where the answers begin is told by the first ACK.
func TestSynDataWithoutSynAck(t *testing.T) {
	b, c := newBench(t), newConn()
	c.irs = 900_000_000
	b.feed(c.in(packet.SYN, 0, "POST /x"))
	c.sent = 7
	b.feed(c.data("abc"), c.answer(10), c.data("d"))
	b.wantData(b.session(), "POST /xabcd")
	if s := b.session(); !slices.Equal(s.seens, []uint64{0, 0, 10}) {
		t.Errorf("seen %v, want [0 0 10]", s.seens)
	}
}

// Only the SYN-ACK was missed: what the server has not acknowledged will come.
func TestNotBlindWithoutSynAck(t *testing.T) {
	b, c := newBench(t), newConn()
	b.feed(c.syn(), c.ack())
	lost, next := c.data("aaaa"), c.data("bbbb")
	c.sent = 0
	b.feed(next, c.out(packet.ACK, 0, 0))
	b.wait(10 * time.Second)
	b.feed(lost)
	b.wantData(b.session(), "aaaabbbb")
}

// When the store is full, the flow that has waited longest makes room.
func TestStoreFullTakesTheOldest(t *testing.T) {
	b := newBench(t)
	b.store = flow.NewStore(64 << 10)
	conns := make([]*conn, 6)
	for i := range conns {
		c := newConn()
		c.client = netip.AddrPortFrom(c.client.Addr(), uint16(i+1))
		conns[i] = c
		b.feed(c.handshake()...)
		c.data("lost")
		b.feed(c.data(strings.Repeat("x", 10_000)))
	}
	for i, s := range b.lane.sessions {
		if given := len(s.ends) > 0; given != (i < 2) {
			t.Errorf("flow %d: ends %v", i, s.ends)
		}
	}
	b.feed(conns[5].in(packet.ACK, 0, "lost"))
	if got := len(b.lane.sessions[5].data); got != 10_004 {
		t.Errorf("the youngest got %d bytes, want 10004", got)
	}
}

// Time in which the process did not run, and steps of the host's clock, are no
// silence of clients.
func TestClock(t *testing.T) {
	s := newBench(t).shard
	start := time.Now()
	s.advance(start)
	before := s.clock
	s.advance(start.Add(50 * time.Millisecond))
	if got := time.Duration(s.clock - before); got != 50*time.Millisecond {
		t.Errorf("went on by %v, want 50 ms", got)
	}
	s.advance(start.Add(10 * time.Hour))
	if got := time.Duration(s.clock - before); got > time.Second {
		t.Errorf("went on by %v", got)
	}
	b, c := newBench(t), newConn()
	b.feed(c.handshake()...)
	late := c.data("late")
	late.Time = b.now + int64(10*365*24*time.Hour) // the host's clock is set
	b.one(&late)
	b.wait(time.Second)
	b.wantData(b.session(), "late")
	if b.book.Flows.Live != 1 {
		t.Errorf("flows %+v", b.book.Flows)
	}
}

// What a segment waits for may be in the ring.
func TestNoHoleWhileBehind(t *testing.T) {
	b, c := newBench(t), newConn()
	b.feed(c.handshake()...)
	lost, next := c.data("aaaa"), c.data("bbbb")
	b.feed(next)
	b.behind = true
	b.wait(10 * time.Minute)
	b.feed(lost)
	b.wantData(b.session(), "aaaabbbb")
	c.data("lost")
	b.feed(c.data("c"))
	b.behind = false
	b.wait(10 * time.Minute)
	if b.book.Flows.GivenUp[report.CaptureHole] != 1 {
		t.Errorf("flows %+v", b.book.Flows)
	}
}

// How much the client may send ahead is not known without its server's window: bytes up
// to a reset far away are no bytes that it sent. Two such made a headline of 0 %.
func TestResetFromFarAheadWithoutAWindow(t *testing.T) {
	b, c := newBench(t), newConn()
	hand := c.handshake()
	b.feed(hand[0], hand[2], c.data("abc"), c.in(packet.RST, 1<<29, ""))
	b.wait(time.Minute)
	if n := b.book.Client.Missing; n > windowSlack {
		t.Errorf("%d bytes were never captured", n)
	}
}
