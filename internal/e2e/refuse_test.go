//go:build netns

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"flowtwin/internal/e2e/rig"
	"flowtwin/internal/e2e/traffic"
	"flowtwin/internal/testnet"
	"flowtwin/tunnel"
)

// Who may not copy is told so in one line, his responder too, and nothing
// reaches the target.
func TestCopierIsRefused(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name      string
		responder []string // its options
		invite    func(tunnel.Invite) string
		maps      string
		says      string // copier's line
		logs      string // responder's line, "" when it is not asked
	}{
		{
			name: "without an invite", invite: func(tunnel.Invite) string { return "" },
			maps: httpMap, says: tunnel.ErrNoInvite.Error(),
		},
		{
			name: "with half an invite", invite: func(i tunnel.Invite) string { return i.String()[:50] },
			maps: httpMap, says: tunnel.ErrBadInvite.Error(),
		},
		{
			name: "with another secret", invite: func(i tunnel.Invite) string { i.Secret[5]++; return i.String() },
			maps: httpMap, says: "secret", logs: "secret",
		},
		{
			name: "with another responder's fingerprint", invite: func(i tunnel.Invite) string { i.Fingerprint[5]++; return i.String() },
			maps: httpMap, says: tunnel.ErrFingerprint.Error(),
		},
		{
			name: "after the invite expired", responder: []string{"--invite-ttl", "1s"},
			invite: func(i tunnel.Invite) string {
				<-time.After(time.Until(i.Expires) + time.Second) // its seconds are rounded
				return i.String()
			},
			maps: httpMap, says: "expired", logs: "expired",
		},
		{
			name: "with a later time written into it", responder: []string{"--invite-ttl", "1s"},
			invite: func(i tunnel.Invite) string {
				i.Expires = i.Expires.Add(time.Hour)
				return i.String()
			},
			maps: httpMap, says: "secret does not match", logs: "its invite may be an old one",
		},
		{
			name: "for a target that is not allowed", invite: func(i tunnel.Invite) string { return i.String() },
			maps: "80-10.71.1.10:80", says: "10.71.1.10:80", logs: "10.71.1.10:80",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, testnet.LabConfig{})
			_, target := s.serve(port, port)
			responder := s.keep(s.StartResponder(s.within(), tt.responder...))
			given := s.invite()
			if err := os.WriteFile(s.InviteFile(), []byte(tt.invite(given)+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			s.refused(tt.says, s.Copier("-x", tt.maps, "--invite-file", s.InviteFile()))
			if tt.logs != "" {
				if err := responder.WaitOutput(s.within(), tt.logs); err != nil {
					t.Error(err)
				}
			}
			if secret := strings.TrimSpace(given.String()); strings.Contains(responder.Output(), secret) {
				t.Error("the responder's log contains the invite")
			}
			s.make(traffic.Load{Name: "uncopied", Clients: 2, Rounds: 1, Requests: 5}, s.dialer(port))
			if n, _, _ := target.Counts(); n != 0 {
				t.Errorf("target saw %d connections of a refused copier", n)
			}
			s.stops(responder)
			s.untouched()
			s.quiet()
		})
	}
}

// invite reads the invite that the responder wrote.
func (s *scene) invite() tunnel.Invite {
	s.t.Helper()
	text, err := os.ReadFile(s.InviteFile())
	if err != nil {
		s.t.Fatal(err)
	}
	if info, err := os.Stat(s.InviteFile()); err != nil || info.Mode().Perm() != 0o600 {
		s.t.Errorf("invite file: mode %v, %v, want 0600", info.Mode(), err)
	}
	invite, err := tunnel.ParseInvite(string(text))
	if err != nil {
		s.t.Fatal(err)
	}
	return invite
}

// refused runs a program on the online host that must end by itself, with an
// error and one line about it.
func (s *scene) refused(says string, argv []string) {
	s.t.Helper()
	s.fails(s.Lab.Online, "copier", says, argv)
}

func (s *scene) fails(ns *testnet.NS, name, says string, argv []string) {
	s.t.Helper()
	p := s.keep(rig.Start(ns, name, argv...))
	code, err := p.Wait(s.within())
	if err != nil {
		s.t.Fatalf("%v: it ought to refuse with %q", err, says)
	}
	if code <= 0 {
		s.t.Errorf("%s exits with %d, want an error code", name, code)
	}
	about := 0
	for line := range strings.Lines(p.Output()) {
		if strings.Contains(strings.ToLower(line), strings.ToLower(says)) {
			about++
		}
	}
	if about == 0 || about > 2 || strings.Contains(p.Output(), "goroutine ") {
		s.t.Errorf("%s says %q, want a line with %q", name, tail(p.Output(), 10), says)
	}
}

