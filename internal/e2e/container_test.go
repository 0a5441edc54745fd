//go:build netns

package e2e

import (
	"fmt"
	"testing"

	"flowtwin/internal/e2e/rig"
	"flowtwin/internal/testnet"
)

// A container's addresses, as it sees itself and as clients see it.
const (
	containerAddr      = "172.17.0.2:80"
	containerPublished = testnet.OnlineAddr + ":8080"
	containerTarget    = testnet.TargetAddr + ":80"
)

// addContainer puts a namespace behind a bridge of the online host, with its port
// 80 published as the host's 8080.
func addContainer(t *testing.T, lab *testnet.Lab) *testnet.NS {
	t.Helper()
	c := testnet.New(t, "container")
	testnet.Link(t, c, "eth0", "172.17.0.2/16", lab.Online, "veth0", "169.254.9.9/32")
	lab.Online.Run(t, "sh", "-c", `ip addr flush dev veth0 && ip link add docker0 type bridge &&
		ip link set veth0 master docker0 && ip link set docker0 up && ip addr add 172.17.0.1/16 dev docker0 &&
		echo 1 >/proc/sys/net/ipv4/ip_forward &&
		nft add table ip nat && nft add chain ip nat pre '{ type nat hook prerouting priority -100; }' &&
		nft add rule ip nat pre ip daddr 10.71.2.2 tcp dport 8080 dnat to 172.17.0.2:80`)
	if err := c.Route("default", "172.17.0.1"); err != nil {
		t.Fatal(err)
	}
	return c
}

// A server in a container may be named by its own address or by the one that it is
// published at, and be listened to on the host or inside: each packet is copied
// once, though the host sees it on three devices.
func TestServerInAContainer(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		maps   string
		inside bool
	}{
		"published port":    {"8080-" + containerTarget, false},
		"published address": {containerPublished + "-" + containerTarget, false},
		"own address":       {containerAddr + "-" + containerTarget, false},
		"inside, by pid":    {"80-" + containerTarget, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var container *testnet.NS
			s := newScene(t, testnet.LabConfig{}, func(l *testnet.Lab) { container = addContainer(t, l) })
			online := s.serveAt(container, port)
			target := s.serveAt(s.Lab.Target, port)
			var options []string
			if tt.inside {
				sleeper := s.keep(rig.Start(container, "sleeper", "sleep", "1000"))
				options = []string{"--netns", fmt.Sprint(sleeper.Pid())}
			}
			responder := s.keep(s.StartResponder(s.within()))
			copier := s.keep(s.StartCopier(s.within(), tt.maps, options...))
			stats := mixed(s, s.dialerTo(containerPublished, testnet.ClientAddr))
			s.same(online, target)
			report := s.end(copier, responder)
			s.exact(report, stats)
			if n := report.Client.Duplicate.Segments; n != 0 {
				t.Errorf("%d segments were captured twice", n)
			}
		})
	}
}

// A container without NAT, as Kubernetes has: the host forwards its packets as they
// are, and sees them on two interfaces with the same addresses.
func TestServerBehindTheOnlineHost(t *testing.T) {
	t.Parallel()
	var container *testnet.NS
	s := newScene(t, testnet.LabConfig{}, func(l *testnet.Lab) {
		container = addContainer(t, l)
		l.Router.Run(t, "ip", "route", "add", "172.17.0.0/16", "via", testnet.OnlineAddr)
	})
	s.forget("online") // it forwards under the container's address
	online := s.serveAt(container, port)
	target := s.serveAt(s.Lab.Target, port)
	copier, responder := s.copies(containerAddr + "-" + containerTarget)
	stats := mixed(s, s.dialerTo(containerAddr, testnet.ClientAddr))
	s.same(online, target)
	s.exact(s.end(copier, responder), stats)
}

// forget gives up the watch over a host that sends under foreign addresses anyway.
func (s *scene) forget(host string) {
	s.t.Helper()
	if _, err := s.watches[host].Close(); err != nil {
		s.t.Fatal(err)
	}
	delete(s.watches, host)
}
