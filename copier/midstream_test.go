package copier

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"flowtwin/copier/capture"
	"flowtwin/copier/report"
	"flowtwin/internal/flow"
	"flowtwin/internal/packet"
)

// underWay returns a connection that began long ago.
func underWay() *conn {
	c := newConn()
	c.sent, c.answered = 1_000_000, 7_000_000
	return c
}

// Where connections that began before the copier are adopted: "" is nowhere.
func TestAdoption(t *testing.T) {
	tests := []struct {
		name   string
		script func(b *bench, c *conn)
		want   string
	}{
		{"first seen by a request", func(b *bench, c *conn) {
			b.feed(c.data("one"), c.answer(10), c.ack(), c.data("two"), c.data("more"), c.answer(10), c.data("three"))
		}, "twomorethree"},
		{"first seen by an answer", func(b *bench, c *conn) {
			b.feed(c.answer(10), c.ack(), c.data("one"), c.answer(10), c.data("two"))
		}, "onetwo"},
		{"first seen within a request", func(b *bench, c *conn) {
			b.feed(c.data("o"), c.out(packet.ACK, c.answered, 0))
			b.feed(c.data("n"), c.out(packet.ACK, c.answered, 0), c.data("e"), c.answer(10), c.data("two"))
		}, "two"},
		{"no answer", func(b *bench, c *conn) {
			b.feed(c.data("a"), c.out(packet.ACK, c.answered, 0), c.data("b"), c.out(packet.ACK, c.answered, 0), c.data("c"))
		}, ""},
		{"the request's first segment was missed", func(b *bench, c *conn) {
			b.feed(c.answer(10), c.ack())
			_ = c.data("o")
			b.feed(c.data("ne"), c.answer(5), c.data("two"))
		}, "two"},
		{"it was missed, and acknowledged", func(b *bench, c *conn) {
			b.feed(c.answer(10), c.ack())
			_ = c.data("o")
			b.feed(c.out(packet.ACK, c.answered, 0), c.data("ne"), c.answer(5), c.data("two"))
		}, "two"},
		{"the client does not have all of the answer", func(b *bench, c *conn) {
			b.feed(c.answer(10))
			early := c.data("early")
			c.sent -= 5
			b.feed(c.answer(10))
			c.sent += 5
			b.feed(early, c.answer(10), c.data("two"))
		}, "two"},
		{"a request sent again", func(b *bench, c *conn) {
			d := c.data("one")
			a := c.answer(10)
			b.feed(d, d, a, d, c.data("two"))
		}, "two"},
		{"an answer sent again within a request", func(b *bench, c *conn) {
			a := c.answer(10)
			b.feed(c.data("x"), a)
			b.lane.room = 0 // not now
			b.feed(c.data("o"))
			b.lane.room = 1000
			b.feed(c.out(packet.ACK, c.answered-10, 10), c.data("ne"), c.answer(10), c.data("two"))
		}, "two"},
		{"a request sent again, while the server speaks", func(b *bench, c *conn) {
			d := c.data("one")
			c.sent -= 3
			early := c.answer(10)
			c.sent += 3
			b.feed(d, early, c.in(packet.ACK|packet.PSH, c.sent-3, "one"), c.answer(10), c.data("two"))
		}, "two"},
		{"the same, known by an answer", func(b *bench, c *conn) {
			b.feed(c.answer(10))
			b.lane.room = 0 // not now
			d := c.data("one")
			c.sent -= 3
			early := c.answer(10)
			c.sent += 3
			b.feed(d, early)
			b.lane.room = 1000
			b.feed(c.in(packet.ACK|packet.PSH, c.sent-3, "one"), c.answer(10), c.data("two"))
		}, "two"},
		{"the copier is about to end", func(b *bench, c *conn) {
			b.feed(c.answer(10))
			b.ask(phaseDraining)
			b.feed(c.data("one"), c.answer(10), c.data("two"))
		}, ""},
		{"a request in the wrong order", func(b *bench, c *conn) {
			b.feed(c.answer(10))
			x, y := c.data("o"), c.data("ne")
			b.feed(y, x, c.answer(10), c.data("two"))
		}, "two"},
		{"captured twice", func(b *bench, c *conn) {
			for _, p := range []capture.Packet{c.data("one"), c.answer(10), c.data("two"), c.answer(10), c.data("three")} {
				again := p
				again.Iface = 5
				b.feed(p, again)
			}
		}, "twothree"},
		{"keep-alive garbage", func(b *bench, c *conn) {
			b.feed(c.answer(10), c.in(packet.ACK, c.sent-1, "x"), c.data("one"))
		}, "one"},
		{"tunnel is down at first", func(b *bench, c *conn) {
			b.lane.up = false
			b.feed(c.answer(10), c.data("one"), c.answer(10), c.data("two"))
			b.lane.up = true
			b.feed(c.answer(10), c.data("three"))
		}, "three"},
		{"numbers wrap", func(b *bench, c *conn) {
			c.iss, c.irs = packet.Seq(0).Add(-c.sent-4), packet.Seq(0).Add(-c.answered-4)
			b.feed(c.data("one"), c.answer(10), c.data("two"), c.answer(10), c.data("three"))
		}, "twothree"},
		{"numbers wrap, first seen by an answer", func(b *bench, c *conn) {
			c.iss, c.irs = packet.Seq(0).Add(-c.sent-50), packet.Seq(0).Add(-c.answered-50)
			b.feed(c.answer(10), c.data("one"))
		}, "one"},
		{"only the client is captured", func(b *bench, c *conn) {
			b.feed(c.data("on"), c.data("e"))
			c.answer(10)
			b.feed(c.ack())
			b.wait(300 * time.Millisecond)
			b.feed(c.data("two"))
			c.answer(10)
			b.feed(c.data("three"))
		}, "twothree"},
		{"only the client, without an answer", func(b *bench, c *conn) {
			b.feed(c.data("on"))
			b.wait(300 * time.Millisecond)
			b.feed(c.data("e"))
		}, ""},
		{"only the client, without a pause", func(b *bench, c *conn) {
			b.feed(c.data("one"))
			c.answer(10)
			b.feed(c.data("two"))
		}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b, c := newBench(t), underWay()
			tt.script(b, c)
			f := &b.book.Flows
			if f.Seen != 1 {
				t.Errorf("flows %+v, want 1 seen", f)
			}
			if tt.want == "" {
				if f.Observed != 1 || len(b.lane.sessions) != 0 {
					t.Errorf("flows %+v, %d sessions", f, len(b.lane.sessions))
				}
				return
			}
			s := b.session()
			b.wantData(s, tt.want)
			if f.Adopted != 1 || f.Admitted != 1 || s.open.BaseSeen != 0 || s.open.MSS != 0 || s.open.RTT != 0 || s.seens[0] != 0 {
				t.Errorf("flows %+v, opened with %+v, seen %v", f, s.open, s.seens)
			}
			b.feed(c.fin(), c.serverFin(), c.ack())
			if s.ends[0] != "fin" || b.table.Len() != 0 {
				t.Errorf("ends %v, %d flows left", s.ends, b.table.Len())
			}
		})
	}
}

