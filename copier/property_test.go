package copier

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"flowtwin/copier/capture"
	"flowtwin/copier/report"
	"flowtwin/internal/flow"
	"flowtwin/internal/packet"
	"flowtwin/tunnel/frame"
)

// Whatever is captured, in whatever order, and whatever the responder does: the
// books balance after each packet, and each session has got a prefix of what its
// client sent, from its beginning or from a turn's, nothing twice, nothing left out.
func TestRandomCaptures(t *testing.T) {
	rounds := 600
	if testing.Short() {
		rounds = 30
	}
	var adopted uint64
	late := 0
	for seed := range uint64(rounds) {
		w := &world{Rand: rand.New(rand.NewPCG(seed, 1)), streams: make(map[flow.Key][]byte), turns: make(map[flow.Key][]int), ports: uint32(seed % 40 * (seed / 2 % 2))}
		b := newBench(t)
		b.table = flow.NewTable[record](1 + w.IntN(100))
		b.store = flow.NewStore(1 << (8 + w.IntN(12)))
		b.limit.idle = 5 * time.Second
		var lives [][]capture.Packet
		for range 1 + w.IntN(60) {
			lives = append(lives, w.disturb(w.life(), int(seed%3)*20))
		}
		for _, p := range w.mix(lives) {
			if seed%2 == 1 {
				w.responder(b.lane)
			}
			b.feed(p)
			if w.IntN(100) == 0 {
				b.wait(time.Duration(w.IntN(3000)) * time.Millisecond)
			}
		}
		for _, s := range b.lane.sessions {
			if !w.sent(s) {
				t.Errorf("seed %d: session of %v got %q, which its client did not send so", seed, s.open.Key.ClientPort, s.data)
			}
		}
		if w.ports == 0 {
			w.once(t, b.lane.sessions)
		}
		adopted += b.book.Flows.Adopted
		late += w.late
		b.end(seed)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	if adopted == 0 || late == 0 {
		t.Errorf("%d connections were adopted, %d had a prologue", adopted, late)
	}
}

// end shuts the shard down as Run does; nothing may be left open.
func (b *bench) end(seed uint64) {
	b.t.Helper()
	b.lane.jam, b.lane.full, b.lane.answers = false, false, true
	b.ask(phaseDraining)
	b.wait(time.Second)
	b.ask(phaseFinishing)
	b.wait(3 * time.Second)
	for _, s := range b.lane.byFlow {
		b.lane.close(s, frame.ClosedDrain)
	}
	b.wait(3 * time.Second)
	if f := &b.book.Flows; f.Live != 0 || f.Pending != 0 || f.Observed != 0 || f.Waiting != 0 || f.Suspended != 0 {
		b.t.Errorf("seed %d: flows are left: %+v", seed, f)
	}
	if s := &b.book; s.Sent.InFlight != (report.Count{}) || s.Sessions.Open != 0 {
		b.t.Errorf("seed %d: in flight %+v, sessions open %d", seed, s.Sent.InFlight, s.Sessions.Open)
	}
	if n := b.chunks(); n != 0 {
		b.t.Errorf("seed %d: %d chunks of prologues are left", seed, n)
	}
	if b.owed != 0 || b.store.Len() != 0 {
		b.t.Errorf("seed %d: owes %d frames, stores %d segments", seed, b.owed, b.store.Len())
	}
}

// chunks returns how many chunks of prologues are in use.
func (b *bench) chunks() int {
	n := b.prologues.used
	for id := b.prologues.free; id != 0; id = b.prologues.at(id).next {
		n--
	}
	return n
}

// Without losses all of it must arrive, not only a prefix.
func TestNothingIsLostByReordering(t *testing.T) {
	for seed := range uint64(50) {
		w := &world{Rand: rand.New(rand.NewPCG(seed, 2)), streams: make(map[flow.Key][]byte)}
		b := newBench(t)
		var lives [][]capture.Packet
		for i := range 20 {
			w.ports = 0
			c := newConn()
			c.client = netip.AddrPortFrom(c.client.Addr(), uint16(i+1))
			c.iss = packet.Seq(w.Uint32())
			life := c.handshake()
			for j := range 30 {
				life = append(life, c.data(fmt.Sprint(j, ",")))
			}
			// Only what the client sends swaps places: the server acknowledges later.
			w.Shuffle(30, func(x, y int) { life[3+x], life[3+y] = life[3+y], life[3+x] })
			lives = append(lives, append(life, c.fin(), c.serverFin()))
		}
		b.feed(w.mix(lives)...)
		if b.book.Sent.Delivered != b.book.Client.Captured || b.book.Flows.Ended[report.ClientFirst] != 20 {
			t.Fatalf("seed %d: %+v\n%+v", seed, b.book.Client, b.book.Flows)
		}
	}
}

// Whatever others send on the tuples of connections: each arrives whole, and ends
// as it ended.
func TestForgeriesChangeNothing(t *testing.T) {
	for seed := range uint64(50) {
		w := &world{Rand: rand.New(rand.NewPCG(seed, 3)), streams: make(map[flow.Key][]byte)}
		b := newBench(t)
		var lives [][]capture.Packet
		for i := range 20 {
			c := newConn()
			c.client = netip.AddrPortFrom(c.client.Addr(), uint16(i+1))
			c.iss = packet.Seq(w.Uint32())
			life := c.handshake()
			for j := range 30 {
				life = append(life, c.data(fmt.Sprint(j, ",")), w.forge(c))
				if w.IntN(3) == 0 {
					life = append(life, c.answer(10), w.forge(c), c.ack())
				}
			}
			lives = append(lives, append(life, c.fin(), c.serverFin()))
		}
		b.feed(w.mix(lives)...)
		b.wait(time.Second)
		if b.book.Flows.Ended[report.ClientFirst] != 20 || b.book.Flows.Seen != 20 || len(b.lane.sessions) != 20 {
			t.Fatalf("seed %d: flows %+v", seed, b.book.Flows)
		}
		for _, s := range b.lane.sessions {
			if len(s.data) != 80 || bytes.Contains(s.data, []byte("evil")) || s.ends[0] != "fin" {
				t.Fatalf("seed %d: session got %q and ended by %v", seed, s.data, s.ends)
			}
		}
	}
}
