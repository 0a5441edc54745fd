package copier

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"flowtwin/copier/capture"
	"flowtwin/copier/report"
)

// short returns the packets of a short connection of one of many clients.
func short(i int) []capture.Packet {
	c := newConn()
	c.client = netip.AddrPortFrom(clientAddr.Addr(), uint16(1000+i))
	return append(c.handshake(), c.data(fmt.Sprint(i)), c.answer(10), c.fin(), c.serverFin(), c.ack())
}

// begin runs the rig; order has it drain, as ctl does, and done gets how it ended.
func (r *rig) begin(t *testing.T) (order func(), done chan error) {
	t.Helper()
	r.tellLocked(nil)
	ctx, cancel := context.WithCancel(t.Context())
	done = make(chan error, 1)
	go func() { done <- r.run(ctx) }()
	synctest.Wait()
	return func() {
		if _, err := r.ask(t, cancel, "drain"); err != nil {
			t.Error(err)
		}
	}, done
}

// fill captures packets now, into a block that the kernel hands over later.
func (r *rig) fill(later time.Duration, packets ...capture.Packet) {
	for i := range packets {
		packets[i].Time = time.Now().UnixNano()
	}
	time.AfterFunc(later, func() { r.ring.put(packets...) })
}

// wantRefused checks how many flows were refused by the order to stop.
func (r *rig) wantRefused(t *testing.T, want int) {
	t.Helper()
	if got := r.shards[0].ledger().Flows.Refused[report.Draining]; int(got) != want {
		t.Errorf("%d flows refused as draining, want %d", got, want)
	}
}

// wantCopied checks how many flows were copied, each whole.
func (r *rig) wantCopied(t *testing.T, copied int) {
	t.Helper()
	if len(r.lane.sessions) != copied {
		t.Fatalf("%d sessions, want %d", len(r.lane.sessions), copied)
	}
	for _, s := range r.lane.sessions {
		if len(s.data) == 0 || len(s.ends) != 1 || s.ends[0] != "fin" {
			t.Errorf("session got %q, ends %v", s.data, s.ends)
		}
	}
	l := r.shards[0].ledger()
	if wrong := l.Check(); len(wrong) > 0 {
		t.Error(wrong)
	}
}

// What the kernel captured before the order lies in a block that it has not handed
// over: those connections began before it, and what comes behind it in the same block
// did not.
func TestStopCopiesWhatWasCapturedBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		order, done := r.begin(t)
		r.fill(2*retire, short(1)...)
		last := short(2)
		r.fill(2*retire, last[0])
		<-time.After(time.Millisecond)
		began := time.Now()
		order()
		r.fill(2*retire, last[1:]...) // began before, established after
		r.fill(2*retire, short(3)...)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if d := time.Since(began); d > 2*tick {
			t.Errorf("ended after %v", d)
		}
		r.wantCopied(t, 2)
		r.wantRefused(t, 1)
	})
}

// A busy host's shard has a whole ring to read when the order comes.
func TestStopReadsTheRing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		order, done := r.begin(t)
		r.ring.slow = 10 * time.Millisecond // a packet
		const n = 10
		for i := range n {
			r.fill(0, short(i)...)
		}
		<-time.After(time.Millisecond)
		order()
		<-time.After(openBlock)
		for i := range n {
			r.fill(0, short(n+i)...)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		r.wantCopied(t, n)
	})
}

// Half a handshake, from a flood most likely, is nothing that the order kept from the
// target.
func TestStopFindsHalfOpenFlows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		order, done := r.begin(t)
		r.fill(0, short(1)[:2]...)
		<-time.After(time.Millisecond)
		order()
		<-time.After(time.Millisecond)
		r.fill(0, short(2)[:2]...)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		r.wantCopied(t, 0)
		r.wantRefused(t, 1)
		if n := r.shards[0].ledger().Flows.Refused[report.NeverEstablished]; n != 1 {
			t.Errorf("%d flows never established, want 1", n)
		}
	})
}

// A handshake that has begun a moment ago is another thing, where nothing is waited for:
// its connection may come about online.
func TestStopAtOnceDuringHandshakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.cfg.Drain = time.Millisecond
		order, done := r.begin(t)
		r.fill(0, short(1)[:2]...)
		<-time.After(2 * handshakeMost)
		r.fill(0, short(2)[:2]...)
		<-time.After(tick)
		order()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		r.wantRefused(t, 1)
		if n := r.shards[0].ledger().Flows.Refused[report.NeverEstablished]; n != 1 {
			t.Errorf("%d flows never established, want 1", n)
		}
	})
}

// Nothing to copy: nobody waits.
func TestStopOfAnIdleRing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		order, done := r.begin(t)
		<-time.After(time.Minute)
		began := time.Now()
		order()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if d := time.Since(began); d != openBlock {
			t.Errorf("ended after %v, want %v", d, openBlock)
		}
	})
}

