//go:build netns

package e2e

import (
	"errors"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"flowtwin/internal/e2e/rig"
	"flowtwin/internal/e2e/traffic"
	"flowtwin/internal/testnet"
)

// A packet that passes several devices of the online host is captured on each,
// and must be copied once.
func TestPacketsOnSeveralDevicesAreCopiedOnce(t *testing.T) {
	t.Parallel()
	for name, script := range map[string]string{
		// The usual host of virtual machines and containers.
		"bridge": `ip link add br0 type bridge && ip link set eth0 master br0 && ip link set br0 up &&
			ip addr flush dev eth0 && ip addr add 10.71.2.2/24 dev br0 && ip route add default via 10.71.2.1`,
		// A server in a namespace behind the host's, as containers are.
		"macvlan": `ip link add link eth0 mac0 type macvlan mode bridge && ip addr flush dev eth0 &&
			ip link set mac0 up && ip addr add 10.71.2.2/24 dev mac0 && ip route add default via 10.71.2.1`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, testnet.LabConfig{}, func(l *testnet.Lab) {
				if _, err := l.Online.Output("sh", "-c", script); err != nil {
					if strings.Contains(err.Error(), "not supported") || strings.Contains(err.Error(), "Unknown device type") {
						t.Skip("this kernel has no such device: ", err)
					}
					t.Fatal(err)
				}
			})
			s.copyOnce()
		})
	}
}

// Trunk ports: the server's subnet comes with a tag, which eth0 sees and eth0.7
// does not.
func TestTaggedPackets(t *testing.T) {
	t.Parallel()
	s := newScene(t, testnet.LabConfig{}, func(l *testnet.Lab) {
		for ns, script := range map[*testnet.NS]string{
			l.Online: `ip link add link eth0 name eth0.7 type vlan id 7 && ip addr flush dev eth0 &&
				ip link set eth0.7 up && ip addr add 10.71.2.2/24 dev eth0.7 && ip route add default via 10.71.2.1`,
			l.Router: `ip link add link eth1 name eth1.7 type vlan id 7 && ip addr flush dev eth1 &&
				ip link set eth1.7 up && ip addr add 10.71.2.1/24 dev eth1.7`,
		} {
			if _, err := ns.Output("sh", "-c", script); err != nil {
				if strings.Contains(err.Error(), "not supported") || strings.Contains(err.Error(), "Unknown device type") {
					t.Skip("this kernel has no VLAN devices: ", err)
				}
				t.Fatal(err)
			}
		}
	})
	s.copyOnce()
}

// copyOnce copies mixed traffic exactly. The watches are given up: eth0 has no
// address here that its packets could have.
func (s *scene) copyOnce() {
	s.t.Helper()
	s.forget("online")
	online, target := s.serve(port, port)
	copier, responder := s.copies(httpMap)
	stats := mixed(s, s.dialer(port))
	s.same(online, target)
	s.exact(s.end(copier, responder), stats)
}

// Health checks, reverse proxies: clients on the online host itself, whose
// packets pass only lo, each of them twice.
func TestClientsOnTheOnlineHostItself(t *testing.T) {
	t.Parallel()
	for _, addr := range []string{"127.0.0.1", testnet.OnlineAddr, "::1"} {
		t.Run(addr, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, testnet.LabConfig{})
			online, target := s.serve(port, port)
			copier, responder := s.copies(httpMap)
			server := addr + port
			if strings.Contains(addr, ":") {
				server = "[" + addr + "]" + port
			}
			d := traffic.NewDialer(s.Lab.Online, server, func(int) string { return addr })
			t.Cleanup(d.Close)
			stats := mixed(s, d)
			s.same(online, target)
			s.exact(s.end(copier, responder), stats)
		})
	}
}

