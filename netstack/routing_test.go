package netstack

import (
	"errors"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"flowtwin/internal/testnet"
)

// wired makes a namespace as open does, with a real wire to another one.
func wired(t *testing.T) (h *host, other *testnet.NS) {
	t.Helper()
	h = &host{ns: testnet.New(t, "netstack")}
	other = testnet.New(t, "netstack")
	testnet.Link(t, h.ns, "eth0", "10.5.0.1/24", other, "eth0", "10.5.0.2/24")
	for _, a := range []string{"10.9.0.1/24", "10.8.0.1/24", "fd09::1/64", "fd08::1/64"} {
		if err := h.ns.AddAddr("lo", a); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.ns.AddAddr("eth0", "fd05::1/64"); err != nil {
		t.Fatal(err)
	}
	h.settle(t)
	return h, other
}

// Rules that send a target's answers to the real gateway are found, for each
// target that is asked about, and what the error says to do helps.
func TestPolicyRoutingIsRefused(t *testing.T) {
	h, _ := wired(t)
	h.ns.Run(t, "ip", "route", "add", "default", "via", "10.5.0.2", "table", "100")
	h.ns.Run(t, "ip", "rule", "add", "from", "10.9.0.1", "lookup", "100")
	h.ns.Run(t, "ip", "-6", "route", "add", "default", "via", "fd05::2", "table", "100")
	h.ns.Run(t, "ip", "-6", "rule", "add", "from", "fd09::1", "lookup", "100")
	h.open(t, Config{Loopback: true})
	for _, target := range []string{"10.8.0.1:80", "[fd08::1]:80", "127.0.0.1:80"} {
		if err := h.net.CheckTarget(netip.MustParseAddrPort(target)); err != nil {
			t.Errorf("%s: %v", target, err)
		}
	}
	for _, target := range []string{"10.9.0.1:80", "[fd09::1]:80"} {
		addr := netip.MustParseAddrPort(target)
		err := h.net.CheckTarget(addr)
		if !errors.Is(err, ErrRouting) || !strings.Contains(err.Error(), "by eth0 (table 100, ip rule 32765: from "+addr.Addr().String()+")") {
			t.Fatalf("%s: %v", target, err)
		}
		t.Log(err)
		h.follow(t, err)
		if err := h.net.CheckTarget(addr); err != nil {
			t.Errorf("%s with the rule: %v", target, err)
		}
	}
}

// follow does what err says.
func (h *host) follow(t *testing.T, err error) {
	t.Helper()
	args := strings.Fields(err.Error()[strings.LastIndex(err.Error(), ": ip ")+2:])
	h.ns.Run(t, args[0], args[1:]...)
}

// Rules that concern the pool whatever the target are found at the start.
func TestRuleForThePoolIsRefused(t *testing.T) {
	for _, rule := range [][]string{{"pref", "5"}, {"to", "198.18.64.0/18", "pref", "5"}} {
		h, _ := wired(t)
		h.ns.Run(t, "ip", "route", "add", "default", "via", "10.5.0.2", "table", "100")
		h.ns.Run(t, "ip", append(append([]string{"rule", "add"}, rule...), "lookup", "100")...)
		var err error
		h.ns.Do(func() { _, err = Open(Config{}) })
		if !errors.Is(err, ErrRouting) {
			t.Fatalf("%q: %v", rule, err)
		}
		t.Log(err)
		if out := h.ns.Run(t, "ip", "-br", "link"); strings.Contains(out, "flowtwin") {
			t.Errorf("a refusal left a device: %s", out)
		}
		h.follow(t, err)
		h.open(t, Config{})
	}
}

// An address that is not the host's is refused; the kernel would not tell it by a
// reset.
func TestTargetElsewhereIsRefused(t *testing.T) {
	h, _ := wired(t)
	h.open(t, Config{})
	for _, target := range []string{"10.5.0.2:80", "203.0.113.7:80", "[fd77::1]:80"} {
		if err := h.net.CheckTarget(netip.MustParseAddrPort(target)); !errors.Is(err, ErrTarget) {
			t.Errorf("%s: %v", target, err)
		}
	}
}

// On a host that forwards, also when it begins to after the start, nothing of ours
// leaves by a real wire: not to an address that a firewall puts in, nor to one that
// the host has lost. Targets on the host work as ever.
func TestNothingIsForwarded(t *testing.T) {
	h, _ := wired(t)
	forward := func(which string) {
		for _, family := range []string{"ipv4", "ipv6"} {
			if err := h.ns.Sysctl("net."+family+".conf."+which+".forwarding", "1"); err != nil {
				t.Fatal(err)
			}
		}
	}
	forward("all")
	h.ns.Run(t, "ip", "route", "add", "default", "via", "10.5.0.2")
	h.ns.Run(t, "ip", "-6", "route", "add", "default", "via", "fd05::2")
	h.ns.Run(t, "ip", "neigh", "add", "fd05::2", "lladdr", "02:00:00:00:00:01", "dev", "eth0")
	h.ns.Run(t, "nft", "add table ip t; add chain ip t c { type nat hook prerouting priority -100; }; add rule ip t c ip daddr 10.9.0.1 tcp dport 81 dnat to 10.5.0.2:80")
	h.open(t, Config{Loopback: true})
	for _, family := range []string{"ipv4", "ipv6"} {
		if got := strings.TrimSpace(h.ns.Run(t, "cat", sysctlPath(family, h.net.Name(), "forwarding"))); got != "0" {
			t.Errorf("%s: forwarding on the device is %s", family, got)
		}
	}
	watch, err := testnet.NewWatch(h.ns, "eth0")
	if err != nil {
		t.Fatal(err)
	}
	forward(h.net.Name()) // as a container runtime does with all devices when it starts
	h.ns.Run(t, "ip", "addr", "del", "10.8.0.1/24", "dev", "lo")
	h.ns.Run(t, "ip", "addr", "del", "fd08::1/64", "dev", "lo")
	for _, target := range []string{"10.9.0.1:81", "10.8.0.1:80", "[fd08::1]:80", "203.0.113.7:80"} {
		c := h.dial(t, client(1), netip.MustParseAddrPort(target), 0)
		h.awaitState(t, c, Refused)
		c.Release()
		h.awaitEmpty(t)
	}
	for _, addr := range []string{"10.9.0.1:0", "[fd09::1]:0", "127.0.0.1:0"} {
		target := h.serve(t, addr, echo)
		s := &sender{data: []byte("x"), fin: true}
		c := h.dial(t, client(2), target, 0)
		c.Session = s.event
		h.await(t, "echo", func() bool { return s.eof })
		c.Release()
	}
	strange, err := watch.Close()
	if err != nil {
		t.Fatal(err)
	}
	for addr, n := range strange {
		t.Errorf("%d packets from %v left by eth0", n, addr)
	}
}

// route_localnet is set by the first target that needs it.
func TestLoopbackIsOpenedWhenUsed(t *testing.T) {
	h := open(t, Config{Loopback: true})
	localnet := func() string {
		return strings.TrimSpace(h.ns.Run(t, "cat", sysctlPath("ipv4", h.net.Name(), "route_localnet")))
	}
	if err := h.net.CheckTarget(netip.MustParseAddrPort("10.9.0.1:80")); err != nil {
		t.Error(err)
	}
	if got := localnet(); got != "0" {
		t.Errorf("route_localnet is %s before a loopback target", got)
	}
	if err := h.net.CheckTarget(netip.MustParseAddrPort("127.0.0.1:80")); err != nil {
		t.Error(err)
	}
	if got := localnet(); got != "1" {
		t.Errorf("route_localnet is %s with a loopback target", got)
	}
}

// Hosts that switch IPv6 off for new devices only, as some do by default, have it
// on ours.
func TestNewDevicesWithoutIPv6(t *testing.T) {
	h := &host{ns: testnet.New(t, "netstack")}
	if err := h.ns.AddAddr("lo", "fd09::1/64"); err != nil {
		t.Fatal(err)
	}
	h.settle(t)
	if err := h.ns.Sysctl("net.ipv6.conf.default.disable_ipv6", "1"); err != nil {
		t.Fatal(err)
	}
	h.open(t, Config{})
	target := h.serve(t, "[fd09::1]:0", echo)
	s := &sender{data: []byte("x"), fin: true}
	c := h.dial(t, client(1), target, 0)
	c.Session = s.event
	h.await(t, "echo", func() bool { return s.eof })
	c.Release()
}

// A container's read-only /proc/sys costs what really needs a setting, and no
// more.
func TestReadOnlySysctls(t *testing.T) {
	for _, v6 := range []bool{true, false} {
		h := &host{ns: testnet.New(t, "netstack")}
		if err := h.ns.AddAddr("lo", "10.9.0.1/24"); err != nil {
			t.Fatal(err)
		}
		if !v6 {
			if err := h.ns.Sysctl("net.ipv6.conf.default.disable_ipv6", "1"); err != nil {
				t.Fatal(err)
			}
			if _, err := h.openReadOnly(t, Config{Pool: DefaultPool()}); err == nil {
				t.Error("a pool that was asked for and cannot be is no error")
			}
		}
		n, err := h.openReadOnly(t, Config{Loopback: true})
		if err != nil {
			t.Fatal(err)
		}
		h.net = n
		defer func() {
			if err := n.Close(); err != nil {
				t.Error(err)
			}
		}()
		if slices.ContainsFunc(n.cfg.Pool, isV6) != v6 {
			t.Errorf("pool %v, IPv6 possible: %v", n.cfg.Pool, v6)
		}
		err = n.CheckTarget(netip.MustParseAddrPort("127.0.0.1:80"))
		if !errors.Is(err, ErrTarget) || !errors.Is(err, unix.EROFS) {
			t.Errorf("loopback target: %v", err)
		}
		t.Log(err)
		target := h.serve(t, "10.9.0.1:0", func(c *net.TCPConn) { echo(c) })
		if err := n.CheckTarget(target); err != nil {
			t.Error(err)
		}
		s := &sender{data: []byte("x"), fin: true}
		c := h.dial(t, client(1), target, 0)
		c.Session = s.event
		h.await(t, "echo", func() bool { return s.eof })
		c.Release()
	}
}

// openReadOnly opens a Net on a thread whose /proc/sys is read-only.
func (h *host) openReadOnly(t *testing.T, cfg Config) (n *Net, err error) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with its goroutine
		if err = unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS); err != nil {
			return
		}
		const sys = "/proc/sys"
		for _, m := range []struct {
			source, target string
			flags          uintptr
		}{
			{"", "/", unix.MS_REC | unix.MS_PRIVATE},
			{sys, sys, unix.MS_BIND},
			{sys, sys, unix.MS_BIND | unix.MS_REMOUNT | unix.MS_RDONLY},
		} {
			if err = unix.Mount(m.source, m.target, "", m.flags, ""); err != nil {
				return
			}
		}
		h.ns.Do(func() { n, err = Open(cfg) })
	}()
	<-done
	return n, err
}