// A clock that is set while the copier ends must neither hold it up nor let
// connections in for as long. The ring is never empty.
func TestStopWhileTheClockIsSet(t *testing.T) {
	const each = 5 * time.Millisecond // a packet
	for name, tt := range map[string]struct {
		by   time.Duration
		most time.Duration // until no flow is admitted
	}{
		"back":  {-time.Hour, catchUpMost},
		"ahead": {time.Hour, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				order, done := r.begin(t)
				live := newConn()
				r.capture(live.handshake()...)
				r.ring.slow = each
				began := time.Now()
				order()
				for i := range 200 {
					packets := short(i)
					for k := range packets {
						packets[k].Time = time.Now().Add(tt.by).UnixNano()
					}
					r.ring.put(packets...)
				}
				if err := <-done; err != nil {
					t.Fatal(err)
				}
				if d := time.Since(began); d > r.cfg.Drain+tick {
					t.Errorf("ended after %v, want %v", d, r.cfg.Drain)
				}
				packets := len(r.lane.sessions[1:]) * len(short(0))
				if d := time.Duration(packets) * each; d > tt.most+50*time.Millisecond || d < tt.most/2 {
					t.Errorf("flows were admitted for %v, want %v", d, tt.most)
				}
			})
		})
	}
}

// A handshake that was under way has time to be done; one that never is, a SYN of a
// scan, does not keep the copier for all of --drain.
func TestStopDuringHandshakes(t *testing.T) {
	for name, after := range map[string]time.Duration{"slow": 300 * time.Millisecond, "never": time.Hour} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				order, done := r.begin(t)
				packets := short(1)
				r.fill(0, packets[:2]...)
				<-time.After(time.Millisecond)
				began := time.Now()
				order()
				time.AfterFunc(after, func() { r.fill(0, packets[2:]...) })
				if err := <-done; err != nil {
					t.Fatal(err)
				}
				if d := time.Since(began); d > handshakeMost+openBlock+2*tick {
					t.Errorf("ended after %v", d)
				}
				r.wantCopied(t, map[string]int{"slow": 1, "never": 0}[name])
				r.wantRefused(t, 0)
			})
		})
	}
}

// A connection that was there before the copier is not taken behind the order either,
// though the shard is still catching up.
func TestStopAdoptsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		order, done := r.begin(t)
		before, behind := newConn(), newConn()
		before.client = netip.MustParseAddrPort("192.0.2.8:1")
		r.fill(2*retire, before.answer(10), before.data("before"))
		<-time.After(time.Millisecond)
		order()
		<-time.After(time.Millisecond)
		r.fill(2*retire, behind.answer(10), behind.data("behind"))
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if len(r.lane.sessions) != 1 || string(r.lane.sessions[0].data) != "before" {
			t.Errorf("%d sessions", len(r.lane.sessions))
		}
	})
}

// A live flow gets the drain time, goes on being copied in it, and is then given
// up; a new one is not admitted.
func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, c := newRig(t), newConn()
		order, done := r.begin(t)
		r.capture(c.handshake()...)
		began := time.Now()
		order()
		synctest.Wait()
		late := newConn()
		late.iss = 1 << 20
		late.client = netip.MustParseAddrPort("192.0.2.9:1")
		r.capture(late.handshake()...)
		r.capture(c.data("still"))
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if d := time.Since(began); d < 5*time.Second || d > 6*time.Second {
			t.Errorf("stopping took %v, want the 5 s of --drain", d)
		}
		if len(r.lane.sessions) != 1 {
			t.Fatalf("%d sessions, want 1", len(r.lane.sessions))
		}
		s := r.lane.sessions[0]
		if string(s.data) != "still" || s.ends[0] != "abort:drain" {
			t.Errorf("session got %q, ends %v", s.data, s.ends)
		}
		l := r.shards[0].ledger()
		if l.Flows.GivenUp[report.Draining] != 1 || l.Flows.Refused[report.Draining] != 1 {
			t.Errorf("flows %+v", l.Flows)
		}
	})
}

// The last flow's end ends the drain.
func TestDrainEndsEarly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, c := newRig(t), newConn()
		order, done := r.begin(t)
		r.capture(c.handshake()...)
		began := time.Now()
		order()
		synctest.Wait()
		r.capture(c.fin(), c.serverFin())
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if d := time.Since(began); d > time.Second {
			t.Errorf("stopping took %v", d)
		}
	})
}

// The drain waits for the accounts of sessions whose flows have ended.
func TestDrainWaitsForAccounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, c := newRig(t), newConn()
		r.lane.answers = false
		stop := r.start(t)
		r.capture(c.handshake()...)
		r.capture(c.data("abc"), c.fin(), c.serverFin())
		began := time.Now()
		done := make(chan error)
		go func() { done <- stop() }()
		elapse(4 * time.Second)
		r.lane.bye <- struct{}{} // the target is slow
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if d := time.Since(began); d < 4*time.Second || d > 5*time.Second {
			t.Errorf("stopping took %v, want until the account came after 4 s", d)
		}
		if !strings.HasPrefix(r.out.String(), "copied 100.00 %\n") {
			t.Errorf("ledger is\n%s", &r.out)
		}
	})
}
