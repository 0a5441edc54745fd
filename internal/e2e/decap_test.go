//go:build netns

package e2e

import (
	"encoding/binary"
	"io"
	"net"
	"slices"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"flowtwin/internal/e2e/rig"
	"flowtwin/internal/e2e/traffic"
	"flowtwin/internal/packet/packettest"
	"flowtwin/internal/testnet"
)

// A feed mirrors what the router forwards between clients and online server to the
// monitor, each frame in a packet of its own, as clouds and switches do.
type feed struct {
	header []byte // in front of each frame
	plain  bool   // without the link header
	tags   []byte // VLAN tags behind the link's addresses
	cut    int    // frames are cut to so many bytes, 0 not
	cross  bool   // what the server sends overtakes what its client sent before
	send   io.WriteCloser

	fd      int
	links   [2]int // of the router, to the clients and the online server
	refused atomic.Int64
	stopped atomic.Bool
	done    chan struct{}
}

// start makes the router mirror by f to network and address of the monitor.
func (f *feed) start(t *testing.T, router *testnet.NS, network, address string) {
	t.Helper()
	var err error
	router.Do(func() { f.send, err = net.Dial(network, address) })
	if err != nil {
		t.Fatal(err)
	}
	f.watch(t, router)
}

// watch makes the router mirror by f to f.send.
func (f *feed) watch(t *testing.T, router *testnet.NS) {
	t.Helper()
	f.done = make(chan struct{})
	var err error
	router.Do(func() {
		for i, dev := range []string{"eth0", "eth1"} {
			var link *net.Interface
			if link, err = net.InterfaceByName(dev); err != nil {
				return
			}
			f.links[i] = link.Index
		}
		all := binary.NativeEndian.Uint16([]byte{unix.ETH_P_ALL >> 8, unix.ETH_P_ALL & 0xff})
		if f.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(all)); err != nil {
			return
		}
		_ = unix.SetsockoptInt(f.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20)
		err = unix.SetsockoptTimeval(f.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50_000})
	})
	if err != nil {
		t.Fatal(err)
	}
	go f.run()
	t.Cleanup(func() {
		f.stopped.Store(true)
		<-f.done
		_ = unix.Close(f.fd)
		_ = f.send.Close()
	})
}

func (f *feed) run() {
	defer close(f.done)
	buf, held := make([]byte, 1<<16), []byte(nil)
	for !f.stopped.Load() {
		n, from, err := unix.Recvfrom(f.fd, buf, 0)
		if err != nil { // nothing came
			held = f.forward(held)
			continue
		}
		at, ok := from.(*unix.SockaddrLinklayer)
		if !ok || at.Pkttype == unix.PACKET_OUTGOING || at.Ifindex != f.links[0] && at.Ifindex != f.links[1] {
			continue
		}
		frame := f.wrap(buf[:n])
		if f.cross && at.Ifindex == f.links[0] {
			f.forward(held)
			held = frame
			continue
		}
		f.forward(frame)
		held = f.forward(held)
	}
}

// forward sends a frame, if there is one.
func (f *feed) forward(frame []byte) []byte {
	if frame != nil {
		if _, err := f.send.Write(frame); err != nil {
			f.refused.Add(1)
		}
	}
	return nil
}

// wrap returns the frame as it goes to the monitor.
func (f *feed) wrap(frame []byte) []byte {
	out := append([]byte(nil), f.header...)
	if f.cut > 0 {
		frame = frame[:min(len(frame), f.cut)]
	}
	switch {
	case f.plain:
		return append(out, frame[14:]...)
	default:
		return slices.Concat(out, frame[:12], f.tags, frame[12:])
	}
}

// decapScene lays out a scene with a monitor that can take larger packets than the
// others send.
func decapScene(t *testing.T) (s *scene, monitor *testnet.NS) {
	t.Helper()
	s = newScene(t, testnet.LabConfig{}, func(l *testnet.Lab) {
		monitor = addMonitor(t, l)
		l.Router.Run(t, "ip", "link", "set", "mon0", "mtu", "9000")
		monitor.Run(t, "ip", "link", "set", "eth0", "mtu", "9000")
	})
	return s, monitor
}

// few is a load of each kind, small.
func (s *scene) few(d *traffic.Dialer) (all traffic.Stats) {
	s.t.Helper()
	for _, l := range []traffic.Load{
		{Name: "keepalive", Clients: 5, Rounds: 2, Requests: 20},
		{Name: "short", Clients: 5, Rounds: 10, Requests: 1},
		{Name: "post", Clients: 2, Rounds: 2, Requests: 5, Bodies: []int{1, 5000, 64 << 10}},
		{Name: "download", Clients: 1, Rounds: 2, Requests: 3, Answer: 300_000},
		{Name: "reset", Clients: 2, Rounds: 2, Requests: 3, Reset: true},
	} {
		all.Add(s.make(l, d))
	}
	return all
}

