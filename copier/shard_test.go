package copier

import (
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"flowtwin/copier/capture"
	"flowtwin/copier/report"
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

// A broken tunnel ends all sessions; what was sent is lost unless accounted.
func TestTunnelBreaks(t *testing.T) {
	b, c := newBench(t), newConn()
	ended := newConn()
	ended.client = netip.MustParseAddrPort("192.0.2.8:1")
	b.lane.answers = false
	b.feed(ended.handshake()...)
	b.feed(ended.data("gone"), ended.fin(), ended.serverFin())
	b.feed(c.handshake()...)
	b.feed(c.data("abc"))
	b.lane.returns = frame.AppendMoved(b.lane.returns, &frame.Moved{Segments: 2, Bytes: 5})
	b.feed(c.ack())
	b.lane.crash()
	b.lane.up = false
	b.feed(c.data("de"), c.fin(), c.serverFin())
	if got := b.book.Sent.TunnelLost; got != (report.Count{Segments: 2, Bytes: 2}) || b.book.Sent.Arrived != 5 {
		t.Errorf("lost %+v beside %d that had arrived, want 2 segments of 7 bytes, of which 5 had", got, b.book.Sent.Arrived)
	}
	b.wantDropped(report.TunnelLost, 2)
	if b.table.Len() != 0 || b.book.Sessions.Lost != 2 {
		t.Errorf("%d flows left, sessions %+v", b.table.Len(), b.book.Sessions)
	}
	b.lane.answers, b.lane.up = true, true
	next := newConn()
	next.iss = 4
	b.feed(next.handshake()...)
	b.feed(next.data("new"))
	b.wantData(b.lane.sessions[2], "new")
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

// Blocks with few packets leave together, a jam of them in parts; the last of them
// do not wait for the next.
func TestSmallBlocksShareATurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.ring.slow = time.Nanosecond // a packet a block
		var done error
		go func() { done = b.run() }()
		synctest.Wait()
		b.ring.put(newConn().syn()) // its turn sweeps, too
		<-time.After(time.Millisecond)
		synctest.Wait()
		for _, tt := range []struct{ packets, turns int }{{1, 1}, {turnPackets / 2, 1}, {3*turnPackets + 1, 4}} {
			c := newConn()
			packets := c.handshake()
			for len(packets) < tt.packets {
				packets = append(packets, c.data("x"))
			}
			before := b.lane.flushes
			b.ring.put(packets[:tt.packets]...)
			<-time.After(time.Millisecond)
			synctest.Wait()
			if n := b.lane.flushes - before; n != tt.turns {
				t.Errorf("%d packets left in %d turns, want %d", tt.packets, n, tt.turns)
			}
		}
		b.ring.deaf = true
		before := b.lane.flushes
		b.ring.put(make([]capture.Packet, 3*turnBlocks+1)...)
		<-time.After(time.Millisecond)
		synctest.Wait()
		if n := b.lane.flushes - before; n != 4 {
			t.Errorf("%d blocks of packets that nobody wants had %d turns, want 4", 3*turnBlocks+1, n)
		}
		b.ask(phaseOver)
		synctest.Wait()
		if done != nil {
			t.Error(done)
		}
	})
}

// What the responder has said by the end is read, though a block comes with the end.
func TestLastTurnReadsReturns(t *testing.T) {
	b := newBench(t)
	b.follow() // the lane is up
	b.ring.put(newConn().syn())
	b.lane.bye <- struct{}{}
	b.ask(phaseOver)
	if err := b.run(); err != nil {
		t.Error(err)
	}
	if len(b.lane.bye) != 0 {
		t.Error("the shard ended without reading what came back")
	}
}
