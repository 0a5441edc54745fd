package responder

import (
	"bytes"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"flowtwin/responder/replay"
)

// gatingOf returns a target's watch and what it says.
func gatingOf(target string) (*watch, *bytes.Buffer) {
	var out bytes.Buffer
	ws := &watches{log: slog.New(slog.NewTextHandler(&out, nil))}
	return ws.of(netip.MustParseAddrPort(target)), &out
}

// without returns how many of n new sessions begin without the gate.
func (w *watch) without(n int) (count int) {
	for range n {
		if !w.gating.begins() {
			count++
		}
	}
	return count
}

// A target that speaks no turns must not make each of its sessions late anew, and
// must not fill the log.
func TestTargetWithoutTurns(t *testing.T) {
	w, out := gatingOf("127.0.0.1:1")
	for range 2 * ungateFrom {
		w.gateNews(replay.GateWorks)
	}
	for range ungateFrom {
		w.gateNews(replay.GateLate)
	}
	if w.without(100) > 0 {
		t.Error("off for a target half of whose sessions have turns")
	}
	w.gateNews(replay.GateLate)
	for range 10 {
		w.gateNews(replay.GateLate)
		w.gateNews(replay.GateHTTP2)
		w.gateNews(replay.GateUpgraded)
	}
	for range 100 {
		if n := w.without(sampleEvery); n != sampleEvery-1 {
			t.Fatalf("off for %d sessions of %d, want all but one", n, sampleEvery)
		}
		w.gateNews(replay.GateWorks)
		w.gateNews(replay.GateLate)
	}
	if n := strings.Count(out.String(), "\n"); n != 4 {
		t.Errorf("%d lines, want one for each reason, and one for the target:\n%s", n, out)
	}
	if w.all.of(netip.MustParseAddrPort("127.0.0.1:2")).without(100) > 0 {
		t.Error("another target's gate is off too")
	}
}

// A target that was only slow for a while must not be sent requests ahead of its
// answers for ever; one of both kinds must not fill the log.
func TestTargetOfTurnsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, out := gatingOf("127.0.0.1:1")
		slow := func() {
			for range ungateFrom {
				w.gateNews(replay.GateWorks)
				w.gateNews(replay.GateLate)
			}
		}
		many := func(n int, news ...replay.GateNews) {
			for range n {
				for _, one := range news {
					w.gateNews(one)
				}
			}
		}
		many(1000, replay.GateAnswers) // before, which is nothing new
		slow()
		if w.without(sampleEvery) == 0 {
			t.Fatal("on for a slow target")
		}
		for range 100 { // one of both kinds
			many(regateFrom-1, replay.GateWorks, replay.GateAnswers)
			many(1, replay.GateWorks, replay.GateLate)
		}
		many(regateFrom-1, replay.GateWorks, replay.GateAnswers)
		if w.without(sampleEvery) == 0 {
			t.Error("on before enough sessions were answered")
		}
		many(1, replay.GateWorks, replay.GateAnswers)
		if w.without(100) > 0 {
			t.Error("off for a target that answers again")
		}
		for range 100 {
			slow()
			many(regateFrom, replay.GateWorks, replay.GateAnswers)
		}
		if n := strings.Count(out.String(), "\n"); n != 3 {
			t.Errorf("%d lines, want one for the sessions and two for the target:\n%s", n, out)
		}
		<-time.After(downEvery)
		slow()
		many(regateFrom, replay.GateWorks, replay.GateAnswers)
		if n := strings.Count(out.String(), "\n"); n != 5 {
			t.Errorf("%d lines, want it said once more:\n%s", n, out)
		}
	})
}
