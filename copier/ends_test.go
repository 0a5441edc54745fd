package copier

import (
	"testing"
	"time"

	"flowtwin/copier/report"
	"flowtwin/internal/packet"
	"flowtwin/tunnel/frame"
)

// Each row is what can happen to an open flow, and what the target is to see.
func TestEnds(t *testing.T) {
	const rst = packet.RST | packet.ACK
	playAll(t, []play{
		{"client resets", func(b *bench, c *conn) {
			b.feed(c.data("a"), c.in(rst, c.sent, ""))
		}, "a", "reset", func(b *bench) bool { return b.book.Flows.Ended[report.ClientReset] == 1 }},

		{"client resets after its FIN", func(b *bench, c *conn) {
			b.lane.answers = false
			b.feed(c.data("a"), c.fin(), c.in(rst, c.sent, ""))
			b.lane.close(b.session(), frame.ClosedClientReset)
			b.wait(time.Second)
		}, "a", "fin reset", func(b *bench) bool { return b.book.Flows.Ended[report.ClientReset] == 1 }},

		{"client resets before a gap is filled", func(b *bench, c *conn) {
			b.feed(c.data("a"))
			c.data("lost")
			b.feed(c.data("b"), c.in(rst, c.sent, ""))
			b.wait(5 * time.Second)
			if b.store.Len() != 0 {
				t.Error("its segment is still stored")
			}
		}, "a", "reset", func(b *bench) bool { return b.book.Client.Dropped[report.CaptureHole].Bytes == 1 }},

		{"reset of an older connection", func(b *bench, c *conn) {
			b.feed(c.data("abc"), c.in(rst, -5000, ""), c.data("d"))
		}, "abcd", "", func(b *bench) bool { return b.book.Flows.Live == 1 }},

		{"server resets", func(b *bench, c *conn) {
			b.feed(c.data("a"), c.out(rst, 0, 0))
		}, "a", "reset", func(b *bench) bool { return b.book.Flows.Ended[report.ServerReset] == 1 }},

		// As RabbitMQ does after each connection. The client has closed in order, and for the
		// target it must not look as if it had broken off.
		{"server resets after the client's FIN", func(b *bench, c *conn) {
			b.lane.answers = false
			b.feed(c.data("a"), c.fin(), c.out(rst, 0, 0))
			b.lane.close(b.session(), frame.ClosedTargetReset)
			b.wait(time.Second)
		}, "a", "fin", func(b *bench) bool { return b.book.Flows.Ended[report.ServerReset] == 1 && b.table.Len() == 0 }},

		{"server closes first", func(b *bench, c *conn) {
			b.feed(c.data("a"), c.serverFin(), c.ack(), c.fin())
		}, "a", "fin", func(b *bench) bool { return b.book.Flows.Ended[report.ServerFirst] == 1 && b.session().finSecond }},

		{"server closes behind the client", func(b *bench, c *conn) {
			b.feed(c.data("a"), c.fin(), c.serverFin(), c.ack())
		}, "a", "fin", func(b *bench) bool { return b.book.Flows.Ended[report.ClientFirst] == 1 && !b.session().finSecond }},

		{"client closes its side only, and reads on", func(b *bench, c *conn) {
			b.feed(c.data("a"), c.fin(), c.answer(1000), c.ack())
		}, "a", "fin", func(b *bench) bool { return b.book.Flows.Live == 1 }},

		{"FIN with data", func(b *bench, c *conn) {
			b.feed(c.in(packet.FIN|packet.ACK, 0, "last"))
		}, "last", "fin", func(*bench) bool { return true }},

		{"FIN before the data that it follows", func(b *bench, c *conn) {
			d := c.data("late")
			b.feed(c.fin(), d)
		}, "late", "fin", func(*bench) bool { return true }},

		{"FIN sent again", func(b *bench, c *conn) {
			f := c.fin()
			b.feed(f, f, f)
		}, "", "fin", func(*bench) bool { return true }},

		{"data behind the FIN", func(b *bench, c *conn) {
			b.lane.answers = false
			b.feed(c.data("a"), c.fin(), c.in(packet.ACK, c.sent, "garbage"))
		}, "a", "fin", func(b *bench) bool { return b.book.Client.Dropped[report.AfterEnd].Bytes == 7 }},

		{"new connection on the tuple", func(b *bench, c *conn) {
			b.feed(c.data("a"))
			again := newConn()
			again.iss = 999_000
			b.feed(again.syn(), again.synAck())
		}, "a", "abort:replaced", func(b *bench) bool {
			return b.book.Flows.GivenUp[report.Replaced] == 1 && b.book.Flows.Pending == 1
		}},

		{"SYN sent again is no new connection", func(b *bench, c *conn) {
			b.feed(c.data("a"), c.syn(), c.data("b"))
		}, "ab", "", func(b *bench) bool { return b.book.Flows.Seen == 1 }},

		{"hole that the server has", func(b *bench, c *conn) {
			b.feed(c.data("a"))
			c.data("missed")
			b.feed(c.data("b"), c.answer(1), c.data("c"))
		}, "a", "abort:capture_hole", func(b *bench) bool {
			return b.book.Client.Dropped[report.CaptureHole].Bytes == 2 && b.book.Client.Missing == 6
		}},

		{"hole before the FIN", func(b *bench, c *conn) {
			c.data("missed")
			b.feed(c.fin(), c.serverFin(), c.ack())
		}, "", "abort:capture_hole", func(b *bench) bool { return b.table.Len() == 0 }},

		{"target ends while a FIN is held", func(b *bench, c *conn) {
			c.data("late")
			p := c.fin()
			c.sent = 0 // the server has not got them either
			b.feed(p)
			b.lane.close(b.session(), frame.ClosedTargetReset)
			b.wait(500 * time.Millisecond)
			b.feed(c.serverFin())
		}, "", "", func(b *bench) bool { return b.table.Len() == 0 }},

		{"hole that stays", func(b *bench, c *conn) {
			b.feed(c.data("a"))
			c.data("missed")
			b.feed(c.data("b"))
			b.wait(3 * time.Minute)
			b.feed(c.data("c"))
		}, "a", "abort:capture_hole", func(b *bench) bool {
			return b.book.Client.Dropped[report.CaptureHole].Bytes == 2 && b.book.Client.Missing == 6
		}},

		// The server has not acknowledged it either: the client will send it again.
		{"lost on its way, sent again after a long RTO", func(b *bench, c *conn) {
			lost, next := c.data("a"), c.data("b")
			b.feed(next)
			b.wait(time.Minute)
			b.feed(lost, c.fin(), c.serverFin())
		}, "ab", "fin", func(b *bench) bool { return b.book.Client.Missing == 0 }},

		{"hole of a flow whose server is not seen", func(b *bench, c *conn) {
			b.session() // the handshake was seen; forget that
			for _, r := range b.table.All() {
				r.heard = false
			}
			b.feed(c.data("a"))
			c.data("missed")
			b.feed(c.data("b"))
			b.wait(4 * time.Second)
		}, "a", "abort:capture_hole", func(b *bench) bool { return b.book.Client.Missing == 6 }},

		{"segments out of order", func(b *bench, c *conn) {
			x, y, z := c.data("x"), c.data("y"), c.data("z")
			b.feed(z, y, x)
		}, "xyz", "", func(*bench) bool { return true }},

		{"captured shorter than its headers claim", func(b *bench, c *conn) {
			p := c.data("whole")
			p.Data = p.Data[:len(p.Data)-2]
			b.feed(p, c.data("next"))
		}, "", "abort:capture_hole", func(b *bench) bool { return b.book.Client.Dropped[report.Truncated].Bytes == 9 }},

		{"cut packet with the FIN", func(b *bench, c *conn) {
			p := c.in(packet.FIN|packet.ACK, 0, "last")
			p.Data = p.Data[:len(p.Data)-2]
			c.sent += 5
			b.feed(p, c.serverFin())
		}, "", "abort:capture_hole", func(b *bench) bool { return b.table.Len() == 0 }},

		{"cut packet of known bytes does no harm", func(b *bench, c *conn) {
			p := c.data("whole")
			b.feed(p)
			p.Data = p.Data[:len(p.Data)-2]
			b.feed(p, c.data("next"))
		}, "wholenext", "", func(b *bench) bool { return b.book.Client.Retransmitted.Bytes == 5 }},

		{"keep-alive probe", func(b *bench, c *conn) {
			b.feed(c.data("abc"), c.in(packet.ACK, c.sent-1, "?"), c.data("d"))
		}, "abcd", "", func(b *bench) bool { return b.book.Client.Retransmitted == (report.Count{Segments: 1, Bytes: 1}) }},

		{"retransmission with new bytes", func(b *bench, c *conn) {
			b.feed(c.data("abc"), c.in(packet.ACK, 1, "bcde"))
		}, "abcde", "", func(b *bench) bool { return b.book.Client.Retransmitted == (report.Count{Bytes: 2}) }},

		{"the same on another interface", func(b *bench, c *conn) {
			p := c.data("abc")
			q := p
			q.Iface = 7
			b.feed(p, q)
		}, "abc", "", func(b *bench) bool { return b.book.Client.Duplicate == (report.Count{Segments: 1, Bytes: 3}) }},

		{"forged segment far away", func(b *bench, c *conn) {
			b.feed(c.in(packet.ACK, 1<<30+5, "far"), c.data("a"))
		}, "a", "", func(b *bench) bool { return b.book.Client.Dropped[report.Outside].Bytes == 3 }},

		{"idle for longer than any keep-alive", func(b *bench, c *conn) {
			b.limit.idle = time.Minute
			b.feed(c.data("a"))
			b.wait(2 * time.Minute)
		}, "a", "abort:idle", func(b *bench) bool { return b.book.Flows.GivenUp[report.Idle] == 1 }},

		{"given up, and its end was not captured", func(b *bench, c *conn) {
			b.limit.idle = time.Minute
			b.lane.full = true
			b.feed(c.data("a"))
			b.wait(time.Second)
			if b.table.Len() != 1 {
				t.Error("forgotten while it may live")
			}
			b.wait(2 * time.Minute)
		}, "", "abort:overload", func(b *bench) bool { return b.table.Len() == 0 }},

		{"queue full", func(b *bench, c *conn) {
			b.feed(c.data("a"))
			b.lane.full, b.lane.room = true, 100
			b.feed(c.data("bb"))
			b.lane.full = false
			b.feed(c.data("ccc"))
		}, "a", "abort:overload", func(b *bench) bool {
			return b.book.Client.Dropped[report.Overload].Bytes == 5 && b.book.Flows.Suspended == 1
		}},

		{"queue too full even for the end", func(b *bench, c *conn) {
			b.feed(c.data("a"))
			b.lane.jam = true
			b.feed(c.data("bb"))
			b.wait(2 * time.Second)
			b.lane.jam = false
			b.wait(2 * time.Second)
		}, "a", "abort:overload", func(b *bench) bool { return b.owed == 0 }},

		{"target ends first", func(b *bench, c *conn) {
			b.feed(c.data("a"))
			b.lane.close(b.session(), frame.ClosedTargetReset)
			b.wait(time.Second)
			b.feed(c.data("bb"), c.fin(), c.serverFin())
		}, "a", "", func(b *bench) bool {
			return b.book.Client.Dropped[report.SessionOver].Bytes == 2 && b.book.Flows.GivenUp[report.SessionOver] == 1 && b.table.Len() == 0
		}},
	})
}
