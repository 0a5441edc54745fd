//go:build netns

package e2e

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"flowtwin/internal/e2e/rig"
	"flowtwin/internal/e2e/traffic"
	"flowtwin/internal/testnet"
)

// Whoever runs the copier wants to bound what it does to the target from there, by a
// flag and while it runs: whole connections are refused, and both sides' status and
// ledgers say so.
func TestRatesOfTheCopier(t *testing.T) {
	t.Parallel()
	s := newScene(t, testnet.LabConfig{})
	_, target := s.serve(port, port)
	theirs := &control{s, "responder", filepath.Join(s.Dir, "responder.ctl")}
	ours := &control{s, "copier", filepath.Join(s.Dir, "copier.ctl")}
	responder := s.keep(s.StartResponder(s.within(), "--control", theirs.path))
	copier := s.keep(s.StartCopier(s.within(), httpMap, "--control", ours.path, "--rate-connections", "0.001", "-n", "2"))
	d := s.dialer(port)
	const connections = 5
	opened, want := uint64(0), uint64(0)
	visit := func(name string, taken uint64) {
		t.Helper()
		s.make(traffic.Load{Name: name, Clients: 1, Rounds: connections, Requests: 2}, d)
		opened, want = opened+connections, want+taken
		var status rig.Report
		if !rig.Until(s.within(), func() bool {
			status = rig.Report{}
			if err := json.Unmarshal([]byte(ours.tell("status")), &status); err != nil {
				t.Fatal(err)
			}
			copies := uint64(0)
			for _, n := range status.Copies.Closed {
				copies += n
			}
			return status.Sessions.Opened == opened && status.Sessions.Open == 0 && copies == opened
		}) {
			t.Fatalf("%s: sessions %+v, want %d", name, status.Sessions, opened)
		}
		if n := status.Sessions.Closed["rate"]; n != opened-want {
			t.Errorf("%s: %d connections are refused for the rate, want %d", name, n, opened-want)
		}
		if n, requests, _ := target.Counts(); uint64(n) != 2*want || uint64(requests) != 4*want {
			t.Errorf("%s: target saw %d connections with %d requests, want %d", name, n, requests, 2*want)
		}
	}

	visit("flag", 1) // it fills the bucket's second
	if got := theirs.tell("status"); !strings.Contains(got, `"rate_connections": 0.001`) {
		t.Errorf("the responder's status: %s", got)
	}
	if got := ours.tell("rate", "connections", "off"); got != "connections: no limit" {
		t.Errorf("rate says %q", got)
	}
	visit("off", connections)
	ours.tell("rate", "bytes", "1G")
	ours.refuses("usage: rate connections|bytes N|off", "rate", "100")
	ours.refuses("neither connections nor bytes", "rate", "requests", "100")
	ours.tell("rate", "connections", "0.002")
	visit("live", 1)
	for _, c := range []*control{ours, theirs} {
		if got := c.tell("status"); !strings.Contains(got, `"rate_connections": 0.002`) || !strings.Contains(got, `"rate_bytes": 1000000000`) {
			t.Errorf("status of the %s: %s", c.program, got)
		}
	}

	report := s.end(copier, responder)
	if n := report.Copies.Closed["rate"]; n != opened-want || report.Copies.Established != want {
		t.Errorf("ledger: copies %+v, want %d refused for the rate", report.Copies, opened-want)
	}
	if out := copier.Stdout(); !strings.Contains(out, "limited: at most 0.002 connections and 1000000000 bytes a second") {
		t.Errorf("copier says\n%s", out)
	}
}
