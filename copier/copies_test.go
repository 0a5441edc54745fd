package copier

import (
	"net/netip"
	"testing"
	"time"

	"flowtwin/tunnel/frame"
)

// Each flow must ask for exactly as many sessions as the amount says, the same at
// each run, and the copier must not end before it knows what became of them.
func TestCopiesAreAskedForAndAwaited(t *testing.T) {
	const flows = 400
	for name, tt := range map[string]struct {
		copies      float64
		least, most int // of all copies
	}{
		"3":   {3, 2 * flows, 2 * flows},
		"2.5": {2.5, flows * 14 / 10, flows * 16 / 10},
		"1":   {1, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			var runs [2]int
			for run := range runs {
				b := newBench(t)
				b.tell(&orders{amount: newAmount(tt.copies, 2*time.Second)})
				for i := range uint16(flows) {
					c := newConn()
					c.client = netip.AddrPortFrom(c.client.Addr(), 1000+i)
					b.feed(c.handshake()...)
					b.feed(c.data("abc"), c.answer(3), c.fin(), c.serverFin())
				}
				for _, s := range b.lane.sessions {
					n := int(s.open.Copies)
					runs[run] += n - 1
					if want := min(uint32(n-1)*2000, 2000); s.open.Jitter != want {
						t.Fatalf("%d copies with a jitter of %d ms", n, s.open.Jitter)
					}
				}
				if runs[run] < tt.least || runs[run] > tt.most {
					t.Fatalf("%d copies of %d flows, want %d to %d", runs[run], flows, tt.least, tt.most)
				}
				b.awaitsCopies(uint64(runs[run]))
			}
			if runs[0] != runs[1] {
				t.Errorf("%d copies, and %d in another run", runs[0], runs[1])
			}
		})
	}
}

// awaitsCopies has the responder account for the copies in two steps.
func (b *bench) awaitsCopies(n uint64) {
	b.t.Helper()
	quiet := func() bool {
		b.ask(phaseDraining)
		b.wait(time.Second)
		b.wait(time.Second) // it is said at the next turn
		return len(b.quiet) > 0
	}
	if n == 0 {
		if !quiet() {
			b.t.Error("waits for copies that nobody asked for")
		}
		return
	}
	if quiet() {
		b.t.Error("does not wait for the copies")
	}
	c := frame.Copies{Opened: n, Established: n - 1, Open: 1, GivenBytes: 3 * n, GivenSegments: n, DeliveredBytes: 3 * (n - 1), DeliveredSegments: n - 1}
	c.Closed[frame.ClosedBoth] = n - 2
	c.Closed[frame.ClosedNoTuple] = 1
	b.lane.returns = frame.AppendCopies(b.lane.returns, &c)
	if quiet() {
		b.t.Error("does not wait for the last copy")
	}
	if got := b.book.Copies; got.Open != 1 || got.InFlight.Bytes != 3 || len(b.book.Check()) > 0 {
		b.t.Errorf("copies %+v, wrong %v", got, b.book.Check())
	}
	c.Open, c.Established, c.DeliveredBytes, c.DeliveredSegments = 0, n, 3*n, n
	c.Closed[frame.ClosedBoth]++
	b.lane.returns = frame.AppendCopies(b.lane.returns, &c)
	if !quiet() {
		b.t.Error("waits although all copies are over")
	}
	if got := b.book.Copies; got.Open != 0 || got.Asked != n || got.Delivered.Bytes != 3*n || got.Established != n || len(b.book.Check()) > 0 {
		b.t.Errorf("copies %+v, wrong %v", got, b.book.Check())
	}
}

// Copies that end with the tunnel are lost, each once, and the next connection's
// count begins anew.
func TestCopiesAreLostWithTheTunnel(t *testing.T) {
	b, c := newBench(t), newConn()
	b.tell(&orders{amount: newAmount(5, 0)})
	b.feed(c.handshake()...)
	b.feed(c.data("abc"))
	r := frame.Copies{Opened: 4, Open: 3, GivenBytes: 12, GivenSegments: 4, DeliveredBytes: 3, DeliveredSegments: 1}
	r.Closed[frame.ClosedTargetReset] = 1
	b.lane.returns = frame.AppendCopies(b.lane.returns, &r)
	b.wait(time.Second)
	b.lane.epoch++
	b.wait(time.Second)
	r = frame.Copies{Opened: 4, Open: 4}
	b.lane.returns = frame.AppendCopies(b.lane.returns, &r)
	b.wait(time.Second)
	if got := b.book.Copies; got.Lost != 3 || got.Open != 0 || got.TunnelLost.Bytes != 9 || got.Closed[frame.ClosedTargetReset] != 1 || len(b.book.Check()) > 0 {
		t.Errorf("copies %+v, wrong %v", got, b.book.Check())
	}
}
