//go:build netns

package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"flowtwin/internal/e2e/rig"
	"flowtwin/internal/e2e/traffic"
	"flowtwin/internal/flow"
	"flowtwin/internal/packet"
	"flowtwin/internal/testnet"
)

// origin returns the end of conn that the sample goes by.
func origin(conn net.Conn) netip.AddrPort { return conn.LocalAddr().(*net.TCPAddr).AddrPort() }

func all(netip.AddrPort) bool { return true }

func sampled(percent float64, from netip.AddrPort) bool {
	a := packet.AddrFrom(from.Addr().Unmap())
	return flow.Sampled(percent).Takes(&a, from.Port())
}

// visitors are clients that stay, and whose requests name where they come from.
type visitors struct {
	s     *scene
	users []*user
	from  []netip.AddrPort
}

// visit opens n connections.
func (s *scene) visit(d *traffic.Dialer, n int) *visitors {
	s.t.Helper()
	v := &visitors{s: s, users: make([]*user, n), from: make([]netip.AddrPort, n)}
	v.each(func(i int) error {
		conn, err := d.Dial(i)
		if err != nil {
			return err
		}
		s.t.Cleanup(func() { _ = conn.Close() })
		v.users[i] = newUser(conn)
		v.from[i] = origin(conn)
		return nil
	})
	return v
}

func (v *visitors) each(do func(i int) error) {
	v.s.t.Helper()
	var wg sync.WaitGroup
	for i := range v.users {
		wg.Go(func() {
			if err := do(i); err != nil {
				v.s.t.Errorf("client %d: %v", i, err)
			}
		})
	}
	wg.Wait()
}

// ask makes a request on each connection; its path is the client's name and what.
func (v *visitors) ask(what string) {
	v.s.t.Helper()
	v.each(func(i int) error { return v.users[i].get(v.path(i, what)) })
}

func (v *visitors) path(i int, what string) string { return fmt.Sprintf("/%s/%s", v.from[i], what) }

func (v *visitors) leave() {
	for _, u := range v.users {
		_ = u.Close()
	}
}

// paths returns the paths of requests of those clients that are chosen.
func (v *visitors) paths(what string, chosen func(netip.AddrPort) bool) (out []string) {
	for i, from := range v.from {
		if chosen(from) {
			out = append(out, v.path(i, what))
		}
	}
	slices.Sort(out)
	return out
}

// requested returns the paths of all requests in l.
func requested(l traffic.Log) (out []string) {
	for _, c := range l {
		for _, r := range c {
			out = append(out, r.Path)
		}
	}
	slices.Sort(out)
	return out
}

// -r 25 must copy the very connections that the hash names, and the same ones
// after a restart, which adopts them.
func TestSampleIsTheSameAfterARestart(t *testing.T) {
	t.Parallel()
	s := newScene(t, testnet.LabConfig{})
	_, target := s.serve(port, port)
	responder := s.keep(s.StartResponder(s.within()))
	quarter := func(from netip.AddrPort) bool { return sampled(25, from) }

	copier := s.keep(s.StartCopier(s.within(), httpMap, "-r", "25", "--drain", "0s"))
	v := s.visit(s.dialer(port), 400)
	v.ask("first")
	want := v.paths("first", quarter)
	if n := len(want); n < 60 || n > 140 {
		t.Errorf("%d of 400 are in the sample", n)
	}
	rig.Until(s.within(), func() bool { _, n, _ := target.Counts(); return n == len(want) })
	if got := requested(target.Log()); !slices.Equal(got, want) {
		t.Errorf("the target got %d requests, want %d: %v, want %v", len(got), len(want), got, want)
	}
	s.stops(copier)
	report, err := rig.ReadReport(s.ReportFile())
	if err != nil {
		t.Fatal(err)
	}
	if f := report.Flows; f.Seen != uint64(len(want)) || f.Admitted != f.Seen {
		t.Errorf("the filter has let more pass than the sample: flows %+v", f)
	}

	copier = s.keep(s.StartCopier(s.within(), httpMap, "-r", "25"))
	v.ask("second") // its answer shows the copier where the next turn begins
	v.ask("third")
	v.leave()
	want = append(want, v.paths("third", quarter)...)
	slices.Sort(want)
	rig.Until(s.within(), func() bool { _, n, open := target.Counts(); return n >= len(want) && open == 0 })
	if got := requested(target.Log()); !slices.Equal(got, want) {
		t.Errorf("the target got %d requests, want %d: %v, want %v", len(got), len(want), got, want)
	}
	report = s.end(copier, responder)
	if f := report.Flows; f.Seen != f.Adopted || f.Refused["sampled_out"] != 0 || report.SamplePercent != 25 {
		t.Errorf("ledger: sampled %v %%, flows %+v", report.SamplePercent, f)
	}
}

// --ramp takes connections from their beginning only: one that was there before
// its turn came is left alone for good.
func TestRampTakesNewConnectionsOnly(t *testing.T) {
	t.Parallel()
	s := newScene(t, testnet.LabConfig{})
	_, target := s.serve(port, port)
	responder := s.keep(s.StartResponder(s.within()))
	d := s.dialer(port)
	before := s.visit(d, 40)
	copier := s.keep(s.StartCopier(s.within(), httpMap, "-r", "50", "--ramp", "2s"))
	began := s.visit(d, 40)
	half := func(from netip.AddrPort) bool { return sampled(50, from) }

	var seen int
	var late []*visitors
	asked := 0
	// New clients come until the ramp has long reached its end: the last ones that
	// are chosen only there have been copied.
	top := func(from netip.AddrPort) bool { return half(from) && !sampled(49, from) }
	deadline := time.Now().Add(patience)
	for seen < 2 && time.Now().Before(deadline) {
		before.ask(fmt.Sprint(asked))
		began.ask(fmt.Sprint(asked))
		asked++
		v := s.visit(d, 40)
		v.ask("only")
		v.leave()
		late = append(late, v)
		got := requested(target.Log())
		for _, v := range late {
			for _, p := range v.paths("only", top) {
				if slices.Contains(got, p) {
					seen++
				}
			}
		}
	}
	before.leave()
	began.leave()
	rig.Until(s.within(), func() bool { _, _, open := target.Counts(); return open == 0 })
	report := s.end(copier, responder)

	copied := map[string]int{} // requests by path
	for _, p := range requested(target.Log()) {
		copied[p]++
	}
	for i, from := range before.from {
		if copied[before.path(i, "0")]+copied[before.path(i, fmt.Sprint(asked-1))] > 0 {
			t.Errorf("%v was copied, which had begun before the copier", from)
		}
	}
	for i, from := range began.from {
		first, last := copied[began.path(i, "0")], copied[began.path(i, fmt.Sprint(asked-1))]
		if first != last || first == 1 && !half(from) {
			t.Errorf("%v: first request copied %d times, last one %d", from, first, last)
		}
	}
	n := 0
	for _, v := range late {
		for i, from := range v.from {
			if c := copied[v.path(i, "only")]; c > 1 || c == 1 && !half(from) {
				t.Errorf("%v, in the sample: %v, was copied %d times", from, half(from), c)
			} else {
				n += c
			}
		}
	}
	t.Logf("%d connections of %d while the sample grew", n, 40*len(late))
	if report.SamplePercent != 50 || report.Flows.Adopted > 0 {
		t.Errorf("ledger: sampled %v %%, flows %+v", report.SamplePercent, report.Flows)
	}
}
