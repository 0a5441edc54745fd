//go:build netns

package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"flowtwin/internal/e2e/rig"
	"flowtwin/internal/e2e/traffic"
	"flowtwin/internal/testnet"
)

// Copiers on many hosts see clients that look the same: here all see the very same
// ones, so that each connection reaches the responder 32 times with one tuple.
func TestManyCopiersWithTheSameClients(t *testing.T) {
	const copiers = 32
	s := newScene(t, testnet.LabConfig{})
	online, target := s.serve(port, port)
	responder := s.keep(s.StartResponder(s.within()))
	var all [copiers]*rig.Process
	reports := make([]string, copiers)
	for i := range all {
		reports[i] = filepath.Join(s.Dir, fmt.Sprintf("report-%d.json", i))
		p, err := rig.Start(s.Lab.Online, fmt.Sprintf("copier-%d", i),
			s.Copier("-x", httpMap, "--invite-file", s.InviteFile(), "--report", reports[i])...)
		all[i] = s.keep(p, err)
	}
	for _, p := range all {
		if err := p.WaitOutput(s.within(), rig.TunnelUp); err != nil {
			t.Fatal(err)
		}
	}

	stats := s.make(traffic.Load{Name: "same", Clients: 10, Rounds: 2, Requests: 10, Bodies: []int{10, 2000}}, s.dialer(port))
	var want traffic.Log
	for _, c := range online.Log() {
		for range copiers {
			want = append(want, c)
		}
	}
	rig.Until(s.within(), func() bool {
		conns, requests, open := target.Counts()
		return conns >= len(want) && requests >= want.Requests() && open == 0
	})
	var wg sync.WaitGroup
	for _, p := range all {
		wg.Go(func() { s.stops(p) })
	}
	wg.Wait()
	if diff := traffic.Compare(want, target.Log()); len(diff) > 0 {
		t.Errorf("target differs from %d times online:\n%s", copiers, traffic.Describe(diff))
	}
	seen := make(map[string]bool)
	for _, r := range target.Remotes() {
		if seen[r.String()] {
			t.Errorf("client %v has two connections at the target", r)
		}
		seen[r.String()] = true
	}
	for i, file := range reports {
		report, err := rig.ReadReport(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, problem := range report.Check() {
			t.Errorf("copier %d: ledger: %s", i, problem)
		}
		s.exact(report, stats)
	}
	s.stops(responder)
	s.untouched()
	s.quiet()
	if out := responder.Stdout(); !strings.Contains(out, fmt.Sprintf("%d opened, %d established", len(want), len(want))) || !strings.Contains(out, "sums       ok") {
		t.Errorf("responder says\n%s", out)
	}
}
