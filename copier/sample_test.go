package copier

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"flowtwin/copier/report"
	"flowtwin/internal/flow"
	"flowtwin/internal/packet"
	"flowtwin/tunnel/frame"
)

// hashed returns connections whose hashes lie between the percentages.
func hashed(from, to float64, n int) (out []*conn) {
	for port := uint16(20_000); len(out) < n; port++ {
		c := newConn()
		c.client = netip.AddrPortFrom(clientAddr.Addr(), port)
		a := packet.AddrFrom(c.client.Addr())
		if !flow.Sampled(from).Takes(&a, port) && flow.Sampled(to).Takes(&a, port) {
			out = append(out, c)
		}
	}
	return out
}

func sampleOrders(admit, adopt float64) *orders {
	cfg := &Config{}
	return &orders{admit: cfg.choice(flow.Sampled(admit)), adopt: cfg.choice(flow.Sampled(adopt))}
}

// Where packets come that the filter could not choose, from files or out of
// tunnels, the shard must choose the same.
func TestShardAdmitsTheSample(t *testing.T) {
	b := newBench(t)
	b.tell(sampleOrders(25, 25))
	in, out := hashed(0, 25, 3), hashed(25, 100, 5)
	for _, c := range append(in, out...) {
		b.feed(c.handshake()...)
		b.feed(c.data("hello"), c.answer(3), c.fin(), c.serverFin(), c.ack())
	}
	if n := len(b.lane.sessions); n != 3 {
		t.Errorf("%d sessions, want 3", n)
	}
	f := b.book.Flows
	if f.Seen != 8 || f.Admitted != 3 || f.Refused[report.SampledOut] != 5 {
		t.Errorf("flows %+v", f)
	}
	b.wantDropped(report.SampledOut, 25)
	if l := b.ledger(); l.Headline() != "copied 100.00 %" {
		t.Errorf("what nobody wanted is called a loss: %s", l.Headline())
	}
}

// A connection that began outside the sample must not enter it in its middle when
// that grows, whether or not it is remembered.
func TestGrownSampleTakesNewConnectionsOnly(t *testing.T) {
	b := newBench(t)
	b.tell(sampleOrders(10, 10))
	met, old := hashed(10, 50, 2)[0], hashed(10, 50, 2)[1]
	b.feed(met.handshake()...)
	b.feed(met.data("one"), met.answer(5), met.ack())
	old.sent, old.answered = 1000, 1000
	b.tell(sampleOrders(50, 10))
	for _, c := range []*conn{met, old} {
		b.feed(c.data("two"), c.answer(5), c.ack(), c.data("three"), c.answer(5), c.ack())
	}
	if n := len(b.lane.sessions); n != 0 {
		t.Fatalf("%d sessions of connections that had begun", n)
	}
	c := hashed(10, 50, 3)[2]
	b.feed(c.handshake()...)
	b.feed(c.data("hello"))
	b.wantData(b.session(), "hello")
	if f := b.book.Flows; f.Refused[report.SampledOut] != 2 {
		t.Errorf("flows %+v", f)
	}
}

// The port of a connection whose account is still to come may be used again by one that
// the filter did not take. What comes of that when the sample grows is none of the
// first one's, and is not to be called what its client sent after the end.
func TestUnsampledConnectionOnAPortUsedBefore(t *testing.T) {
	b := newBench(t)
	b.lane.answers = false
	c := hashed(10, 50, 1)[0]
	b.feed(c.handshake()...)
	b.feed(c.data("one"), c.answer(5), c.fin(), c.serverFin(), c.ack())
	b.tell(sampleOrders(10, 10))
	b.feed()
	again := hashed(10, 50, 1)[0]
	again.iss, again.irs = c.iss.Add(1<<28), c.irs.Add(1<<28)
	b.tell(sampleOrders(100, 10))
	b.feed(again.data("two"), again.answer(5), again.ack(), again.data("three"))
	b.wantDropped(report.AfterEnd, 0)
	b.wantDropped(report.SampledOut, 8)
	s := b.session()
	b.wantData(s, "one")
	b.lane.close(s, frame.ClosedBoth)
	b.feed(again.answer(5), again.ack(), again.data("four"))
	b.wantDropped(report.SampledOut, 12)
	if f := b.book.Flows; f.Seen != 2 || f.Refused[report.SampledOut] != 1 || b.table.Len() != 0 {
		t.Errorf("flows %+v, %d in the table", f, b.table.Len())
	}
}

