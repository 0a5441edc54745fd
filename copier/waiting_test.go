package copier

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"flowtwin/copier/capture"
	"flowtwin/copier/report"
	"flowtwin/internal/packet"
	"flowtwin/tunnel/frame"
)

// request returns a request of HTTP/1 with a number.
func request(n int) string { return fmt.Sprintf("GET /%d HTTP/1.1\r\n\r\n", n) }

// redis returns a command.
func redis(args ...string) string {
	var out strings.Builder
	fmt.Fprintf(&out, "*%d\r\n", len(args))
	for _, a := range args {
		fmt.Fprintf(&out, "$%d\r\n%s\r\n", len(a), a)
	}
	return out.String()
}

// does is what a client asks and the server's answer to it.
func (b *bench) does(c *conn, ask string, answer int) {
	b.t.Helper()
	b.feed(c.data(ask), c.answer(answer), c.ack())
}

// lose makes the capture miss a turn of the client, but not what the server says.
func (b *bench) lose(c *conn, ask string, answer int) {
	b.t.Helper()
	c.data(ask)
	b.feed(c.answer(answer), c.ack())
}

// takeDown takes the tunnel down, with all sessions.
func (b *bench) takeDown() {
	b.lane.crash()
	b.lane.up = false
	b.feed()
}

