//go:build netns

package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"flowtwin/internal/e2e/rig"
	"flowtwin/internal/e2e/traffic"
	"flowtwin/internal/testnet"
)

// What a running responder is told must hold for the connections that begin then:
// paused it refuses them, the kill switch ends all, and in the end both ledgers say so.
func TestOrdersToTheResponder(t *testing.T) {
	s := newScene(t, testnet.LabConfig{})
	_, target := s.serve(port, port)
	path := filepath.Join(s.Dir, "responder.ctl")
	copier, responder := s.copies(httpMap, "--control", path)
	d := s.dialer(port)
	order := func(args ...string) string {
		t.Helper()
		out, err := s.Lab.Target.Output(filepath.Join(binaries, "responder"), append([]string{"ctl", "--control", path}, args...)...)
		if err != nil {
			t.Errorf("responder ctl %v: %v: %s", args, err, out)
		}
		return out
	}
	var state struct {
		Opened, Established uint64
		Closed              map[string]uint64
		Open                int64
		Paused              bool
		RateBytes           float64 `json:"rate_bytes"`
		Connected           []struct{ Name, Remote string }
	}
	until := func(what string, cond func() bool) {
		t.Helper()
		if !rig.Until(s.within(), func() bool {
			state.Closed = nil
			if err := json.Unmarshal([]byte(order("status")), &state); err != nil {
				t.Fatal(err)
			}
			return cond()
		}) {
			t.Errorf("%s does not come about: %+v", what, state)
		}
	}
	visit := func(name string, n int) {
		t.Helper()
		s.make(traffic.Load{Name: name, Clients: 1, Rounds: n, Requests: 2}, d)
	}

	visit("before", 5)
	until("the first connections", func() bool { return state.Closed["both"]+state.Closed["target_first"] == 5 })
	if len(state.Connected) != 1 || state.Connected[0].Remote == "" {
		t.Errorf("status names copiers %+v", state.Connected)
	}
	order("pause")
	visit("paused", 4)
	until("refusals", func() bool { return state.Closed["paused"] == 4 && state.Paused })
	says := func(text string) {
		t.Helper()
		if err := copier.WaitOutput(s.within(), text); err != nil {
			t.Error(err)
		}
	}
	says("the responder takes no connections: somebody has paused or stopped it")
	order("resume")
	order("rate", "bytes", "100M")
	visit("resumed", 3)
	until("connections after resume", func() bool { return state.Established == 8 && !state.Paused && state.RateBytes == 100e6 })

	says("the responder takes connections again")

	conn, err := d.Dial(0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	until("a session that lasts", func() bool { return state.Open == 1 })
	if out := order("stop"); !strings.Contains(out, "1 sessions") {
		t.Errorf("stop says %s", out)
	}
	until("its end", func() bool { return state.Open == 0 && state.Closed["paused"] == 5 })
	rig.Until(s.within(), func() bool { _, _, open := target.Counts(); return open == 0 })
	if conns, requests, open := target.Counts(); conns != 9 || requests != 16 || open != 0 {
		t.Errorf("target saw %d connections with %d requests, %d are open", conns, requests, open)
	}
	_ = conn.Close()
	s.stops(copier)
	order("drain")
	if code, err := responder.Wait(s.within()); err != nil || code != 0 {
		t.Errorf("responder ends with %d, %v", code, err)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("the socket is left behind: %v", err)
	}
	report, err := rig.ReadReport(s.ReportFile())
	if err != nil {
		t.Fatal(err)
	}
	for _, problem := range report.Check() {
		t.Errorf("ledger: %s", problem)
	}
	if n := report.Sessions.Closed["paused"]; n != 5 {
		t.Errorf("the copier's ledger has %d sessions refused, want 5", n)
	}
	s.untouched()
	s.quiet()
}
