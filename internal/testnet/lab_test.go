package testnet_test

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"flowtwin/internal/testnet"

	"golang.org/x/sys/unix"
)

func newLab(t *testing.T, cfg testnet.LabConfig) *testnet.Lab {
	t.Helper()
	testnet.RequireRoot(t)
	lab, err := testnet.NewLab(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
	})
	return lab
}

// send carries n random bytes from the clients to addr in the namespace to, and
// checks that they arrive.
func send(t *testing.T, lab *testnet.Lab, to *testnet.NS, addr string, n int) {
	t.Helper()
	ln := to.Listen(t, addr)
	data := make([]byte, n)
	_, _ = rand.Read(data)
	go func() {
		lab.Clients.Do(func() {
			c, err := net.Dial("tcp", addr)
			if err != nil {
				t.Error(err)
				_ = ln.Close()
				return
			}
			if _, err := c.Write(data); err != nil {
				t.Error(err)
			}
			_ = c.Close()
		})
	}()
	c, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	got, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	if a, b := sha256.Sum256(got), sha256.Sum256(data); !bytes.Equal(a[:], b[:]) {
		t.Errorf("%d bytes arrived changed, %d were sent", len(got), len(data))
	}
}

func TestLabReachesBothServersFromTheClients(t *testing.T) {
	lab := newLab(t, testnet.LabConfig{})
	send(t, lab, lab.Online, testnet.OnlineAddr+":80", 1<<20)
	send(t, lab, lab.Target, "["+testnet.TargetAddr6+"]:80", 1<<20)
}

// The tests under loss prove nothing when the wire loses nothing.
func TestWireLosesAndReordersAsOftenAsItIsTold(t *testing.T) {
	lab := newLab(t, testnet.LabConfig{ClientWire: &testnet.WireConfig{Loss: 0.01, Reorder: 0.02, Seed: 1}})
	send(t, lab, lab.Online, testnet.OnlineAddr+":80", 32<<20)
	forwarded, lost, late := lab.ClientWire.Stats()
	all := float64(forwarded + lost)
	if all < 20000 {
		t.Fatalf("%.0f packets for 32 MiB: the wire carries merged packets", all)
	}
	if share := float64(lost) / all; share < 0.007 || share > 0.013 {
		t.Errorf("lost %.4f of %.0f packets, want 0.01", share, all)
	}
	if share := float64(late) / all; share < 0.01 || share > 0.025 {
		t.Errorf("forwarded %.4f of %.0f packets late, want about 0.02", share, all)
	}
}

func TestSnapshotSeesEachChange(t *testing.T) {
	ns := testnet.New(t, "testnet-snap")
	other := testnet.New(t, "testnet-snap2")
	testnet.Link(t, ns, "eth0", "10.9.0.1/24", other, "eth0", "10.9.0.2/24")
	before := testnet.TakeSnapshot(t, ns)
	if diff := testnet.TakeSnapshot(t, ns).Diff(before); len(diff) != 0 {
		t.Fatalf("differences without a change: %q", diff)
	}
	for name, change := range map[string][]string{
		"addr: ":              {"ip", "addr", "add", "10.9.1.1/24", "dev", "eth0"},
		"route: 10.8.0.0/16":  {"ip", "route", "add", "10.8.0.0/16", "via", "10.9.0.2"},
		"rule: 77:":           {"ip", "rule", "add", "pref", "77", "lookup", "5"},
		"nft: table ip x":     {"nft", "add", "table", "ip", "x"},
		"net.ipv4.ip_forward": {"sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward"},
	} {
		ns.Run(t, change[0], change[1:]...)
		diff := testnet.TakeSnapshot(t, ns).Diff(before)
		if !slices.ContainsFunc(diff, func(l string) bool { return l[0] == '+' && strings.Contains(l, name) }) {
			t.Errorf("after %q the differences are %q", change, diff)
		}
	}
}

// The check that no client's address leaves a host is worth what the watch sees.
func TestWatchSeesForeignSourcesOnly(t *testing.T) {
	for _, foreign := range []string{"198.18.7.7", "fd55::7"} {
		t.Run(foreign, func(t *testing.T) {
			a, b := pair(t)
			w, err := testnet.NewWatch(a, "eth0")
			if err != nil {
				t.Fatal(err)
			}
			b.Listen(t, "10.9.0.2:80")
			b.Listen(t, "[fd09::2]:80")
			a.Do(func() {
				for _, own := range []string{"10.9.0.2:80", "[fd09::2]:80"} {
					if c, err := net.Dial("tcp", own); err != nil {
						t.Error(err)
					} else {
						_ = c.Close()
					}
				}
				spoof(t, netip.MustParseAddr(foreign))
			})
			deadline := time.Now().Add(5 * time.Second)
			for w.Packets() == 0 && time.Now().Before(deadline) {
				<-time.After(time.Millisecond)
			}
			strange, err := w.Close()
			if err != nil {
				t.Fatal(err)
			}
			if len(strange) != 1 || strange[netip.MustParseAddr(foreign)] != 1 {
				t.Errorf("strange sources %v, want one packet from %s", strange, foreign)
			}
		})
	}
}

// spoof sends one UDP packet under the address from to the pair's other end.
func spoof(t *testing.T, from netip.Addr) {
	t.Helper()
	family, ip, opt := unix.AF_INET, unix.SOL_IP, unix.IP_TRANSPARENT
	var to unix.Sockaddr = &unix.SockaddrInet4{Port: 9, Addr: [4]byte{10, 9, 0, 2}}
	var bind unix.Sockaddr
	if from.Is4() {
		bind = &unix.SockaddrInet4{Addr: from.As4()}
	} else {
		family, ip, opt = unix.AF_INET6, unix.SOL_IPV6, unix.IPV6_TRANSPARENT
		to = &unix.SockaddrInet6{Port: 9, Addr: netip.MustParseAddr("fd09::2").As16()}
		bind = &unix.SockaddrInet6{Addr: from.As16()}
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.SetsockoptInt(fd, ip, opt, 1); err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(fd, bind); err != nil {
		t.Fatal(err)
	}
	if err := unix.Sendto(fd, []byte("x"), 0, to); err != nil {
		t.Fatal(err)
	}
}
