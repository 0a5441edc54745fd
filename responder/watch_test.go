package responder

import (
	"bytes"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"flowtwin/responder/replay"
)

// A target that speaks no turns must not make each of its sessions late anew, and
// must not fill the log.
func TestTargetWithoutTurns(t *testing.T) {
	var out bytes.Buffer
	ws := &watches{log: slog.New(slog.NewTextHandler(&out, nil))}
	w := ws.of(netip.MustParseAddrPort("127.0.0.1:1"))
	for range 2 * ungateFrom {
		w.gateNews(replay.GateWorks)
	}
	for range ungateFrom {
		w.gateNews(replay.GateLate)
	}
	if w.ungated.Load() {
		t.Error("off for a target half of whose sessions have turns")
	}
	w.gateNews(replay.GateLate)
	if !w.ungated.Load() {
		t.Error("on for a target most of whose sessions have none")
	}
	for range 10 {
		w.gateNews(replay.GateLate)
		w.gateNews(replay.GateHTTP2)
		w.gateNews(replay.GateUpgraded)
	}
	if n := strings.Count(out.String(), "\n"); n != 4 {
		t.Errorf("%d lines, want one for each reason, and one for the target:\n%s", n, &out)
	}
	if ws.of(netip.MustParseAddrPort("127.0.0.1:2")).ungated.Load() {
		t.Error("another target's gate is off too")
	}
}
