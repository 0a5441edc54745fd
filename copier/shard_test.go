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
	"flowtwin/tunnel/frame"
)

// The ordinary case: handshake, two requests, both sides close.
func TestConnection(t *testing.T) {
	b, c := newBench(t), newConn()
	b.feed(c.syn(), c.synAck())
	if len(b.lane.sessions) != 0 {
		t.Error("opened before the handshake was complete")
	}
	b.feed(c.ack())
	s := b.session() // also for a connection that never sends anything
	if s.open.MSS != 1400 || s.open.RTT != 1000 || s.open.Key.ISS != c.iss || s.open.Map != 0 {
		t.Errorf("opened with %+v", s.open)
	}
	b.feed(c.data("GET /1"), c.answer(100), c.ack(), c.data("GET /2"), c.answer(50))
	b.feed(c.fin(), c.serverFin(), c.ack())
	b.wantData(s, "GET /1GET /2")
	if !slices.Equal(s.seens, []uint64{0, 100}) {
		t.Errorf("seen %v, want [0 100]", s.seens)
	}
	if !slices.Equal(s.ends, []string{"fin"}) {
		t.Errorf("ends %v, want fin", s.ends)
	}
	if got := b.book.Flows.Ended[report.ClientFirst]; got != 1 {
		t.Errorf("%d flows ended by the client first, want 1", got)
	}
	if got := b.book.Answers.Online; got != (report.Count{Segments: 2, Bytes: 150}) {
		t.Errorf("online answers %+v", got)
	}
	if b.table.Len() != 0 {
		t.Error("the flow is still in the table")
	}
}

// Each row is what can happen to an open flow, and what the target is to see.
func TestEnds(t *testing.T) {
	const rst = packet.RST | packet.ACK
	tests := []struct {
		name   string
		script func(b *bench, c *conn)
		data   string
		ends   string
		check  func(b *bench) bool
	}{
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

		{"server closes first", func(b *bench, c *conn) {
			b.feed(c.data("a"), c.serverFin(), c.ack(), c.fin())
		}, "a", "fin", func(b *bench) bool { return b.book.Flows.Ended[report.ServerFirst] == 1 }},

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
			c.data("missed")
			b.feed(c.data("b"), c.answer(1), c.data("c"))
		}, "", "abort:capture_hole", func(b *bench) bool {
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
			b.lane.full = true
			b.feed(c.data("bb"))
			b.lane.full = false
			b.feed(c.data("ccc"))
		}, "a", "abort:overload", func(b *bench) bool { return b.book.Client.Dropped[report.Overload].Bytes == 5 }},

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
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b, c := newBench(t), newConn()
			b.feed(c.handshake()...)
			tt.script(b, c)
			s := b.lane.sessions[0]
			b.wantData(s, tt.data)
			if got := strings.Join(s.ends, " "); got != tt.ends {
				t.Errorf("ends %q, want %q", got, tt.ends)
			}
			if !tt.check(b) {
				t.Errorf("books are %+v", b.book)
			}
		})
	}
}

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

