//go:build netns

package e2e

import (
	"fmt"
	"net/netip"
	"strings"
	"syscall"
	"testing"

	"flowtwin/internal/e2e/rig"
	"flowtwin/internal/e2e/traffic"
	"flowtwin/internal/flow"
	"flowtwin/internal/packet"
	"flowtwin/internal/testnet"
)

// amplified is a scene with one responder, through which one copier after the other
// copies.
type amplified struct {
	*scene
	online, target *traffic.Server
}

// log returns what a server saw of the loads of that name, and from where.
func (a *amplified) log(s *traffic.Server, name string) (l traffic.Log, from []netip.AddrPort) {
	remotes := s.Remotes()
	for i, c := range s.Log() {
		if len(c) > 0 && strings.HasPrefix(c[0].Path, "/"+name+"/") {
			l, from = append(l, c), append(from, remotes[i])
		}
	}
	return l, from
}

// run copies a load so many times and checks that the target has seen each
// connection as often as it must: whole, in order, from clients of its own.
func (a *amplified) run(l traffic.Load, copies float64, clients *traffic.Dialer, args ...string) *rig.Report {
	t := a.t
	t.Helper()
	copier := a.keep(a.StartCopier(a.within(), httpMap, append([]string{"-n", fmt.Sprint(copies)}, args...)...))
	made := a.make(l, clients)

	online, from := a.log(a.online, l.Name)
	var want traffic.Log
	more := flow.Fraction(copies)
	for i, c := range online {
		client := packet.AddrFrom(from[i].Addr())
		n := int(copies)
		if more.Takes(&client, from[i].Port()) {
			n++
		}
		for range n {
			want = append(want, c)
		}
	}
	rig.Until(a.within(), func() bool {
		got, _ := a.log(a.target, l.Name)
		_, _, open := a.target.Counts()
		return len(got) >= len(want) && got.Requests() >= want.Requests() && open == 0
	})
	a.stops(copier)
	got, at := a.log(a.target, l.Name)
	t.Logf("%s: online saw %d connections with %d requests, target %d with %d", l.Name, len(online), online.Requests(), len(got), got.Requests())
	if diff := traffic.Compare(want, got); len(diff) > 0 {
		t.Errorf("%s: target differs from %v times online:\n%s", l.Name, copies, traffic.Describe(diff))
	}
	seen := make(map[netip.AddrPort]bool)
	for _, c := range at {
		if seen[c] {
			t.Errorf("%s: client %v has two connections at the target", l.Name, c)
		}
		seen[c] = true
	}

	report, err := rig.ReadReport(a.ReportFile())
	if err != nil {
		t.Fatal(err)
	}
	for _, problem := range report.Check() {
		t.Errorf("%s: ledger: %s", l.Name, problem)
	}
	a.exact(report, made)
	asked := uint64(len(want) - len(online))
	if c := report.Copies; c.Asked != asked || c.Established != asked || c.Dropped.Bytes+c.Unaccounted.Bytes+c.Missing+c.Lost != 0 {
		t.Errorf("%s: ledger: copies %+v, want %d", l.Name, c, asked)
	}
	return report
}

// Each connection must come to the target exactly as often as asked for, and be
// counted so.
func TestEachConnectionSeveralTimes(t *testing.T) {
	s := newScene(t, testnet.LabConfig{})
	a := &amplified{scene: s}
	a.online, a.target = s.serve(port, port)
	responder := s.keep(s.StartResponder(s.within()))
	d := s.dialer(port)

	t.Log("-n 3: keep-alive, bodies of several segments")
	a.run(traffic.Load{Name: "three", Clients: 10, Rounds: 3, Requests: 20, Bodies: []int{10, 3000, 40_000}}, 3, d)

	t.Log("-n 2.5: the same connections get the third session, however often they are asked for")
	a.run(traffic.Load{Name: "half", Clients: 20, Rounds: 5, Requests: 3}, 2.5, d)

	t.Log("-n 200, from one client address")
	r := a.run(traffic.Load{Name: "many", Clients: 2, Rounds: 1, Requests: 5, Bodies: []int{100}}, 200,
		s.dialerTo(testnet.OnlineAddr+port, func(int) string { return testnet.ClientAddr(0) }))
	if r.Copies.Factor != 200 {
		t.Errorf("ledger: amplified %v times, want 200", r.Copies.Factor)
	}
	_, at := a.log(a.target, "many")
	addrs := make(map[netip.Addr]bool)
	for _, c := range at {
		addrs[c.Addr()] = true
	}
	if len(addrs) != 200 {
		t.Errorf("the 200 sessions of a connection have %d addresses", len(addrs))
	}

	t.Log("-n 20 with jitter: the copier waits for those that begin late")
	a.run(traffic.Load{Name: "jitter", Clients: 5, Rounds: 2, Requests: 10, Bodies: []int{1, 5000}}, 20, d, "--jitter", "1500ms")

	s.stops(responder)
	s.untouched()
	s.quiet()
	if out := responder.Stdout(); !strings.Contains(out, "sums       ok") {
		t.Errorf("responder says\n%s", out)
	}
}

// A responder that is given no more than a rate must refuse whole connections, and
// both sides must say so.
func TestConnectionsBeyondTheRateAreRefusedWhole(t *testing.T) {
	s := newScene(t, testnet.LabConfig{})
	_, target := s.serve(port, port)
	copier, responder := s.copies(httpMap, "--rate-connections", "0.01")
	const connections = 20
	s.make(traffic.Load{Name: "rate", Clients: 1, Rounds: connections, Requests: 3, Bodies: []int{50}}, s.dialer(port))
	rig.Until(s.within(), func() bool {
		_ = responder.Signal(syscall.SIGUSR1)
		return strings.Contains(responder.Output(), fmt.Sprintf(" rate=%d ", connections-1))
	})
	report := s.end(copier, responder)
	// The first one fills the bucket's second.
	if closed := report.Sessions.Closed; closed["rate"] != connections-1 || report.Sessions.Established != 1 {
		t.Errorf("ledger: sessions %+v, want all but one refused for the rate", report.Sessions)
	}
	if d := report.Sent.Dropped["rate"]; d.Segments != 3*(connections-1) || report.Sent.Delivered.Segments != 3 {
		t.Errorf("ledger: sent %+v", report.Sent)
	}
	if conns, requests, _ := target.Counts(); conns != 1 || requests != 3 {
		t.Errorf("target saw %d connections with %d requests", conns, requests)
	}
	if !strings.Contains(responder.Stdout(), fmt.Sprintf("closed   %d rate", connections-1)) {
		t.Errorf("responder says\n%s", responder.Stdout())
	}
}