// After the adoption seen counts the answers, as for any other flow.
func TestSeenAfterAdoption(t *testing.T) {
	b, c := newBench(t), underWay()
	b.feed(c.answer(10), c.data("one"), c.answer(70), c.data("two"), c.answer(30), c.ack(), c.data("three"))
	if got := fmt.Sprint(b.session().seens); got != "[0 70 100]" {
		t.Errorf("seen %s, want 0, 70, 100", got)
	}
}

// A flow that is not adopted is refused when it ends, however that is.
func TestObservedEnds(t *testing.T) {
	tests := map[string]func(b *bench, c *conn){
		"client FIN":    func(b *bench, c *conn) { b.feed(c.fin(), c.serverFin()) },
		"client RST":    func(b *bench, c *conn) { b.feed(c.in(packet.RST, c.sent, "")) },
		"server FIN":    func(b *bench, c *conn) { b.feed(c.serverFin(), c.ack(), c.fin()) },
		"server RST":    func(b *bench, c *conn) { b.feed(c.out(packet.RST|packet.ACK, c.answered, 0)) },
		"idle":          func(b *bench, _ *conn) { b.limit.idle = 3 * time.Second; b.wait(5 * time.Second) },
		"copier's end":  func(b *bench, _ *conn) { b.ask(phaseFinishing); b.wait(time.Second) },
		"FIN with data": func(b *bench, c *conn) { b.feed(c.in(packet.FIN|packet.ACK, c.sent, "x")) },
	}
	for name, script := range tests {
		t.Run(name, func(t *testing.T) {
			b, c := newBench(t), underWay()
			b.feed(c.data("one"), c.out(packet.ACK, c.answered, 0))
			script(b, c)
			f := &b.book.Flows
			if f.Refused[report.Midstream] != 1 || f.Seen != 1 || f.Observed != 0 || b.table.Len() != 0 || b.observed != (chain{}) {
				t.Errorf("flows %+v, %d in the table", f, b.table.Len())
			}
		})
	}
}

// A forged end or beginning does not end the observation; a true beginning does.
func TestObservedIsDefended(t *testing.T) {
	b, c := newBench(t), underWay()
	b.feed(c.answer(10))
	forged := *c
	forged.iss += 1 << 27
	forged.irs += 1 << 27
	b.feed(forged.syn(), forged.in(packet.RST, 0, ""), forged.in(packet.FIN|packet.ACK, 0, ""))
	b.feed(c.data("one"))
	b.wantData(b.session(), "one")

	b, c = newBench(t), underWay()
	b.feed(c.answer(10))
	next := newConn()
	next.iss = 77
	b.feed(next.handshake()...)
	b.feed(next.data("hello"))
	b.wantData(b.session(), "hello")
	if f := &b.book.Flows; f.Refused[report.Midstream] != 1 || f.Adopted != 0 || f.Seen != 2 {
		t.Errorf("flows %+v", f)
	}
}

