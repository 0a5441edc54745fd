package copier

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"flowtwin/copier/capture"
	"flowtwin/copier/report"
	"flowtwin/internal/http1"
)

// Random conversations, cut at random, with what the client has seen at random: what
// is selected comes out, the books balance, and nothing that cannot be answered is
// waited for.
func TestSelectRandom(t *testing.T) {
	t.Parallel()
	for seed := range uint64(300) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		b := newSifting(t, shop(), false)
		c := newConn()
		b.feed(c.handshake()...)
		var in, want strings.Builder
		for i := range 1 + rnd.IntN(12) {
			host := string("kl"[rnd.IntN(2)]) + fmt.Sprint(i)
			r := ask(host)
			if rnd.IntN(3) == 0 {
				r = post(host, strings.Repeat("x", rnd.IntN(3000)))
			}
			in.WriteString(r)
			if host[0] == 'k' {
				want.WriteString(r)
			}
		}
		for rest := in.String(); rest != ""; {
			n := min(1+rnd.IntN(200), len(rest))
			if rnd.IntN(3) == 0 {
				b.feed(c.answer(1 + rnd.IntN(300)))
			}
			b.feed(c.data(rest[:n]))
			rest = rest[n:]
		}
		b.feed(c.fin(), c.serverFin(), c.ack())
		if want.Len() == 0 {
			if len(b.lane.sessions) > 0 {
				t.Errorf("seed %d: a session without a request", seed)
			}
			continue
		}
		b.wantData(b.session(), want.String())
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// browsing returns a shard that selects requests, and its ring: of each connection's
// seven requests five are selected, and one comes in two segments.
func browsing(tb testing.TB, n int) (*shard, *steady) {
	tb.Helper()
	s, ring := busy(0, 0, 0)
	rules, err := http1.Compile(http1.Config{Hosts: []string{"k*"}, NotPaths: []string{"~^/img"}, SetHeaders: []string{"X-Copied: 1"}})
	if err != nil {
		tb.Fatal(err)
	}
	s.sieve = newSieve(rules, false, 1)
	for i := range n {
		c := newConn()
		c.client = netip.AddrPortFrom(c.client.Addr(), uint16(1000+i))
		ring.all = append(ring.all, c.handshake()...)
		ring.all = append(ring.all, c.data(ask("l1")), c.answer(500), c.data(ask("k1")), c.answer(500), c.data(post("k2", "abc")+ask("l2")+ask("k3")), c.answer(9))
		ring.all = append(ring.all, c.data("GET / HTTP/1.1\r\nHo"), c.data("st: k\r\n\r\n"), c.answer(10), c.data(post("k4", string(make([]byte, 300)))), c.answer(20))
		ring.all = append(ring.all, c.fin(), c.serverFin(), c.ack())
	}
	for i := range ring.all {
		ring.all[i].Checked = true // the ring changes them
	}
	return s, ring
}

func TestSelectDoesNotAllocate(t *testing.T) {
	s, _ := browsing(t, 50)
	var p capture.Packet
	for range 10 {
		pass(s, &p)
	}
	if n := testing.AllocsPerRun(100, func() { pass(s, &p) }); n != 0 {
		t.Errorf("a block allocates %v times, want 0", n)
	}
	if wrong := s.book.Check(); len(wrong) > 0 || s.book.HTTP != (report.HTTP{Selected: 5 * 111 * 50, LeftOut: 2 * 111 * 50}) {
		t.Errorf("%+v; %v", s.book.HTTP, wrong)
	}
}

func BenchmarkSelect(b *testing.B) {
	for name, on := range map[string]bool{"off": false, "on": true} {
		b.Run(name, func(b *testing.B) {
			s, ring := browsing(b, 100)
			if !on {
				s.sieve = nil
			}
			var p capture.Packet
			pass(s, &p)
			for b.Loop() {
				pass(s, &p)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(ring.all)), "ns/packet")
		})
	}
}

// inOrder reports whether data is made of requests out of list, in their order, of
// which the last may be cut short.
func inOrder(data string, list []string) bool {
	for _, r := range list {
		if rest, ok := strings.CutPrefix(data, r); ok {
			data = rest
		} else if data != "" && strings.HasPrefix(r, data) {
			return true
		}
	}
	return data == ""
}

// Whatever is lost, overtaken, sent again or given up: nothing that is not selected
// comes to the target, no request without its beginning, and the books balance.
func TestSelectAccidents(t *testing.T) {
	t.Parallel()
	sessions, cuts := 0, 0
	for seed := range uint64(400) {
		rnd := rand.New(rand.NewPCG(seed, 2))
		b := newSifting(t, shop(), seed%2 == 0)
		b.sieve.heads.room = 8 << 10
		c := newConn()
		b.feed(c.handshake()...)
		var list []string
		for i := range 30 {
			host := string("kl"[rnd.IntN(2)]) + fmt.Sprint(i)
			r := ask(host)
			if rnd.IntN(3) == 0 {
				r = post(host, strings.Repeat("x", rnd.IntN(300)))
			}
			if host[0] == 'k' {
				list = append(list, r)
			}
			var held []capture.Packet
			for r != "" {
				n := min(1+rnd.IntN(150), len(r))
				p := c.data(r[:n])
				r = r[n:]
				switch rnd.IntN(30) {
				case 0: // not captured
				case 1:
					held = append(held, p) // overtaken
				case 2:
					b.feed(p, p)
				default:
					b.feed(p)
				}
			}
			b.feed(held...)
			switch rnd.IntN(40) {
			case 0:
				b.lane.crash()
			case 1:
				b.lane.full = true
			case 2:
				b.lane.up = false
			default:
				if !b.lane.up {
					b.lane.crash()
				}
				b.lane.full, b.lane.up = false, true
			}
			b.feed(c.answer(1+rnd.IntN(300)), c.ack())
		}
		b.feed(c.fin(), c.serverFin(), c.ack())
		for _, s := range b.lane.sessions {
			if !inOrder(string(s.data), list) {
				t.Fatalf("seed %d: session got %q", seed, s.data)
			}
		}
		sessions += len(b.lane.sessions)
		if n := len(b.sieve.cuts); n != 1 {
			t.Fatalf("seed %d: %d cuts for one connection", seed, n)
		}
		if b.sieve.held != (report.Count{}) && b.book.Flows.Live+b.book.Flows.Waiting == 0 {
			t.Fatalf("seed %d: %+v are held of no flow", seed, b.sieve.held)
		}
		for _, x := range b.sieve.cuts {
			if x.hold != 0 {
				cuts++
			}
		}
	}
	t.Logf("%d sessions, %d heads held at the end", sessions, cuts)
	if sessions < 500 || cuts > 0 {
		t.Errorf("%d sessions, %d heads held at the end", sessions, cuts)
	}
}
