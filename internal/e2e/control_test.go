//go:build netns

package e2e

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"flowtwin/internal/e2e/rig"
	"flowtwin/internal/testnet"
)

// control is a socket that the program named listens at.
type control struct {
	s       *scene
	program string
	path    string
}

// tell has an operation done and returns what the program says.
func (c *control) tell(args ...string) string {
	c.s.t.Helper()
	argv := append([]string{filepath.Join(c.s.Bin, c.program), "ctl", "--control", c.path}, args...)
	p := c.s.keep(rig.Start(c.s.Lab.Clients, c.program+" ctl", argv...))
	code, err := p.Wait(c.s.within())
	if err != nil || code != 0 {
		c.s.t.Fatalf("ctl %v: exit code %d, %v: %s", args, code, err, p.Output())
	}
	return strings.TrimSpace(p.Stdout())
}

// refuses has an operation done that must fail.
func (c *control) refuses(want string, args ...string) {
	c.s.t.Helper()
	argv := append([]string{filepath.Join(c.s.Bin, c.program), "ctl", "--control", c.path}, args...)
	p := c.s.keep(rig.Start(c.s.Lab.Clients, c.program+" ctl", argv...))
	if code, err := p.Wait(c.s.within()); err != nil || code == 0 || !strings.Contains(p.Output(), want) {
		c.s.t.Errorf("ctl %v: exit code %d, %v: %s; want %q", args, code, err, p.Output(), want)
	}
}

// All that a running copier can be told, while its clients stay connected.
func TestControlOfTheCopier(t *testing.T) {
	t.Parallel()
	s := newScene(t, testnet.LabConfig{})
	online, err := rig.Serve(s.Lab.Online, ":80", ":81")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = online.Close() })
	target, err := rig.Serve(s.Lab.Target, ":80", ":81")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = target.Close() })
	responder := s.keep(s.StartResponder(s.within(), "--allow", testnet.TargetAddr+":80,"+testnet.TargetAddr+":81"))
	ctl := &control{s, "copier", filepath.Join(s.Dir, "control")}
	copier := s.keep(s.StartCopier(s.within(), httpMap, "--control", ctl.path, "--drain", "1h"))

	var want []string
	arrives := func(what string, vs ...*visitors) {
		t.Helper()
		for _, v := range vs {
			v.ask(what)
			for i := range v.users {
				want = append(want, v.path(i, what))
			}
		}
		slices.Sort(want)
		rig.Until(s.within(), func() bool { return slices.Equal(requested(target.Log()), want) })
		if got := requested(target.Log()); !slices.Equal(got, want) {
			t.Fatalf("after %s the target has %d requests, want %d: %v", what, len(got), len(want), got)
		}
	}
	old := s.visit(s.dialer(port), 20)
	arrives("first", old)

	if got := ctl.tell("pause"); got != "paused" {
		t.Errorf("pause says %q", got)
	}
	fresh := s.visit(s.dialer(port), 10)
	old.ask("paused")
	fresh.ask("paused")
	rig.Until(s.within(), func() bool { _, _, open := target.Counts(); return open == 0 })
	if _, _, open := target.Counts(); open != 0 {
		t.Errorf("%d connections stay open at the target", open)
	}
	if status := ctl.tell("status"); !strings.Contains(status, `"state": "paused"`) {
		t.Errorf("status is %.300s", status)
	}
	ctl.tell("resume")
	arrives("resumed", old, fresh)

	ctl.tell("percent", "0")
	none := s.visit(s.dialer(port), 10)
	none.ask("none")
	arrives("still", old, fresh)
	ctl.tell("percent", "100")
	none.ask("not_adopted")
	arrives("again", s.visit(s.dialer(port), 10))

	ctl.tell("n", "2")
	twice := s.visit(s.dialer(port), 5)
	want = append(want, twice.paths("twice", all)...)
	arrives("twice", twice)
	ctl.tell("n", "1")

	ctl.refuses("not allowed", "map", "add", "82-"+testnet.TargetAddr+":82")
	ctl.tell("map", "add", "81-"+testnet.TargetAddr+":81")
	other := s.visit(s.dialer(":81"), 10)
	arrives("other_port", other, old)
	if got := ctl.tell("map", "remove", "80"); got != "copying port 81 of this host to "+testnet.TargetAddr+":81" {
		t.Errorf("map remove says %q", got)
	}
	old.ask("removed")
	s.visit(s.dialer(port), 5).ask("removed")
	arrives("stays", other)

	ctl.tell("drain")
	s.visit(s.dialer(":81"), 5).ask("drained")
	arrives("while_draining", other)
	ctl.tell("stop")
	if code, err := copier.Wait(s.within()); err != nil || code != 0 {
		t.Errorf("after stop: exit code %d, %v", code, err)
	}
	if _, err := os.Lstat(ctl.path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the control socket is left behind: %v", err)
	}
	report := s.end(copier, responder)
	f := report.Flows
	if f.Resumed["paused"] == 0 || f.Refused["sampled_out"] == 0 || f.GivenUp["map_removed"] == 0 || f.GivenUp["draining"] == 0 {
		t.Errorf("ledger: flows %+v", f)
	}
	if got := requested(target.Log()); !slices.Equal(got, want) {
		t.Errorf("at last the target has %d requests, want %d", len(got), len(want))
	}
}
