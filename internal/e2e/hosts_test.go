//go:build netns

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"flowtwin/internal/e2e/rig"
	"flowtwin/internal/e2e/traffic"
	"flowtwin/internal/testnet"
)

// device is the name of the responder's TUN.
const device = "flowtwin0"

// What an administrator is promised: while it runs, the online host is as it
// was, and the target host has one device more with its connected routes.
func TestHostsDifferOnlyByTheTunWhileRunning(t *testing.T) {
	t.Parallel()
	for name, target := range map[string]string{
		"own address": testnet.TargetAddr + ":8080", "loopback": "127.0.0.1:8080",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, testnet.LabConfig{})
			online, targetServer := s.serve(port, target)
			copier, responder := s.copies("80-"+target, "--allow", target)
			stats := mixed(s, s.dialer(port))

			if diff := s.changes(s.Lab.Online); len(diff) > 0 {
				t.Errorf("online host is changed:\n  %s", strings.Join(diff, "\n  "))
			}
			found := false
			for _, line := range s.changes(s.Lab.Target) {
				if !ofDevice(line) {
					t.Errorf("target host is changed: %s", line)
				}
				if strings.Contains(line, "conf."+device+".route_localnet = 1") != (name == "loopback") &&
					strings.Contains(line, "conf."+device+".route_localnet") {
					t.Errorf("with a target on its %s: %s", name, line)
				}
				found = true
			}
			if !found {
				t.Errorf("target host has no %s: the test looks in the wrong place", device)
			}
			s.same(online, targetServer)
			s.exact(s.end(copier, responder), stats)
		})
	}
}

// ofDevice reports whether a snapshot's new line is about the TUN alone.
func ofDevice(line string) bool {
	if !strings.HasPrefix(line, "+ ") {
		return false
	}
	section, rest, _ := strings.Cut(strings.TrimPrefix(line, "+ "), ": ")
	switch section {
	case "link":
		return strings.HasPrefix(rest, device)
	case "addr", "route", "6rout":
		return strings.Contains(rest, " "+device+" ") || strings.HasSuffix(rest, " "+device)
	case "sysctl":
		return strings.Contains(rest, "."+device+".")
	default:
		return false
	}
}

// changes returns how a host differs from what it was at the scene's beginning.
func (s *scene) changes(ns *testnet.NS) []string {
	s.t.Helper()
	return testnet.TakeSnapshot(s.t, ns).Diff(s.before[ns])
}

// The responder's machine fails: the online server and its clients must not
// notice, and copying goes on when it is back.
func TestCopyingResumesWhenTheResponderIsBack(t *testing.T) {
	t.Parallel()
	s := newScene(t, testnet.LabConfig{})
	online, target := s.serve(port, port)
	copier, responder := s.copies(httpMap)
	d := s.dialer(port)
	s.make(traffic.Load{Name: "before", Clients: 5, Rounds: 10, Requests: 10}, d)
	s.same(online, target)

	responder.Kill()
	s.make(traffic.Load{Name: "meanwhile", Clients: 5, Rounds: 10, Requests: 10}, d)

	responder = s.keep(s.StartResponder(s.within()))
	if err := copier.WaitOutputTimes(s.within(), rig.TunnelUp, 2); err != nil {
		t.Fatal(err)
	}
	s.make(traffic.Load{Name: "after", Clients: 5, Rounds: 10, Requests: 10}, d)
	after := func(srv *traffic.Server) traffic.Log { return only(srv.Log(), "/after/") }
	rig.Until(s.within(), func() bool { return after(target).Requests() >= after(online).Requests() })
	s.compare(after(online), after(target))
	s.end(copier, responder)
}

// only returns the conversations that begin with a path.
func only(log traffic.Log, path string) traffic.Log {
	var out traffic.Log
	for _, c := range log {
		if len(c) > 0 && strings.HasPrefix(c[0].Path, path) {
			out = append(out, c)
		}
	}
	return out
}