// Connections that are copied go on when the sample shrinks, those that would only
// have been adopted do not begin any more, and the filter is told what is needed.
func TestShrunkSampleKeepsWhatIsCopied(t *testing.T) {
	b := newBench(t)
	b.tell(sampleOrders(50, 50))
	cs := hashed(20, 50, 3)
	copied, observed, late := cs[0], cs[1], cs[2]
	b.feed(copied.handshake()...)
	b.feed(copied.data("one"), copied.answer(5), copied.ack())
	observed.sent, observed.answered = 1000, 1000
	b.feed(observed.answer(5), observed.ack())
	need := make(chan uint64, 1)
	o := sampleOrders(20, 20)
	o.need = need
	b.tell(o)
	b.feed(copied.data("two"), copied.answer(5), copied.ack())
	b.feed(observed.data("one"), observed.answer(5))
	b.feed(late.handshake()...)
	b.feed(late.data("x"))
	b.wantData(b.session(), "onetwo")
	a := packet.AddrFrom(copied.client.Addr())
	if got, want := <-need, uint64(flow.Sampled(100).Hash(&a, copied.client.Port()))+1; got != want {
		t.Errorf("needs %#x, want %#x", got, want)
	}
	b.feed(copied.fin(), copied.serverFin(), copied.ack())
	o = sampleOrders(20, 20)
	o.need = need
	b.tell(o)
	b.feed()
	if got := <-need; got != 0 {
		t.Errorf("needs %#x with nothing left", got)
	}
	if f := b.book.Flows; f.Refused[report.SampledOut] != 2 || f.Observed != 0 {
		t.Errorf("flows %+v", f)
	}
}

// Each step must reach the shards before the filter, so that no SYN passes the one
// to be refused by the other.
func TestRamp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.cfg.Sample, r.cfg.Ramp = 40, 10*time.Minute
		r.sampling = newSampling(r.cfg.first())
		r.tellLocked(nil)
		stop := r.start(t)
		early, later := hashed(0, 20, 2), hashed(20, 40, 2)
		c := early[0]
		r.capture(c.handshake()...)
		r.capture(c.data("too early"))
		elapse(5*time.Minute + time.Second)
		if got := r.set.percent(); got != 20 || r.sampled() != 20 {
			t.Errorf("after half the ramp the filter takes %v %%, shards %v %%", got, r.sampled())
		}
		for _, c := range []*conn{early[1], later[0]} {
			r.capture(c.handshake()...)
			r.capture(c.data("half"))
		}
		elapse(5 * time.Minute)
		if got := r.set.percent(); got != 40 {
			t.Errorf("after the ramp the filter takes %v %%", got)
		}
		r.capture(later[1].handshake()...)
		r.capture(later[1].data("all"), later[0].answer(5), later[0].ack(), later[0].data("again"))
		times := r.set.changes()
		elapse(time.Hour)
		if r.set.changes() != times {
			t.Error("the filter is changed after the ramp")
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if n := len(r.lane.sessions); n != 2 {
			t.Errorf("%d sessions, want 2", n)
		}
		if f := r.summary().Ledger.Flows; f.Refused[report.SampledOut] != 2 {
			t.Errorf("flows %+v", f)
		}
	})
}

// A smaller sample is to cost less, once the last connection outside of it is over.
func TestFilterNarrows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.tellLocked(nil)
		stop := r.start(t)
		c := hashed(50, 60, 1)[0]
		r.capture(c.handshake()...)
		r.capture(c.data("one"))
		if _, err := r.setPercent([]string{"10"}); err != nil {
			t.Fatal(err)
		}
		if got := r.set.changes(); got != 0 {
			t.Errorf("the filter changes while connections need it, %d times", got)
		}
		elapse(2 * localEvery)
		if got := r.set.percent(); got < 50 || got > 60 {
			t.Errorf("the filter takes %v %%, the connection needs 50 to 60", got)
		}
		r.capture(c.answer(5), c.ack(), c.data("two"), c.fin(), c.serverFin(), c.ack())
		elapse(2 * localEvery)
		if got := r.set.percent(); got != 10 {
			t.Errorf("the filter takes %v %% at last", got)
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if got := string(r.lane.sessions[0].data); got != "onetwo" {
			t.Errorf("copied %q", got)
		}
	})
}
