package copier

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"flowtwin/internal/flow"
	"flowtwin/internal/packet"
	"flowtwin/tunnel"
)

// newFleet returns a fleet of n rigs, which log and print to base.
func newFleet(t *testing.T, n int, split bool) (f *fleet, rigs []*rig, base *rig) {
	t.Helper()
	base = newRig(t)
	cfg := base.cfg
	cfg.Split, cfg.Server = split, "one"
	cfg.Out = &base.out
	cfg.Ready = func() { cfg.Log.Info("all are ready") }
	for range n - 1 {
		cfg.More = append(cfg.More, Target{Maps: cfg.Maps, Server: "more"})
	}
	f = &fleet{cfg: cfg}
	for _, c := range cfg.each() {
		r := newRig(t)
		r.cfg = c
		r.tellLocked(nil)
		rigs = append(rigs, r)
		f.copiers = append(f.copiers, r.copier)
	}
	return f, rigs, base
}

// A target that is refused, or whose ring fails, must not take the others along.
func TestFleetOutlivesOneTarget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, rigs, base := newFleet(t, 3, false)
		rigs[0].client.connect = func(context.Context) error { return tunnel.ErrSecret }
		rigs[0].client.stats.Connects = 0
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- f.run(ctx) }()
		<-time.After(time.Second) // until all have looked after their rings once
		synctest.Wait()
		if n := strings.Count(base.log.String(), "all are ready"); n != 1 {
			t.Errorf("told %d times that all are ready, or known not to be", n)
		}
		for _, r := range rigs[1:] {
			c := newConn()
			r.capture(c.handshake()...)
			r.capture(c.data("hello"), c.answer(3), c.fin(), c.serverFin(), c.ack())
		}
		cancel()
		if err := <-done; !errors.Is(err, tunnel.ErrSecret) || !strings.Contains(err.Error(), "target one: ") {
			t.Errorf("error %v", err)
		}
		for _, r := range rigs[1:] {
			if got := string(r.lane.sessions[0].data); got != "hello" {
				t.Errorf("%s got %q", r.cfg.name, got)
			}
		}
		out := base.out.String()
		for _, want := range []string{"one: nothing to copy\nmore: copied 100.00 %\nmore#2: copied 100.00 %\n", "==== target more#2 ====\ncopied 100.00 %"} {
			if !strings.Contains(out, want) {
				t.Errorf("%q is not in the ledger:\n%s", want, out)
			}
		}
		var doc struct {
			Final   bool `json:"final"`
			Targets []struct {
				Target string `json:"target"`
				Client struct {
					Sent struct {
						Bytes int `json:"bytes"`
					} `json:"sent"`
				} `json:"client"`
			} `json:"targets"`
		}
		b, err := os.ReadFile(f.cfg.ReportFile)
		if err == nil {
			err = json.Unmarshal(b, &doc)
		}
		if err != nil || !doc.Final || len(doc.Targets) != 3 || doc.Targets[2].Target != "more#2" || doc.Targets[2].Client.Sent.Bytes != 5 {
			t.Errorf("report: %v, %+v", err, doc)
		}
	})
}

// SIGUSR1 is one signal for all.
func TestFleetPrintsEachStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, rigs, base := newFleet(t, 2, false)
		usr1 := make(chan os.Signal, 1)
		f.cfg.Status = usr1
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- f.run(ctx) }()
		usr1 <- syscall.SIGUSR1
		synctest.Wait()
		for _, r := range rigs {
			if n := strings.Count(base.log.String(), "msg=status target="+r.cfg.name); n != 1 {
				t.Errorf("%d status lines of %s", n, r.cfg.name)
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	})
}

// Each client must be somebody's, and nobody else's.
func TestFleetSplitsClients(t *testing.T) {
	_, rigs, _ := newFleet(t, 3, true)
	var all uint64
	for i, r := range rigs {
		want := flow.Split(i, 3)
		c := r.cfg.choice(flow.Sampled(50))
		if len(c) != 2 || c[0] != want || c[1] != flow.Sampled(50) {
			t.Errorf("choice of %s: %v", r.cfg.name, c)
		}
		if c := r.cfg.choice(flow.Sampled(100)); len(c) != 1 || c[0] != want {
			t.Errorf("choice of %s without a sample: %v", r.cfg.name, c)
		}
		all += want.To - want.From
	}
	if all != 1<<32 {
		t.Errorf("the parts make %#x", all)
	}
	b := newBench(t)
	b.tell(&orders{admit: rigs[1].cfg.choice(flow.Sampled(100)), adopt: rigs[1].cfg.choice(flow.Sampled(100))})
	n := 0
	for i := range 30 {
		c := newConn()
		c.client = netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), 4000)
		b.feed(c.handshake()...)
		if a := packet.AddrFrom(c.client.Addr()); flow.Split(1, 3).Takes(&a, 0) {
			n++
		}
	}
	if len(b.lane.sessions) != n || n == 0 || n == 30 {
		t.Errorf("%d sessions, want %d", len(b.lane.sessions), n)
	}
}