func TestMidstream(t *testing.T) {
	b, c := newBench(t), newConn()
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

// A server's FIN takes a sequence number and is no answer byte.
func TestSeenLeavesTheFinOut(t *testing.T) {
	b, c := newBench(t), newConn()
	b.feed(c.handshake()...)
	b.feed(c.answer(20), c.serverFin(), c.data("bye"))
	if s := b.session(); !slices.Equal(s.seens, []uint64{20}) {
		t.Errorf("seen %v, want [20]", s.seens)
	}
}

// Sequence numbers of both sides wrap.
func TestWrap(t *testing.T) {
	b, c := newBench(t), newConn()
	c.iss, c.irs = 1<<32-4, 1<<32-3
	b.feed(c.handshake()...)
	b.feed(c.data("abcdefgh"), c.answer(100), c.data("i"), c.fin(), c.serverFin())
	b.wantData(b.session(), "abcdefghi")
	if s := b.session(); s.seens[1] != 100 {
		t.Errorf("seen %v", s.seens)
	}
}

// A broken tunnel ends all sessions; what was sent is lost unless accounted, and
// the flows are not copied any further.
func TestTunnelBreaks(t *testing.T) {
	b, c := newBench(t), newConn()
	ended := newConn()
	ended.client = netip.MustParseAddrPort("192.0.2.8:1")
	b.lane.answers = false
	b.feed(ended.handshake()...)
	b.feed(ended.data("gone"), ended.fin(), ended.serverFin())
	b.feed(c.handshake()...)
	b.feed(c.data("abc"))
	b.lane.crash()
	b.feed(c.data("de"), c.fin(), c.serverFin())
	if got := b.book.Sent.TunnelLost; got != (report.Count{Segments: 2, Bytes: 7}) {
		t.Errorf("lost %+v, want 2 segments of 7 bytes", got)
	}
	b.wantDropped(report.TunnelLost, 2)
	if b.table.Len() != 0 || b.book.Sessions.Lost != 2 {
		t.Errorf("%d flows left, sessions %+v", b.table.Len(), b.book.Sessions)
	}
	b.lane.answers = true
	next := newConn()
	next.iss = 4
	b.feed(next.handshake()...)
	b.feed(next.data("new"))
	b.wantData(b.lane.sessions[2], "new")
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

// Answers are counted by their sequence numbers: each byte once, and those that
// the capture missed too.
func TestAnswersCountOnce(t *testing.T) {
	b, c := newBench(t), newConn()
	b.feed(c.handshake()...)
	b.feed(c.out(packet.ACK, 0, 100), c.out(packet.ACK, 50, 100), c.out(packet.ACK, 0, 100), c.out(packet.ACK, 250, 50))
	if got := b.book.Answers.Online; got != (report.Count{Segments: 3, Bytes: 300}) {
		t.Errorf("answers %+v, want 3 segments, 300 bytes", got)
	}
	if got := b.table.At(0).answered; got != 300 {
		t.Errorf("answered %d, want 300", got)
	}
}

// An account of the connection before the break is of a session counted as lost.
func TestAccountOfAnOldConnection(t *testing.T) {
	b, c := newBench(t), newConn()
	b.feed(c.handshake()...)
	b.feed(c.data("a"))
	b.epoch = 7 // as if the lane had gone on to another
	b.lane.close(b.session(), frame.ClosedBoth)
	b.receive()
	if b.book.Sent.Delivered.Bytes != 0 {
		t.Error("was entered")
	}
	b.epoch = 1
	b.lane.crash()
	b.wait(time.Second)
}

// An account that came before the break counts.
func TestAccountBeforeTheBreak(t *testing.T) {
	b, c := newBench(t), newConn()
	b.feed(c.handshake()...)
	b.feed(c.data("abc"))
	b.lane.close(b.session(), frame.ClosedTargetReset)
	b.lane.up = false
	b.wait(time.Second)
	if b.book.Sent.Delivered.Bytes != 3 || b.book.Sessions.Lost != 0 {
		t.Errorf("sent %+v, sessions %+v", b.book.Sent, b.book.Sessions)
	}
}

// What was on its way when the session ended is nobody's but after_close's.
func TestAfterClose(t *testing.T) {
	b, c := newBench(t), newConn()
	b.lane.answers = false
	b.feed(c.handshake()...)
	b.feed(c.data("abc"), c.data("de"))
	b.lane.returns = frame.AppendClosed(nil, 0, &frame.Closed{
		How: frame.ClosedBacklog, DeliveredBytes: 1, DroppedBytes: 2, DroppedSegments: 1,
	})
	b.wait(time.Second)
	s := &b.book.Sent
	if s.Delivered.Bytes != 1 || s.Dropped[frame.ClosedBacklog].Bytes != 2 || s.AfterClose != (report.Count{Segments: 1, Bytes: 2}) {
		t.Errorf("sent: %+v", s)
	}
}

func TestReturns(t *testing.T) {
	b, c := newBench(t), newConn()
	b.feed(c.handshake()...)
	header := packettest.Packet{Src: onlineAddr, Dst: clientAddr, Flags: packet.ACK, Payload: make([]byte, 500)}.Bytes()
	r := frame.AppendEstablished(nil, 0, &frame.Established{Client: clientAddr})
	r = frame.AppendTargetHeader(r, 0, &frame.TargetHeader{Headers: header[:40]})
	r = frame.AppendProgress(r, &frame.Progress{LagP50: 1000, LagP99: 5000, LagMax: 9000, LagCount: 10})
	r = frame.AppendClosed(r, 99, &frame.Closed{}) // of no flow
	r = frame.AppendEmpty(r, frame.TypeReturnBye, 0)
	b.lane.returns = r
	b.wait(time.Second)
	a := b.book.Answers
	if b.book.Sessions.Established != 1 || a.Headers != 1 || a.Target != (report.Count{Segments: 1, Bytes: 500}) || b.book.BadReturns != 1 {
		t.Errorf("sessions %+v, answers %+v, bad returns %d", b.book.Sessions, a, b.book.BadReturns)
	}
	if lag, ok := b.book.Lag.Quantile(0.99); !ok || lag < 5000 || lag > 6300 {
		t.Errorf("lag p99 %v, want 5 µs or little more", lag)
	}
}

// A straggler of an ended flow is no flow of its own; a connection whose SYN was
// missed is one, even on the same tuple.
func TestStragglers(t *testing.T) {
	b, c := newBench(t), newConn()
	b.feed(c.handshake()...)
	d := c.data("abc")
	b.feed(d, c.fin(), c.serverFin())
	b.feed(d, c.ack())
	if b.book.Client.Retransmitted.Bytes != 3 || b.book.Packets.Late != 2 || b.book.Flows.Seen != 1 {
		t.Errorf("%+v %+v", b.book.Client.Retransmitted, b.book.Packets)
	}
	next := newConn()
	next.iss -= 1 << 29
	b.feed(next.data("unseen"))
	b.wantDropped(report.Midstream, 6)
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

func TestTLSIsNoticed(t *testing.T) {
	b, c := newBench(t), newConn()
	b.feed(c.handshake()...)
	b.feed(c.data("\x16\x03\x01\x02\x00\x01\x00\x01\xfc"))
	if !b.maps.tls[0].Load() || b.maps.tls[1].Load() {
		t.Error("a ClientHello on map 0 was not noticed, or on map 1")
	}
}

// What the lost connection still hands over is not held against the responder.
func TestReturnsAfterTheBreak(t *testing.T) {
	b, c := newBench(t), newConn()
	b.feed(c.handshake()...)
	b.lane.up = false
	b.wait(time.Second)
	b.lane.returns = frame.AppendEstablished(nil, 0, &frame.Established{Client: clientAddr})
	b.wait(time.Second)
	if b.book.BadReturns != 0 {
		t.Errorf("%d bad returns", b.book.BadReturns)
	}
}

// What was corrupted on its way is not what the client sent: the server drops it,
// and the client sends it again.
func TestBadChecksum(t *testing.T) {
	b, c := newBench(t), newConn()
	b.feed(c.handshake()...)
	good := c.data("GET /aaaa")
	bad := good
	bad.Data = slices.Clone(good.Data)
	bad.Data[len(bad.Data)-1] ^= 0x55
	b.feed(bad, good)
	b.wantData(b.session(), "GET /aaaa")
	if b.book.Packets.BadChecksum != 1 || b.book.Client.Conflicts != 0 || b.book.Client.Captured.Segments != 1 {
		t.Errorf("packets %+v, client %+v", b.book.Packets, b.book.Client)
	}
	// A card computes it later.
	unfinished := c.data("b")
	unfinished.Data[len(unfinished.Data)-2] ^= 0x55
	unfinished.Checked = true
	b.feed(unfinished)
	if b.book.Packets.BadChecksum != 1 || b.book.Client.Captured.Segments != 2 {
		t.Errorf("packets %+v", b.book.Packets)
	}
}