// Bad input is refused before anything of the host is touched.
func TestStartIsRefusedWithTheHostUntouched(t *testing.T) {
	t.Parallel()
	s := newScene(t, testnet.LabConfig{})
	invite := tunnel.Invite{
		Addrs: []string{testnet.TargetAddr + ":7443"}, Fingerprint: [32]byte{1}, Secret: [32]byte{2},
	}
	if err := os.WriteFile(s.InviteFile(), []byte(invite.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	nobody := func(argv []string) []string {
		return append([]string{"setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--"}, argv...)
	}
	copier := func(args ...string) []string {
		return s.Copier(append([]string{"--invite-file", s.InviteFile()}, args...)...)
	}
	responder := func(args ...string) []string {
		return append([]string{filepath.Join(s.Bin, "responder"), "--state-dir", filepath.Join(s.Dir, "refused")}, args...)
	}
	for _, tt := range []struct {
		name string
		ns   *testnet.NS
		says string
		argv []string
	}{
		{"copier: no capability", s.Lab.Online, "CAP_NET_RAW", nobody(s.Copier("-x", httpMap, "-s", invite.String()))},
		{"copier: unknown interface", s.Lab.Online, "eth7", copier("-x", httpMap, "--interface", "eth7")},
		{"copier: no such process", s.Lab.Online, "no process 4194304", copier("-x", httpMap, "--netns", "4194304")},
		{"copier: a namespace's name", s.Lab.Online, "/run/netns/web", copier("-x", httpMap, "--netns", "web")},
		{"copier: no namespace", s.Lab.Online, "is no network namespace", copier("-x", httpMap, "--netns", s.InviteFile())},
		{
			"copier: may not enter the namespace", s.Lab.Online, "CAP_SYS_ADMIN",
			nobody(s.Copier("-x", httpMap, "-s", invite.String(), "--netns", "/run/netns/"+s.Lab.Router.Name())),
		},
		{"copier: no map", s.Lab.Online, "-x", copier()},
		{"copier: malformed map", s.Lab.Online, "80:10.71.3.2", copier("-x", "80:10.71.3.2")},
		{"copier: ambiguous map", s.Lab.Online, "given twice", copier("-x", "80-10.71.3.2:80,80-10.71.3.3:80")},
		{"copier: no folder for the report", s.Lab.Online, "report: open /nonexistent/", copier("-x", httpMap, "--report", "/nonexistent/ledger")},
		{"copier: file replay", s.Lab.Online, "-i", copier("-x", httpMap, "-i", "some.pcap")},
		{"responder: no capability", s.Lab.Target, "CAP_NET_ADMIN", nobody(responder("--listen", ":7443"))},
		{"responder: pool overlaps a route", s.Lab.Target, "pool overlaps", responder("--listen", ":7443", "-c", "10.71.0.0/16")},
		{"responder: malformed pool", s.Lab.Target, "198.18.0.0/150", responder("--listen", ":7443", "-c", "198.18.0.0/150")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			sub := *s
			sub.t = t
			sub.fails(tt.ns, strings.SplitN(tt.name, ":", 2)[0], tt.says, tt.argv)
		})
	}
	s.untouched()
	s.quiet()
}

// Two responders on a host: the second one says which port is taken, and takes
// nothing away from the first.
func TestPortInUse(t *testing.T) {
	t.Parallel()
	s, _, _, end := httpScene(t, testnet.LabConfig{})
	s.fails(s.Lab.Target, "second responder", "7443",
		append(s.Responder(), "--state-dir", filepath.Join(s.Dir, "second"), "-c", "198.51.100.0/24"))
	end(s.make(traffic.Load{Name: "some", Clients: 3, Rounds: 2, Requests: 10}, s.dialer(port)))
}

// A target that is started later than the copying is an everyday mistake: it is
// said at once, and copying begins when the target is there.
func TestTargetThatIsNotListeningYet(t *testing.T) {
	t.Parallel()
	s := newScene(t, testnet.LabConfig{})
	online, err := rig.Serve(s.Lab.Online, port)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = online.Close() })
	responder := s.keep(s.StartResponder(s.within()))
	copier := s.keep(s.StartCopier(s.within(), httpMap))
	if err := responder.WaitOutput(s.within(), testnet.TargetAddr+":80"); err != nil {
		t.Error(err)
	}
	d := s.dialer(port)
	s.make(traffic.Load{Name: "early", Clients: 2, Rounds: 2, Requests: 5}, d)
	target, err := rig.Serve(s.Lab.Target, port)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = target.Close() })
	later := s.make(traffic.Load{Name: "later", Clients: 2, Rounds: 2, Requests: 5}, d)
	rig.Until(s.within(), func() bool { return only(target.Log(), "/later/").Requests() == int(later.Requests) })
	s.compare(only(online.Log(), "/later/"), only(target.Log(), "/later/"))
	s.end(copier, responder)
}

// The three ways in which an invite is given, and the address as tcpcopy's users
// type it.
func TestInviteIsTakenFromEnvironmentAndArgument(t *testing.T) {
	t.Parallel()
	for _, way := range []string{"environment", "argument", "address"} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, testnet.LabConfig{})
			online, target := s.serve(port, port)
			responder := s.keep(s.StartResponder(s.within()))
			invite := s.invite()
			var env []string
			argv := s.Copier("-x", httpMap, "--report", s.ReportFile())
			switch way {
			case "environment":
				env = []string{"FLOWTWIN_INVITE=" + invite.String()}
			case "argument":
				argv = append(argv, "-s", invite.String())
			case "address":
				invite.Addrs = []string{"10.71.3.99:7443"}
				env = []string{"FLOWTWIN_INVITE=" + invite.String()}
				argv = append(argv, "-s", testnet.TargetAddr)
			}
			copier := s.keep(rig.StartEnv(s.Lab.Online, env, "copier", argv...))
			if err := copier.WaitOutput(s.within(), rig.TunnelUp); err != nil {
				t.Fatal(err)
			}
			if warned := strings.Contains(copier.Output(), "others on this host"); warned != (way == "argument") {
				t.Errorf("warning about the command line: %v", warned)
			}
			stats := s.make(traffic.Load{Name: way, Clients: 2, Rounds: 2, Requests: 10}, s.dialer(port))
			s.same(online, target)
			s.exact(s.end(copier, responder), stats)
		})
	}
}