// Each row is a flow that loses its session, and what the sessions get that it has.
func TestSessionsAgain(t *testing.T) {
	auth := redis("AUTH", "secret")
	tests := []struct {
		name   string
		script func(b *bench, c *conn)
		want   []string
	}{
		{"HTTP/1 after a hole", func(b *bench, c *conn) {
			b.does(c, request(1), 10)
			b.lose(c, request(2), 20)
			b.does(c, request(3), 30)
			b.does(c, request(4), 40)
		}, []string{request(1), request(3) + request(4)}},
		{"HTTP/1 after a hole within a request", func(b *bench, c *conn) {
			b.does(c, request(1), 10)
			b.feed(c.data("POST /2 HTTP/1.1\r\n\r\n"))
			c.data("lost")
			b.feed(c.data("rest"), c.answer(10), c.ack())
			b.does(c, request(3), 30)
		}, []string{request(1) + "POST /2 HTTP/1.1\r\n\r\n", request(3)}},
		{"HTTP/1 after two holes at once", func(b *bench, c *conn) {
			b.does(c, request(1), 10)
			c.data("lost")
			b.feed(c.data("kept"))
			c.data("lost")
			b.feed(c.data("kept"), c.answer(10), c.ack())
			b.does(c, request(3), 30)
		}, []string{request(1), request(3)}},
		{"HTTP/1, the answer to what was missed was missed too", func(b *bench, c *conn) {
			b.does(c, request(1), 10)
			c.data(request(2))
			c.answer(20)
			b.does(c, request(3), 30) // it is in the store when the hole is found
			b.does(c, request(4), 40)
		}, []string{request(1), request(3) + request(4)}},
		{"HTTP/1, the hole is found by the next request's answer, twice", func(b *bench, c *conn) {
			b.does(c, request(1), 10)
			c.data(request(2))
			c.answer(20)
			b.feed(c.data(request(3)))
			c.answer(30)
			c.data(request(4))
			c.answer(40)
			b.does(c, request(5), 50)
		}, []string{request(1), request(3), request(5)}},
		{"HTTP/1, pipelined requests behind the hole are of its turn", func(b *bench, c *conn) {
			b.does(c, request(1), 10)
			c.data("lost")
			b.feed(c.data(request(2)))
			b.feed(c.answer(10), c.answer(10), c.ack())
			b.does(c, request(3), 30)
		}, []string{request(1), request(2) + request(3)}},
		{"HTTP/1, the first request was missed", func(b *bench, c *conn) {
			b.lose(c, request(1), 10)
			b.does(c, request(2), 20)
		}, []string{"", request(2)}},
		{"HTTP/1, the handshake's end, the first request and its answer were missed", func(b *bench, c *conn) {
			b.feed(c.syn(), c.synAck())
			c.data(request(1))
			c.answer(10)
			b.does(c, request(2), 20)
			b.does(c, request(3), 20)
		}, []string{"", request(2) + request(3)}},
		{"what is not known, the first bytes were missed", func(b *bench, c *conn) {
			b.lose(c, "login", 10)
			b.does(c, "one", 20)
			b.does(c, "two", 20)
		}, []string{""}},
		{"redis after a hole", func(b *bench, c *conn) {
			b.does(c, auth, 5)
			b.does(c, redis("GET", "a"), 5)
			b.lose(c, redis("GET", "b"), 5)
			b.does(c, redis("GET", "c"), 5)
		}, []string{auth + redis("GET", "a"), auth + redis("GET", "c")}},
		{"what is not known is not continued behind a hole", func(b *bench, c *conn) {
			b.does(c, "one", 5)
			b.lose(c, "two", 5)
			b.does(c, "three", 5)
		}, []string{"one"}},
		{"HTTP/1 after the tunnel broke", func(b *bench, c *conn) {
			b.does(c, request(1), 10)
			b.takeDown()
			b.does(c, request(2), 10)
			b.lane.up = true
			b.does(c, request(3), 10)
			b.does(c, request(4), 10)
		}, []string{request(1), request(3) + request(4)}},
		{"HTTP/1, the tunnel broke within a request", func(b *bench, c *conn) {
			b.does(c, request(1), 10)
			b.feed(c.data("POST /2 HTTP/1.1\r\n\r\n"))
			b.lane.crash()
			b.feed(c.data("body"))
			b.feed(c.answer(10), c.ack())
			b.does(c, request(3), 10)
		}, []string{request(1) + "POST /2 HTTP/1.1\r\n\r\n", request(3)}},
		{"redis after the tunnel broke", func(b *bench, c *conn) {
			b.does(c, auth, 5)
			b.does(c, redis("select", "3"), 5)
			b.does(c, redis("SET", "a", "b"), 5)
			b.takeDown()
			b.does(c, redis("SET", "a", "c"), 5)
			b.lane.up = true
			b.does(c, redis("SET", "a", "d"), 5)
		}, []string{auth + redis("select", "3") + redis("SET", "a", "b"), auth + redis("select", "3") + redis("SET", "a", "d")}},
		{"redis, set up and more in one segment", func(b *bench, c *conn) {
			b.does(c, auth+redis("SET", "a", "b"), 10)
			b.lane.crash()
			b.does(c, redis("SET", "a", "d"), 5)
		}, []string{auth + redis("SET", "a", "b"), auth + redis("SET", "a", "d")}},
		{"a server that greets, after the tunnel broke", func(b *bench, c *conn) {
			b.feed(c.answer(30), c.ack())
			b.does(c, "login", 5)
			b.does(c, strings.Repeat("x", prologueMost), 5)
			b.lane.crash()
			b.does(c, "next", 5)
		}, []string{"login" + strings.Repeat("x", prologueMost), "loginnext"}},
		{"HTTP/2, all of it is known", func(b *bench, c *conn) {
			b.does(c, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 5)
			b.lane.crash()
			b.does(c, "frames", 5)
		}, []string{"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nframes"}},
		{"HTTP/2, not all of it is known", func(b *bench, c *conn) {
			b.does(c, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 5)
			b.does(c, strings.Repeat("x", prologueMost), 5)
			b.lane.crash()
			b.does(c, "frames", 5)
		}, []string{"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + strings.Repeat("x", prologueMost)}},
		{"TLS", func(b *bench, c *conn) {
			b.does(c, "\x16\x03\x01\x02\x00\x01\x00\x01\xfc", 5)
			b.lane.crash()
			b.does(c, "more", 5)
		}, []string{"\x16\x03\x01\x02\x00\x01\x00\x01\xfc"}},
		{"the responder stops, another is started", func(b *bench, c *conn) {
			b.does(c, request(1), 10)
			b.lane.close(b.session(), frame.ClosedDrain)
			b.feed()
			b.does(c, request(2), 10)
		}, []string{request(1), request(2)}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b, c := newBench(t), newConn()
			if !strings.Contains(tt.name, "handshake") {
				b.feed(c.handshake()...)
			}
			tt.script(b, c)
			var got []string
			for _, s := range b.lane.sessions {
				got = append(got, string(s.data))
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("sessions got %q, want %q", got, tt.want)
			}
			resumed := uint64(0)
			for _, n := range b.book.Flows.Resumed {
				resumed += n
			}
			if f := &b.book.Flows; f.Seen != 1 || resumed != uint64(len(tt.want)-1) {
				t.Errorf("flows %+v", f)
			}
			b.feed(c.fin(), c.serverFin(), c.ack())
			b.wait(5 * time.Minute)
			if b.table.Len() != 0 || b.chunks() != 0 {
				t.Errorf("%d flows are left, %d chunks", b.table.Len(), b.chunks())
			}
		})
	}
}

// Each byte that was not captured is counted once, and none that was.
func TestMissingIsExact(t *testing.T) {
	b, c := newBench(t), newConn()
	b.feed(c.handshake()...)
	b.does(c, request(1), 10)
	b.lose(c, request(2), 10)
	b.lose(c, request(33), 10)
	b.does(c, request(4), 10)
	c.data("lost")
	b.feed(c.data("kept"))
	c.data("lost, too")
	b.feed(c.fin(), c.serverFin(), c.ack())
	missing := len(request(2)) + len(request(33)) + len("lostlost, too")
	if got := b.book.Client.Missing; got != uint64(missing) {
		t.Errorf("%d bytes missing, want %d", got, missing)
	}
	if got, want := b.book.Client.Captured.Bytes+b.book.Client.Missing, uint64(c.sent-1); got != want {
		t.Errorf("%d bytes in all, want %d", got, want)
	}
}

// A packet that is forged, or is of another connection, is no hole to go on behind.
func TestForgedSegmentIsNoHole(t *testing.T) {
	b, c := newBench(t), newConn()
	b.feed(c.syn(), c.ack(), c.data(request(1))) // the server is not seen
	b.feed(c.in(packet.ACK, 1<<29, request(2)))
	b.wait(5 * time.Second)
	if f := &b.book.Flows; f.GivenUp[report.CaptureHole] != 1 || f.Suspended != 0 || b.book.Client.Missing != 0 {
		t.Errorf("flows %+v, %d missing", f, b.book.Client.Missing)
	}
}

// Flows that wait make way for new ones.
func TestWaitingAreBounded(t *testing.T) {
	b := newBench(t)
	b.lane.up = false
	for n := range maxFlows + 10 {
		c := caller(n)
		for _, p := range c.handshake() {
			b.one(&p)
		}
	}
	if f := &b.book.Flows; f.Waiting != maxFlows || f.Refused[report.TunnelDown] != 10 {
		t.Errorf("flows %+v", f)
	}
	b.check()
}

// Flows that lose their sessions and get others, whatever they speak, cost no memory
// but what is there for them.
func TestWaitingDoesNotAllocate(t *testing.T) {
	for name, ask := range map[string]string{"HTTP/1": request(1), "redis": redis("AUTH", "x"), "not known": strings.Repeat("x", 300)} {
		t.Run(name, func(t *testing.T) {
			s, ring := busy(100, 5, len(ask))
			for i := range ring.all {
				if d := ring.all[i].Data; ring.all[i].ToServer && len(d) >= len(ask)+40 {
					copy(d[len(d)-len(ask):], ask)
				}
			}
			l := s.lane.(*sink)
			var p capture.Packet
			half := func() {
				if ready, _ := s.ring.Next(tick); ready {
					s.follow()
					for n := 0; s.ring.Packet(&p); n++ {
						if n%9 == 6 { // each flow loses its session in another turn
							l.epoch++
							s.follow()
						}
						s.one(&p)
					}
					s.turn()
				}
			}
			for range 10 {
				half()
			}
			if n := testing.AllocsPerRun(20, half); n != 0 {
				t.Errorf("a block allocates %v times, want 0", n)
			}
			if f := &s.book.Flows; f.Resumed[report.TunnelLost] == 0 || len(s.book.Check()) > 0 {
				t.Errorf("flows %+v; %v", f, s.book.Check())
			}
		})
	}
}
