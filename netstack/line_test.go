package netstack

import (
	"math/rand/v2"
	"testing"
	"time"
)

// A lab has lines whose clock is the test's, and conns of no stack.
type lineLab struct {
	*lines
	at    time.Duration
	conns []*Conn
}

func newLineLab(tb testing.TB, cfg Line, conns int, lease time.Duration) *lineLab {
	tb.Helper()
	lab := &lineLab{}
	lab.lines = newLines(nil, cfg, func() time.Duration { return lab.at })
	tb.Cleanup(lab.injector.close)
	lab.rng = rand.New(rand.NewPCG(1, 2))
	for i := range conns {
		lab.conns = append(lab.conns, &Conn{User: uint64(i), line: lab.line(lease)})
	}
	return lab
}

// enter puts a packet of the target's, numbered n, into conn i's line.
func (lab *lineLab) enter(i, n, size int) bool {
	c := lab.conns[i]
	return lab.put(&c.line.in, size, delayed{conn: c, arrived: &arrival{payload: n}})
}

// Whatever the jitter, a direction of a session keeps its order, loses nothing, and
// no packet arrives early, or later than it may for its own sake or for those before
// it.
func TestLineKeepsOrder(t *testing.T) {
	const conns, packets = 20, 400
	cfg := Line{RTT: 40 * time.Millisecond, Jitter: 20 * time.Millisecond}
	lab := newLineLab(t, cfg, conns, 0)
	rng := rand.New(rand.NewPCG(3, 4))
	entered := make([][]time.Duration, conns)
	next := make([]int, conns)
	var clock time.Duration
	arrive := func(until time.Duration) {
		for p, ok := lab.take(until); ok; p, ok = lab.take(until) {
			i := p.conn.User
			if p.arrived.payload != next[i] {
				t.Fatalf("conn %d: packet %d arrives, want %d", i, p.arrived.payload, next[i])
			}
			if p.due < clock {
				t.Fatalf("a packet due at %v comes after %v", p.due, clock)
			}
			clock = p.due
			since := entered[i][next[i]]
			next[i]++
			if d := p.due - since; d < 10*time.Millisecond || d > 30*time.Millisecond+lineGrid {
				t.Fatalf("a packet takes %v", d)
			}
		}
	}
	for range conns * packets {
		lab.at += time.Duration(rng.IntN(50)) * time.Microsecond
		arrive(lab.at)
		i := rng.IntN(conns)
		entered[i] = append(entered[i], lab.at)
		if !lab.enter(i, len(entered[i])-1, 100) {
			t.Fatal("a packet was lost")
		}
	}
	arrive(1 << 62)
	for i := range next {
		if next[i] != len(entered[i]) {
			t.Errorf("conn %d: %d of %d packets arrived", i, next[i], len(entered[i]))
		}
	}
}

// Each session has the round-trip time of its lease, up to a bound; one whose
// client's is not known has none and is counted.
func TestLineOfTheLease(t *testing.T) {
	for lease, want := range map[time.Duration]time.Duration{
		30 * time.Millisecond: 15 * time.Millisecond,
		time.Hour:             MaxRTT / 2,
		0:                     0,
	} {
		lab := newLineLab(t, Line{Leased: true}, 1, lease)
		lab.enter(0, 0, 100)
		if p, _ := lab.take(1 << 62); p.due != want {
			t.Errorf("lease of %v: due after %v, want %v", lease, p.due, want)
		}
		if n := lab.unknown.Load(); (n == 1) != (lease == 0) {
			t.Errorf("lease of %v: %d are unknown", lease, n)
		}
	}
}

// With a bandwidth packets follow each other at its pace; what would wait for too
// long finds no room, and is counted; sessions do not share.
func TestLineBandwidth(t *testing.T) {
	lab := newLineLab(t, Line{Bandwidth: 12_000_000}, 2, 0) // 1500 bytes a millisecond
	took := 0
	for i := range 300 {
		if lab.enter(0, i, 1500) {
			took++
		}
	}
	if want := int(lineBuffer/time.Millisecond) + 1; took != want || lab.full.Load() != uint64(300-want) {
		t.Errorf("%d packets of 300 find room, want %d; %d counted", took, want, lab.full.Load())
	}
	if !lab.enter(1, 0, 1500) {
		t.Error("one session's packets fill the line of another")
	}
	for i := range took + 1 {
		p, ok := lab.take(1 << 62)
		if ok && p.conn == lab.conns[1] {
			continue
		}
		if i > 1 && p.due != time.Duration(p.arrived.payload+1)*time.Millisecond {
			t.Fatalf("packet %d is due at %v", p.arrived.payload, p.due)
		}
	}
	lab.at = time.Second
	if !lab.enter(0, 0, 1500) {
		t.Error("no room after everything has left")
	}
	slow := newLineLab(t, Line{Bandwidth: minRate}, 1, 0) // a packet takes longer than the buffer is
	if !slow.enter(0, 0, 1500) || !slow.enter(0, 1, 1500) || slow.enter(0, 2, 1500) {
		t.Error("a slow line takes other than two packets")
	}
}

// What is lost is what is counted.
func TestLineLoss(t *testing.T) {
	const packets = 100_000
	lab := newLineLab(t, Line{Loss: 0.01}, 1, 0)
	arrived := uint64(0)
	for i := range packets {
		lab.enter(0, i, 100)
		if _, ok := lab.take(1 << 62); ok {
			arrived++
		}
	}
	lost := lab.lost.Load()
	if arrived+lost != packets || lost < packets/200 || lost > packets/50 {
		t.Errorf("%d arrived, %d are counted as lost, of %d", arrived, lost, packets)
	}
}

// The packets under way are bounded, and those beyond are counted.
func TestLineIsBounded(t *testing.T) {
	lab := newLineLab(t, Line{RTT: time.Second}, 1, 0)
	for i := range maxDelayed + 10 {
		if lab.enter(0, i, 100) != (i < maxDelayed) {
			t.Fatalf("packet %d", i)
		}
	}
	if n := lab.full.Load(); n != 10 {
		t.Errorf("%d are counted, want 10", n)
	}
}

func TestLineDoesNotAllocate(t *testing.T) {
	lab := newLineLab(t, Line{RTT: time.Millisecond, Jitter: time.Millisecond, Loss: 0.01, Bandwidth: 1e9}, 8, 0)
	headers := make([]byte, 52)
	round := func() {
		for i := range 64 {
			lab.receive(lab.conns[i%8], headers, 12, 1000)
		}
		lab.at += time.Second
		for p, ok := lab.take(lab.at); ok; p, ok = lab.take(lab.at) {
			lab.recycle(p.arrived)
		}
	}
	round()
	if n := testing.AllocsPerRun(100, round); n != 0 {
		t.Errorf("64 packets allocate %v times", n)
	}
}

func BenchmarkLine(b *testing.B) {
	lab := newLineLab(b, Line{RTT: 40 * time.Millisecond, Jitter: 10 * time.Millisecond}, 10_000, 0)
	headers := make([]byte, 52)
	i := 0
	for b.Loop() {
		lab.at += 5 * time.Microsecond // 4,000 packets under way
		lab.receive(lab.conns[i%10_000], headers, 12, 1000)
		for p, ok := lab.take(lab.at); ok; p, ok = lab.take(lab.at) {
			lab.recycle(p.arrived)
		}
		i++
	}
}