// Several services of a host at a time, to several targets; one map has a local
// address, so that the other addresses' clients of its port are not copied.
func TestSeveralMaps(t *testing.T) {
	t.Parallel()
	s := newScene(t, testnet.LabConfig{})
	onlineA, targetA := s.serve(":80", ":8080")
	onlineB, targetB := s.serve(":81", "["+testnet.TargetAddr6+"]:8081")
	copier, responder := s.copies(
		"80-" + testnet.TargetAddr + ":8080," + testnet.OnlineAddr + ":81-[" + testnet.TargetAddr6 + "]:8081")
	var a, b traffic.Stats
	var wg sync.WaitGroup
	load := traffic.Load{Name: "a", Clients: 5, Rounds: 5, Requests: 10, Bodies: []int{10, 5000}}
	wg.Go(func() { a = s.make(load, s.dialer(":80")) })
	wg.Go(func() { b = s.make(load, s.dialer(":81")) })
	wg.Go(func() { s.make(load, s.dialerTo("["+testnet.OnlineAddr6+"]:80", testnet.ClientAddr6)) })
	wg.Wait()
	other := s.make(traffic.Load{Name: "other", Clients: 2, Rounds: 2, Requests: 5},
		s.dialerTo("["+testnet.OnlineAddr6+"]:81", testnet.ClientAddr6))
	s.same(onlineA, targetA)
	rig.Until(s.within(), func() bool { _, n, _ := targetB.Counts(); return n >= int(b.Requests) })
	s.compare(only(onlineB.Log(), "/a/"), targetB.Log())
	report := s.end(copier, responder)
	if got, want := report.Sessions.Opened, uint64(2*a.Connections+b.Connections); got != want {
		t.Errorf("ledger: %d sessions, want %d (%d connections have no map)", got, want, other.Connections)
	}
}

// IPv6 headers between IP and TCP hide the ports from the kernel's filter.
func TestIPv6ExtensionHeaders(t *testing.T) {
	t.Parallel()
	s := newScene(t, testnet.LabConfig{})
	extended := func(c syscall.RawConn) error {
		var err error
		control := c.Control(func(fd uintptr) {
			padding := string([]byte{0, 0, 1, 4, 0, 0, 0, 0})
			err = errors.Join(
				unix.SetsockoptString(int(fd), unix.SOL_IPV6, unix.IPV6_HOPOPTS, padding),
				unix.SetsockoptString(int(fd), unix.SOL_IPV6, unix.IPV6_DSTOPTS, padding))
		})
		return errors.Join(control, err)
	}
	const server = "[" + testnet.OnlineAddr6 + "]:80"
	var ln net.Listener
	var err error
	s.Lab.Online.Do(func() {
		config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error { return extended(c) }}
		ln, err = config.Listen(t.Context(), "tcp", server)
	})
	if err != nil {
		t.Fatal(err)
	}
	online, target := traffic.Serve(ln), s.serveAt(s.Lab.Target, port)
	t.Cleanup(func() { _ = online.Close() })
	s.plain(s.Lab.Clients, s.Lab.Online) // merged packets with such headers are lost on their way
	copier, responder := s.copies(server + "-" + testnet.TargetAddr + ":80")
	d := s.dialerTo(server, testnet.ClientAddr6)
	d.Control = func(_, _ string, c syscall.RawConn) error { return extended(c) }
	stats := s.few(d)
	s.same(online, target)
	s.exact(s.end(copier, responder), stats)
}

// Fast networks merge packets to more than IP's length field can say (BIG TCP).
// (Of IPv6 the capture's own test: routers lose such packets.)
func TestPacketsBeyond64KiB(t *testing.T) {
	t.Parallel()
	s := newScene(t, testnet.LabConfig{}, func(l *testnet.Lab) {
		for ns, devs := range map[*testnet.NS][]string{l.Clients: {"eth0"}, l.Router: {"eth0", "eth1"}, l.Online: {"eth0"}} {
			for _, dev := range devs {
				if err := testnet.SetMergeMax(ns, dev, 190_000); err != nil {
					t.Skip("no BIG TCP here: ", err)
				}
			}
		}
	})
	online, target := s.serve(port, port)
	copier, responder := s.copies(httpMap)
	// No more than the ring holds: this is not about a reader without CPU.
	stats := s.make(traffic.Load{Name: "upload", Clients: 2, Rounds: 1, Requests: 2, Bodies: []int{1 << 20}, Answer: 1 << 20}, s.dialer(port))
	s.same(online, target)
	s.exact(s.end(copier, responder), stats)
}
