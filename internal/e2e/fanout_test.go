//go:build netns

package e2e

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"flowtwin/internal/e2e/rig"
	"flowtwin/internal/e2e/traffic"
	"flowtwin/internal/flow"
	"flowtwin/internal/packet"
	"flowtwin/internal/testnet"
)

// A second target host beside the lab's, in a subnet of its own.
const (
	secondAddr = "10.71.5.2"
	secondMap  = "80-" + secondAddr + ":80"
)

func addSecond(t *testing.T, lab *testnet.Lab) *testnet.NS {
	t.Helper()
	return addHost(t, lab, "second", 5)
}

// addHost adds a host to the lab, in its n-th subnet.
func addHost(t *testing.T, lab *testnet.Lab, name string, n int) *testnet.NS {
	t.Helper()
	ns := testnet.New(t, name)
	router := fmt.Sprintf("10.71.%d.1", n)
	testnet.Link(t, lab.Router, fmt.Sprintf("more%d", n), router+"/24", ns, "eth0", fmt.Sprintf("10.71.%d.2/24", n))
	if err := ns.Route("default", router); err != nil {
		t.Fatal(err)
	}
	return ns
}

// A fanout is a copier with two targets.
type fanout struct {
	*scene
	online     *traffic.Server
	targets    [2]*traffic.Server
	responders [2]*rig.Process
	copier     *rig.Process
}

func newFanout(t *testing.T, options ...string) *fanout {
	t.Helper()
	var second *testnet.NS
	s := newScene(t, testnet.LabConfig{}, func(l *testnet.Lab) { second = addSecond(t, l) })
	f := &fanout{scene: s}
	f.online, f.targets[0] = s.serve(port, port)
	srv, err := rig.Serve(second, port)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = srv.Close() })
	f.targets[1] = srv

	f.responders[0] = s.keep(s.StartResponder(s.within()))
	invite := filepath.Join(s.Dir, "invite2")
	argv := s.Responder("--state-dir", filepath.Join(s.Dir, "state2"), "--invite-file", invite)
	f.responders[1] = s.keep(rig.Start(second, "responder2", argv...))
	if err := f.responders[1].WaitOutput(s.within(), rig.ResponderReady); err != nil {
		t.Fatal(err)
	}
	argv = s.Copier("-x", httpMap, "-x", secondMap, "--invite-file", s.InviteFile(), "--invite-file", invite, "--report", s.ReportFile())
	f.copier = s.keep(rig.Start(s.Lab.Online, "copier", append(argv, options...)...))
	if err := f.copier.WaitOutputTimes(s.within(), rig.TunnelUp, 2); err != nil {
		t.Fatal(err)
	}
	return f
}

// ends stops everything that still runs and returns both ledgers.
func (f *fanout) ends() []*rig.Report {
	f.t.Helper()
	f.stops(f.copier)
	for _, r := range f.responders {
		select {
		case <-r.Done():
		default:
			f.stops(r)
		}
	}
	f.untouched()
	f.quiet()
	reports, err := rig.ReadReports(f.ReportFile())
	if err != nil {
		f.t.Fatal(err)
	}
	if len(reports) != 2 {
		f.t.Fatalf("%d ledgers", len(reports))
	}
	for i, r := range reports {
		for _, problem := range r.Check() {
			f.t.Errorf("ledger %d: %s", i, problem)
		}
	}
	return reports
}

func fanLoad(name string) traffic.Load {
	return traffic.Load{Name: name, Clients: 12, Rounds: 3, Requests: 5, Bodies: []int{0, 700, 30_000}}
}

// Each target gets all of it, in books of its own.
func TestFanOut(t *testing.T) {
	t.Parallel()
	f := newFanout(t)
	stats := f.make(fanLoad("both"), f.dialer(port))
	for _, target := range f.targets {
		f.same(f.online, target)
	}
	for _, r := range f.ends() {
		f.exact(r, stats)
	}
	for _, want := range []string{"==== target 10.71.3.2:7443 ====", "==== target 10.71.5.2:7443 ===="} {
		if !strings.Contains(f.copier.Stdout(), want) {
			t.Errorf("the ledger does not say %q", want)
		}
	}
}

// A responder that stands still, and one that is killed, are felt by their own
// target only.
func TestFanOutOneTargetFails(t *testing.T) {
	t.Parallel()
	f := newFanout(t, "--drain", "200ms")
	d := f.dialer(port)
	stats := f.make(fanLoad("before"), d)
	f.same(f.online, f.targets[1])
	if err := f.responders[1].Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	stats.Add(f.make(fanLoad("while_it_stands_still"), d))
	f.same(f.online, f.targets[0])
	f.responders[1].Kill()
	stats.Add(f.make(fanLoad("after_its_end"), d))
	f.same(f.online, f.targets[0])

	reports := f.ends()
	f.exact(reports[0], stats)
	if !strings.HasPrefix(reports[0].Headline, "copied 100.00 %") {
		t.Errorf("the first target: %s", reports[0].Headline)
	}
	if r := reports[1]; r.Sessions.Lost+r.Sessions.AccountMissing+r.Flows.Refused["tunnel_down"] == 0 {
		t.Errorf("the second target has lost nothing: sessions %+v, flows %+v", r.Sessions, r.Flows)
	}
}

// With --split each client is at one target with all that it does, and nobody is
// forgotten.
func TestFanOutSplit(t *testing.T) {
	t.Parallel()
	f := newFanout(t, "--split")
	v := f.visit(f.dialer(port), 4*testnet.Clients)
	v.ask("one")
	v.ask("two")
	v.leave()
	var got [2][]string
	rig.Until(f.within(), func() bool {
		n := 0
		for i, target := range f.targets {
			_, requests, open := target.Counts()
			got[i] = requested(target.Log())
			n += requests - open
		}
		return n == f.online.Log().Requests()
	})
	if all, want := slices.Sorted(slices.Values(slices.Concat(got[0], got[1]))), requested(f.online.Log()); !slices.Equal(all, want) {
		t.Errorf("both targets together got %d requests, online %d", len(all), len(want))
	}
	for i := range got {
		mine := func(from netip.AddrPort) bool {
			a := packet.AddrFrom(from.Addr().Unmap())
			return flow.Split(i, 2).Takes(&a, from.Port())
		}
		want := slices.Sorted(slices.Values(slices.Concat(v.paths("one", mine), v.paths("two", mine))))
		if !slices.Equal(got[i], want) || len(want) == 0 {
			t.Errorf("target %d got %d requests, want %d", i, len(got[i]), len(want))
		}
	}
	reports := f.ends()
	if seen := reports[0].Flows.Seen + reports[1].Flows.Seen; seen != uint64(len(v.users)) {
		t.Errorf("both filters together let %d connections pass, there were %d", seen, len(v.users))
	}
	for i, r := range reports {
		if r.Split != fmt.Sprintf("%d/2", i+1) {
			t.Errorf("ledger %d: split %q", i, r.Split)
		}
	}
}
