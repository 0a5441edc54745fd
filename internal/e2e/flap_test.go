//go:build netns

package e2e

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"flowtwin/internal/e2e/rig"
	"flowtwin/internal/e2e/traffic"
	"flowtwin/internal/testnet"
)

// The target host's interface goes down and comes back, as when a network service
// starts anew. The kernel refuses what the responder sends in between; the tunnel
// stays, and nothing is lost.
func TestTunnelSurvivesAFlappingInterface(t *testing.T) {
	t.Parallel()
	s := newScene(t, testnet.LabConfig{}, func(l *testnet.Lab) { // as where addresses are configured
		l.Target.Run(t, "sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/eth0/keep_addr_on_down")
	})
	online, target := s.serve(port, testnet.TargetAddr+port)
	copier, responder := s.copies(httpMap)
	d := s.dialer(port)
	done := make(chan traffic.Stats, 1)
	go func() {
		l := traffic.Load{Name: "flap", Clients: 5, Rounds: 4, Requests: 10, Rate: 100}
		done <- l.Run(t.Context(), d.Dial)
	}()
	requests := func() bool { _, n, _ := target.Counts(); return n > 20 }
	if !rig.Until(s.within(), requests) {
		t.Fatal("nothing is copied")
	}
	before := refusals(t, s.Lab.Target)
	s.Lab.Target.Run(t, "ip", "link", "set", "eth0", "down")
	if !rig.Until(s.within(), func() bool { return refusals(t, s.Lab.Target) != before }) {
		t.Error("nothing was refused: the test has tested nothing")
	}
	s.Lab.Target.Run(t, "ip", "link", "set", "eth0", "up")
	s.Lab.Target.Run(t, "ip", "route", "add", "default", "via", "10.71.3.1")
	s.Lab.Target.Run(t, "sh", "-c", "ip -6 route show default | grep -q via || ip -6 route add default via fd71:3::1")
	stats := <-done
	if stats.Errors > 0 {
		t.Errorf("clients met errors: %v", stats.FirstError)
	}
	s.same(online, target)
	report := s.end(copier, responder)
	s.exact(report, stats)
	if out := copier.Output(); strings.Count(out, rig.TunnelUp) != 1 {
		t.Errorf("the tunnel did not stay:\n%s", out)
	}
}

// refusals returns how many packets a host had no route for.
func refusals(t *testing.T, ns *testnet.NS) (n string) {
	t.Helper()
	ns.Do(func() {
		text, err := os.ReadFile("/proc/thread-self/net/snmp")
		if err != nil {
			t.Error(err)
		}
		lines := regexp.MustCompile(`(?m)^Ip: (.*)$`).FindAllStringSubmatch(string(text), 2)
		for i, name := range strings.Fields(lines[0][1]) {
			if name == "OutNoRoutes" {
				n = strings.Fields(lines[1][1])[i]
			}
		}
	})
	return n
}