// Observed flows have half of the table at most, and make way for new ones.
func TestObservedAreBounded(t *testing.T) {
	b := newBench(t)
	b.table = flow.NewTable[record](8)
	for n := range 10 {
		b.feed(caller(n).data("x"))
	}
	if f := &b.book.Flows; f.Observed != 4 || f.Refused[report.Midstream] != 6 || f.Seen != 10 {
		t.Errorf("flows %+v", f)
	}
	b.limit.handshake = time.Hour
	for n := range 8 {
		b.feed(caller(100 + n).handshake()...)
	}
	if f := &b.book.Flows; f.Observed != 0 || f.Live != 8 || f.Refused[report.TableFull] != 0 {
		t.Errorf("flows %+v", f)
	}
}

// The copier starts anywhere in connections: each session begins with the first
// turn that an answer was captured before, and gets all from there on.
func TestRandomBeginnings(t *testing.T) {
	for seed := range uint64(200) {
		w := &world{Rand: rand.New(rand.NewPCG(seed, 4))}
		b := newBench(t)
		want := make(map[uint16]string)
		var lives [][]capture.Packet
		for i := range 20 {
			c := underWay()
			c.client = netip.AddrPortFrom(c.client.Addr(), uint16(i+1))
			c.iss, c.irs = packet.Seq(w.Uint32()), packet.Seq(w.Uint32())
			life, rest := w.conversation(c)
			want[c.client.Port()] = rest
			lives = append(lives, append(life, c.fin(), c.serverFin(), c.ack()))
		}
		b.feed(w.mix(lives)...)
		var adopted uint64
		for _, s := range b.lane.sessions {
			port := s.open.Key.ClientPort
			if string(s.data) != want[port] || s.ends[0] != "fin" {
				t.Errorf("seed %d: session of %d got %q, want %q; ended by %v", seed, port, s.data, want[port], s.ends)
			}
			delete(want, port)
			adopted++
		}
		for port, data := range want {
			if data != "" {
				t.Errorf("seed %d: connection %d was not adopted, want %q", seed, port, data)
			}
		}
		f, cl := &b.book.Flows, &b.book.Client
		sum := cl.Sent
		sum.Plus(cl.Dropped[report.Midstream])
		sum.Plus(cl.Retransmitted)
		if f.Adopted != adopted || f.Adopted+f.Refused[report.Midstream] != f.Seen || sum != cl.Captured {
			t.Errorf("seed %d: %d sessions, flows %+v, client %+v", seed, adopted, f, cl)
		}
		b.end(seed)
		if t.Failed() {
			return
		}
	}
}

// conversation makes requests and answers of some segments each, and cuts the
// packets before a random one off. rest is what the session must get.
func (w *world) conversation(c *conn) (life []capture.Packet, rest string) {
	type turn struct {
		answer int // index of the last packet of the answer before it
		at     int
	}
	var turns []turn
	stream := ""
	last := -1
	for n := range 2 + w.IntN(8) {
		if last >= 0 {
			turns = append(turns, turn{last, len(stream)})
		}
		for k := range 1 + w.IntN(4) {
			text := fmt.Sprintf("%d.%d;", n, k)
			stream += text
			d := c.data(text)
			life = append(life, d)
			if w.IntN(5) == 0 {
				life = append(life, d)
			}
			if w.IntN(3) == 0 {
				life = append(life, c.out(packet.ACK, c.answered, 0))
			}
		}
		for range 1 + w.IntN(4) {
			life = append(life, c.answer(1+w.IntN(3000)))
			last = len(life) - 1
			if w.IntN(3) > 0 {
				life = append(life, c.ack())
			}
		}
	}
	start := w.IntN(len(life))
	for _, u := range turns {
		if u.answer >= start {
			return life[start:], stream[u.at:]
		}
	}
	return life[start:], ""
}

// A shard that only observes, adopts and ends does not allocate either.
func TestAdoptionDoesNotAllocate(t *testing.T) {
	s, ring := busy(100, 5, 300)
	all := ring.all[:0]
	for i := range ring.all {
		if at := i % 21; at >= 3 { // without the handshake
			all = append(all, ring.all[i])
		}
	}
	ring.all = all
	var p capture.Packet
	for range 10 {
		pass(s, &p)
	}
	if n := testing.AllocsPerRun(100, func() { pass(s, &p) }); n != 0 {
		t.Errorf("a block allocates %v times, want 0", n)
	}
	if f := &s.book.Flows; f.Adopted == 0 || len(s.book.Check()) > 0 {
		t.Errorf("flows %+v; %v", f, s.book.Check())
	}
}
