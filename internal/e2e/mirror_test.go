//go:build netns

package e2e

import (
	"net"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"flowtwin/internal/e2e/rig"
	"flowtwin/internal/testnet"
)

// A monitor is a host beside the online server that gets a copy of its packets.
// Its eth0 is in a subnet of its own, 10.71.4.0/24.
const monitorAddr = "10.71.4.2"

func addMonitor(t *testing.T, lab *testnet.Lab) *testnet.NS {
	t.Helper()
	m := testnet.New(t, "monitor")
	testnet.Link(t, lab.Router, "mon0", "10.71.4.1/24", m, "eth0", monitorAddr+"/24")
	if err := m.Route("default", "10.71.4.1"); err != nil {
		t.Fatal(err)
	}
	return m
}

// mirrorTo sends a copy of all that passes between clients and online server
// through the router's device dev, as a switch's mirror port does.
func mirrorTo(t *testing.T, lab *testnet.Lab, dev string) {
	t.Helper()
	lab.Router.Run(t, "nft", "add table netdev m; "+
		"add chain netdev m c { type filter hook ingress device eth0 priority 0; }; "+
		"add chain netdev m s { type filter hook ingress device eth1 priority 0; }; "+
		"add rule netdev m c dup to "+dev+"; add rule netdev m s dup to "+dev)
}

// copierAt starts a copier of maps on a host other than the online server's.
func (s *scene) copierAt(ns *testnet.NS, maps string, options ...string) *rig.Process {
	s.t.Helper()
	argv := s.Copier("-x", maps, "--invite-file", s.InviteFile(), "--report", s.ReportFile())
	p := s.keep(rig.Start(ns, "copier", append(argv, options...)...))
	if err := p.WaitOutput(s.within(), rig.TunnelUp); err != nil {
		s.t.Fatal(err)
	}
	return p
}

// A switch's mirror port: an interface without an address, whose frames are for
// others, both directions received.
func TestMirrorPort(t *testing.T) {
	t.Parallel()
	for name, offloads := range map[string]bool{"with offloads": true, "without offloads": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var monitor *testnet.NS
			s := newScene(t, testnet.LabConfig{}, func(l *testnet.Lab) {
				monitor = addMonitor(t, l)
				testnet.Link(t, l.Router, "span0", "169.254.1.1/32", monitor, "eth1", "169.254.1.2/32")
				l.Router.Run(t, "ip", "addr", "flush", "dev", "span0")
				monitor.Run(t, "ip", "addr", "flush", "dev", "eth1")
				for ns, dev := range map[*testnet.NS]string{l.Clients: "eth0", l.Online: "eth0", monitor: "eth1"} {
					if err := testnet.SetOffloads(ns, dev, offloads); err != nil {
						t.Fatal(err)
					}
				}
				mirrorTo(t, l, "span0")
			})
			online, target := s.serve(port, port)
			responder := s.keep(s.StartResponder(s.within()))
			copier := s.copierAt(monitor, testnet.OnlineAddr+":80-"+testnet.TargetAddr+":80", "--interface", "eth1")
			stats := mixed(s, s.dialer(port))
			s.same(online, target)
			s.exact(s.end(copier, responder), stats)
		})
	}
}

// The mirror port of a trunk: frames with one and two VLAN tags.
func TestMirrorPortOfATrunk(t *testing.T) {
	t.Parallel()
	for name, tags := range map[string][]byte{
		"VLAN": {0x81, 0, 0x40, 7}, "QinQ": {0x88, 0xa8, 0, 7, 0x81, 0, 0x45, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var monitor *testnet.NS
			s := newScene(t, testnet.LabConfig{}, func(l *testnet.Lab) {
				monitor = addMonitor(t, l)
				testnet.Link(t, l.Router, "span0", "169.254.1.1/32", monitor, "eth1", "169.254.1.2/32")
				l.Router.Run(t, "ip", "link", "set", "span0", "mtu", "9000")
				monitor.Run(t, "ip", "link", "set", "eth1", "mtu", "9000")
			})
			s.plain(s.Lab.Clients, s.Lab.Online)
			online, target := s.serve(port, port)
			responder := s.keep(s.StartResponder(s.within()))
			copier := s.copierAt(monitor, testnet.OnlineAddr+":80-"+testnet.TargetAddr+":80", "--interface", "eth1")
			(&feed{tags: tags, send: sendFrames(t, s.Lab.Router, "span0")}).watch(t, s.Lab.Router)
			stats := s.few(s.dialer(port))
			s.same(online, target)
			s.exact(s.end(copier, responder), stats)
		})
	}
}

// sendFrames returns what sends frames through dev as they are.
func sendFrames(t *testing.T, ns *testnet.NS, dev string) *os.File {
	t.Helper()
	var fd int
	var err error
	ns.Do(func() {
		var link *net.Interface
		if link, err = net.InterfaceByName(dev); err != nil {
			return
		}
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err == nil {
			err = unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: link.Index})
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(fd), dev)
}