// The copier is gone without a word: its sessions must not stay open at the
// target for ever, and the next copier is served as usual.
func TestSessionsEndWhenTheCopierIsKilled(t *testing.T) {
	t.Parallel()
	s := newScene(t, testnet.LabConfig{})
	online, target := s.serve(port, port)
	copier, responder := s.copies(httpMap)
	d := s.dialer(port)
	const clients = 50
	for i := range clients {
		conn, err := d.Dial(i)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		fmt.Fprintf(conn, "POST /half/%d HTTP/1.1\r\nHost: online\r\nContent-Length: 100\r\n\r\nhalf", i)
	}
	if !rig.Until(s.within(), func() bool { _, _, open := target.Counts(); return open == clients }) {
		t.Fatal("the connections do not arrive at the target")
	}
	copier.Kill()
	rig.Until(s.within(), func() bool { _, _, open := target.Counts(); return open == 0 })
	if _, _, open := target.Counts(); open > 0 {
		t.Errorf("%d sessions are still open after the copier was killed", open)
	}
	if _, _, open := online.Counts(); open != clients {
		t.Errorf("%d of %d clients are still connected online", open, clients)
	}

	copier = s.keep(s.StartCopier(s.within(), httpMap))
	s.make(traffic.Load{Name: "next", Clients: 5, Rounds: 4, Requests: 10}, d)
	next := func(srv *traffic.Server) traffic.Log { return only(srv.Log(), "/next/") }
	rig.Until(s.within(), func() bool { return next(target).Requests() >= next(online).Requests() })
	s.compare(next(online), next(target))
	s.end(copier, responder)
}

// As tcpcopy users start it: in the background, with a pid file and a log file. What
// reads a log of JSON can read every line of it.
func TestDaemons(t *testing.T) {
	t.Parallel()
	s := newScene(t, testnet.LabConfig{})
	online, target := s.serve(port, port)
	file := func(name string) string { return filepath.Join(s.Dir, name) }
	daemon := func(ns *testnet.NS, name string, argv []string) (pid int) {
		argv = append(argv, "-d", "-P", file(name+".pid"), "-l", file(name+".log"), "--json")
		p := s.keep(rig.Start(ns, name+" (parent)", argv...))
		if code, err := p.Wait(s.within()); err != nil || code != 0 {
			t.Fatalf("%s -d exits with %d, %v", name, code, err)
		}
		return s.daemon(name, file(name+".pid"), file(name+".log"))
	}
	responder := daemon(s.Lab.Target, "responder", s.Responder())
	copier := daemon(s.Lab.Online, "copier", s.Copier("-x", httpMap, "--invite-file", s.InviteFile(), "--report", s.ReportFile()))
	mixed(s, s.dialer(port))
	s.same(online, target)

	for name, pid := range map[string]int{"copier": copier, "responder": responder} {
		if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if !rig.Until(s.within(), func() bool { return syscall.Kill(pid, 0) != nil }) {
			t.Errorf("%s does not end", name)
		}
		if _, err := os.Stat(file(name + ".pid")); err == nil {
			t.Errorf("%s leaves its pid file behind", name)
		}
	}
	s.untouched()
	for _, name := range []string{"copier", "responder"} {
		log, err := os.ReadFile(file(name + ".log"))
		if err != nil {
			t.Fatal(err)
		}
		ledgers := 0
		for line := range strings.Lines(string(log)) {
			var r struct {
				Msg    string
				Ledger map[string]any
			}
			if err := json.Unmarshal([]byte(line), &r); err != nil {
				t.Errorf("%s logged %q: %v", name, line, err)
			}
			if r.Msg == "ledger" && len(r.Ledger) > 5 {
				ledgers++
			}
		}
		if ledgers != 1 {
			t.Errorf("%s logged %d ledgers:\n%s", name, ledgers, log)
		}
	}
}

// daemon reads a daemon's pid file, and takes care of its end.
func (s *scene) daemon(name, pidFile, logFile string) (pid int) {
	s.t.Helper()
	text, err := os.ReadFile(pidFile)
	if err != nil {
		s.t.Fatal(err)
	}
	if pid, err = strconv.Atoi(strings.TrimSpace(string(text))); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		if exe, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); strings.HasPrefix(exe, binaries) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		if log, _ := os.ReadFile(logFile); s.t.Failed() {
			s.t.Logf("---- %s logged:\n%s", name, tail(string(log), 120))
		}
	})
	return pid
}

func TestStatusOnSIGUSR1(t *testing.T) {
	t.Parallel()
	s := newScene(t, testnet.LabConfig{})
	online, target := s.serve(port, port)
	copier, responder := s.copies(httpMap)
	s.make(traffic.Load{Name: "some", Clients: 3, Rounds: 1, Requests: 10}, s.dialer(port))
	s.same(online, target)
	for _, p := range []*rig.Process{copier, responder} {
		before := strings.Count(p.Output(), rig.StatusLine)
		if err := p.Signal(syscall.SIGUSR1); err != nil {
			t.Fatal(err)
		}
		if err := p.WaitOutputTimes(s.within(), rig.StatusLine, before+1); err != nil {
			t.Error(err)
		}
	}
	s.end(copier, responder)
}
