package netstack

import (
	"errors"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"flowtwin/internal/testnet"
)

// What Open changes is the device and its routes, and Close undoes all of it.
func TestHostStateIsTheSameAfterwards(t *testing.T) {
	for _, cfg := range []Config{
		{Loopback: true, Shards: 2},
		{Pool: []netip.Prefix{netip.MustParsePrefix("198.18.3.4/32")}},
		{MTU: 600},
	} {
		ns := testnet.New(t, "netstack")
		before := testnet.TakeSnapshot(t, ns)
		var n *Net
		var err error
		ns.Do(func() { n, err = Open(cfg) })
		if err != nil {
			t.Fatal(err)
		}
		for _, change := range testnet.TakeSnapshot(t, ns).Diff(before) {
			if !strings.Contains(change, n.Name()) {
				t.Errorf("changed besides the device: %s", change)
			} else {
				t.Log(change)
			}
		}
		if err := n.Close(); err != nil {
			t.Error(err)
		}
		for _, change := range testnet.TakeSnapshot(t, ns).Diff(before) {
			t.Errorf("left behind: %s", change)
		}
	}
}

func TestPoolThatOverlapsIsRefused(t *testing.T) {
	ns := testnet.New(t, "netstack")
	if err := ns.AddAddr("lo", "10.9.0.1/24"); err != nil {
		t.Fatal(err)
	}
	ns.Run(t, "ip", "route", "add", "198.18.64.0/18", "dev", "lo")
	// A VPN's ways to everywhere do not count, nor does the default route.
	for _, dst := range []string{"default", "0.0.0.0/1", "128.0.0.0/1", "196.0.0.0/6", "2000::/3", "::/1"} {
		ns.Run(t, "ip", "route", "add", dst, "dev", "lo")
	}
	ns.Run(t, "ip", "route", "add", "11.0.0.0/8", "dev", "lo")
	for pool, route := range map[string]string{
		"198.18.0.0/15":    "198.18.64.0/18 dev lo",
		"198.18.100.0/24":  "198.18.64.0/18 dev lo",
		"10.9.0.0/30":      "10.9.0.",
		"10.9.0.1/32":      "10.9.0.1",
		"10.9.0.255/32":    "10.9.0.0/24 dev lo",
		"11.1.0.0/16":      "11.0.0.0/8 dev lo",
		"198.19.0.0/16":    "",
		"2001:2::/48":      "",
		"203.0.113.128/25": "",
	} {
		var n *Net
		var err error
		ns.Do(func() { n, err = Open(Config{Pool: []netip.Prefix{netip.MustParsePrefix(pool)}}) })
		switch {
		case route == "" && err != nil:
			t.Errorf("%s: %v", pool, err)
		case route == "":
			if err := n.Close(); err != nil {
				t.Error(err)
			}
		case !errors.Is(err, ErrOverlap) || !strings.Contains(err.Error(), route):
			t.Errorf("%s: %v, want one that names %s", pool, err, route)
		default:
			t.Log(err)
		}
	}
	if out := ns.Run(t, "ip", "-br", "link"); strings.Contains(out, "flowtwin") {
		t.Errorf("a refusal left a device: %s", out)
	}
}

// A strict reverse path filter does not stand in the way: each source address has
// its route through the device.
func TestStrictReversePathFilter(t *testing.T) {
	ns := testnet.New(t, "netstack")
	for _, key := range []string{"net.ipv4.conf.all.rp_filter", "net.ipv4.conf.default.rp_filter"} {
		if err := ns.Sysctl(key, "1"); err != nil {
			t.Fatal(err)
		}
	}
	h := &host{ns: ns}
	h.open(t, Config{Loopback: true})
	target := h.serve(t, "127.0.0.1:0", echo)
	s := &sender{data: []byte("x"), fin: true}
	c := h.dial(t, client(1), target, 0)
	c.Session = s.event
	h.await(t, "echo", func() bool { return s.eof })
	c.Release()
}

func TestConfigIsChecked(t *testing.T) {
	testnet.RequireRoot(t)
	for _, cfg := range []Config{
		{Shards: -1}, {Shards: 300}, {MTU: 100}, {MTU: 70_000}, {Pool: []netip.Prefix{{}}},
	} {
		if n, err := Open(cfg); err == nil {
			t.Errorf("%+v accepted", cfg)
			if err := n.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}

// Without the capability the error says so, before anything is touched.
func TestMissingCapability(t *testing.T) {
	testnet.RequireRoot(t)
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with its goroutine
		hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var data [2]unix.CapUserData
		err := unix.Capget(&hdr, &data[0])
		data[0].Effective &^= 1 << unix.CAP_NET_ADMIN
		if err == nil {
			err = unix.Capset(&hdr, &data[0])
		}
		if err != nil {
			t.Error(err)
		}
		_, err = Open(Config{})
		done <- err
	}()
	if err := <-done; !errors.Is(err, ErrPrivilege) || !strings.Contains(err.Error(), "CAP_NET_ADMIN") {
		t.Errorf("Open: %v", err)
	}
}

// A new run must not use the tuples of which the target's kernel still keeps a
// TIME_WAIT, nor those of connections that hang on.
func TestRestartLeavesOldTuplesAlone(t *testing.T) {
	for _, addr := range []string{"10.9.0.1:0", "[fd09::1]:0"} {
		h := open(t, Config{})
		kept := make(chan *net.TCPConn, 1)
		target := h.serve(t, addr, func(c *net.TCPConn) {
			if b := make([]byte, 1); readByte(c, b) && b[0] == 'k' {
				kept <- c // for ever open
				return
			}
			_ = c.Close() // first, so that TIME_WAIT is here
		})
		for i, data := range []string{"c", "k"} {
			s := &sender{data: []byte(data)}
			c := h.dial(t, client(i), target, 0)
			c.Session = s.event
			if data == "k" {
				h.await(t, "delivery", func() bool { return c.Acked() == 1 })
				<-kept
				continue
			}
			h.await(t, "FIN", func() bool { return s.eof })
			c.Release()
			h.awaitEmpty(t)
		}
		if err := h.net.Close(); err != nil {
			t.Fatal(err)
		}
		if got := h.ns.Run(t, "ss", "-Htan", "state", "time-wait"); !strings.Contains(got, client(0).String()[strings.LastIndex(client(0).String(), ":"):]) {
			t.Fatalf("no TIME_WAIT to test with: %q", got)
		}
		h.open(t, Config{})
		if st := h.net.Stats(); st.TuplesWaiting < 1 {
			t.Errorf("%s: stats after restart %+v", addr, st)
		}
		l, err := h.net.Acquire(client(0), target.Addr().Is6())
		if err != nil {
			t.Fatal(err)
		}
		if l.Client.Port() == client(0).Port() {
			t.Errorf("%s: %v is used again within TIME_WAIT", addr, l.Client)
		}
		c := h.dial(t, client(0), target, 0)
		h.awaitState(t, c, Established)
		if n := h.snmp(t, "TcpExt", "TCPChallengeACK"); n != 0 {
			t.Errorf("%s: %d tuples collided in the target's kernel", addr, n)
		}
	}
}

func readByte(c *net.TCPConn, b []byte) bool {
	_, err := c.Read(b)
	return err == nil
}