// The mirror sessions of clouds and switches: the copier is on a host beside the
// online server. It also keeps its kernel from answering that nobody listens.
func TestMirrorFeeds(t *testing.T) {
	t.Parallel()
	const server6 = "[" + testnet.OnlineAddr6 + "]:80"
	for name, tt := range map[string]struct {
		decap, network, to string
		feed               *feed
		server             string
		client             func(int) string
	}{
		"VXLAN": {
			"vxlan", "udp", monitorAddr + ":4789",
			&feed{header: packettest.VXLANHeader(9)}, testnet.OnlineAddr + ":80", testnet.ClientAddr,
		},
		"VXLAN, directions cross": {
			"vxlan", "udp", monitorAddr + ":4789",
			&feed{header: packettest.VXLANHeader(9), cross: true}, testnet.OnlineAddr + ":80", testnet.ClientAddr,
		},
		"VXLAN, tagged, IPv6": {
			"vxlan,gre", "udp", monitorAddr + ":4789",
			&feed{header: packettest.VXLANHeader(9), tags: []byte{0x81, 0, 0x40, 7}}, server6, testnet.ClientAddr6,
		},
		"GENEVE": {
			"geneve", "udp", monitorAddr + ":6081",
			&feed{header: packettest.GENEVEHeader(9, 0x6558, make([]byte, 12)), tags: []byte{0x81, 0, 0, 7}}, testnet.OnlineAddr + ":80", testnet.ClientAddr,
		},
		"GRE": {
			"gre", "ip4:47", monitorAddr,
			&feed{header: packettest.GREHeader(0x2000, 0x6558)}, server6, testnet.ClientAddr6,
		},
		"GRE with IP": {
			"vxlan,geneve,gre", "ip4:47", monitorAddr,
			&feed{header: packettest.GREHeader(0, 0x0800), plain: true}, testnet.OnlineAddr + ":80", testnet.ClientAddr,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, monitor := decapScene(t)
			s.plain(s.Lab.Clients, s.Lab.Online)
			online, target := s.serve(port, port)
			responder := s.keep(s.StartResponder(s.within()))
			copier := s.copierAt(monitor, tt.server+"-"+testnet.TargetAddr+":80", "--decap", tt.decap)
			tt.feed.start(t, s.Lab.Router, tt.network, tt.to)
			stats := s.few(s.dialerTo(tt.server, tt.client))
			s.same(online, target)
			if n := tt.feed.refused.Load(); n > 0 {
				t.Errorf("the monitor refused %d packets", n)
			}
			s.exact(s.end(copier, responder), stats)
		})
	}
}

// The kernel's own VXLAN merges and leaves checksums to be done, which the monitor
// sees as packets of 64 KiB.
func TestMirrorFeedOfTheKernel(t *testing.T) {
	t.Parallel()
	s, monitor := decapScene(t)
	s.Lab.Router.Run(t, "sh", "-c", "ip link add vx0 mtu 1550 type vxlan id 5 local 10.71.4.1 remote "+monitorAddr+" dstport 4789 && ip link set vx0 up")
	mirrorTo(t, s.Lab, "vx0")
	online, target := s.serve(port, port)
	responder := s.keep(s.StartResponder(s.within()))
	copier := s.copierAt(monitor, testnet.OnlineAddr+":80-"+testnet.TargetAddr+":80", "--decap", "vxlan", "--interface", "eth0")
	stats := s.few(s.dialer(port))
	s.same(online, target)
	s.exact(s.end(copier, responder), stats)
}

// A mirror that cuts frames: what cannot be copied exactly is given up by name, and
// what fits is copied.
func TestTruncatedMirrorFeed(t *testing.T) {
	t.Parallel()
	s, monitor := decapScene(t)
	s.plain(s.Lab.Clients, s.Lab.Online)
	online, target := s.serve(port, port)
	responder := s.keep(s.StartResponder(s.within()))
	copier := s.copierAt(monitor, testnet.OnlineAddr+":80-"+testnet.TargetAddr+":80", "--decap", "vxlan")
	(&feed{header: packettest.VXLANHeader(9), cut: 1000}).start(t, s.Lab.Router, "udp", monitorAddr+":4789")
	d := s.dialer(port)
	small := s.make(traffic.Load{Name: "small", Clients: 3, Rounds: 3, Requests: 5, Answer: 20_000}, d)
	large := s.make(traffic.Load{Name: "large", Clients: 3, Rounds: 1, Requests: 1, Bodies: []int{5000}}, d)

	rig.Until(s.within(), func() bool { return only(target.Log(), "/small/").Requests() >= int(small.Requests) })
	s.compare(only(online.Log(), "/small/"), only(target.Log(), "/small/"))
	if n := only(target.Log(), "/large/").Requests(); n != 0 {
		t.Errorf("%d requests were copied that the mirror has cut", n)
	}
	report := s.end(copier, responder)
	if got := report.Flows.GivenUp["truncated"]; got != uint64(large.Connections) {
		t.Errorf("%d flows given up as truncated, want %d; %v", got, large.Connections, report.Flows.GivenUp)
	}
	if got := report.Client.Dropped["truncated"]; got.Segments == 0 {
		t.Errorf("no segments dropped as truncated: %v", report.Client.Dropped)
	}
}

// plain makes hosts send packets as they are on wires.
func (s *scene) plain(hosts ...*testnet.NS) {
	s.t.Helper()
	for _, ns := range hosts {
		if err := testnet.SetOffloads(ns, "eth0", false); err != nil {
			s.t.Fatal(err)
		}
	}
}
