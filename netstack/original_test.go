package netstack

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"flowtwin/internal/testnet"
)

// remotes runs a server that tells whom it sees.
func (h *host) remotes(t *testing.T, addr string) (netip.AddrPort, <-chan string) {
	t.Helper()
	seen := make(chan string, 16)
	return h.serve(t, addr, func(c *net.TCPConn) {
		seen <- c.RemoteAddr().String()
		echo(c)
	}), seen
}

// talk has one byte echoed and ends in order.
func (h *host) talk(t *testing.T, client, target netip.AddrPort) netip.AddrPort {
	t.Helper()
	l, err := h.net.Acquire(client, target.Addr().Is6())
	if err != nil {
		t.Fatal(err)
	}
	c, err := h.net.Stack(l.Shard).Dial(l, target, 0)
	if err != nil {
		t.Fatal(err)
	}
	s := &sender{data: []byte("x"), fin: true}
	c.Session = s.event
	h.await(t, "echo for "+l.Client.String(), func() bool { return s.eof })
	c.Release()
	h.awaitEmpty(t)
	return l.Client
}

// With the strictest reverse path filter, and a default route that leads the
// answers away, the target sees the client's own address and port; nothing leaves
// by the wire, and afterwards the host is as before.
func TestOriginalAddresses(t *testing.T) {
	h, _ := wired(t)
	h.ns.Run(t, "ip", "route", "add", "default", "via", "10.5.0.2")
	h.ns.Run(t, "ip", "-6", "route", "add", "default", "via", "fd05::2")
	if err := h.ns.Sysctl("net.ipv4.conf.all.rp_filter", "1"); err != nil {
		t.Fatal(err)
	}
	h.ns.Run(t, "nft", "add table inet w; add chain inet w o { type filter hook output priority 0; }; add rule inet w o oifname eth0 meta l4proto tcp counter")
	before := testnet.TakeSnapshot(t, h.ns)
	h.open(t, Config{Original: true, Loopback: true, Shards: 2})
	for _, tt := range []struct{ listen, client string }{
		{"10.9.0.1:0", "203.0.113.7:5555"},
		{"10.9.0.1:0", "10.5.0.77:5556"}, // a neighbour on the wire
		{"127.0.0.1:0", "203.0.113.8:5557"},
		{"[fd09::1]:0", "[2001:db8:7::7]:5558"},
	} {
		target, seen := h.remotes(t, tt.listen)
		if err := h.net.CheckTarget(target); err != nil {
			t.Fatal(err)
		}
		if err := h.net.CheckTarget(target); err != nil { // of the next copier
			t.Fatal(err)
		}
		if got := h.talk(t, netip.MustParseAddrPort(tt.client), target); got.String() != tt.client {
			t.Errorf("leased %v for %s", got, tt.client)
		}
		if got := <-seen; got != tt.client {
			t.Errorf("%v sees %s, the client is %s", target, got, tt.client)
		}
	}
	if s := h.net.Stats(); s.TuplesPooled != 0 || s.TuplesMoved != 0 {
		t.Errorf("stats %+v", s)
	}
	if err := h.net.Close(); err != nil {
		t.Error(err)
	}
	if out := h.ns.Run(t, "nft", "list table inet w"); !strings.Contains(out, "counter packets 0 ") {
		t.Errorf("packets left by the wire: %s", out)
	}
	h.ns.Run(t, "nft", "reset counters table inet w")
	if diff := testnet.TakeSnapshot(t, h.ns).Diff(before); len(diff) > 0 {
		t.Errorf("the host is left changed: %q", diff)
	}
}

// A client whose own address cannot be gets one of the pool, and one whose tuple
// is in use another port; both are counted.
func TestOriginalAddressThatCannotBe(t *testing.T) {
	h := open(t, Config{Original: true})
	for _, client := range []string{"10.9.0.1:5000", "127.0.0.1:5000", "224.0.0.1:5000", "[2001:db8::1]:5000", "0.0.0.0:5000"} {
		l, err := h.net.Acquire(netip.MustParseAddrPort(client), false)
		if err != nil {
			t.Fatal(err)
		}
		if !DefaultPool()[0].Contains(l.Client.Addr()) || l.Client.Port() != 5000 {
			t.Errorf("%s appears as %v", client, l.Client)
		}
	}
	if s := h.net.Stats(); s.TuplesPooled != 5 {
		t.Errorf("%d clients got the pool's addresses, want 5", s.TuplesPooled)
	}
	client := netip.MustParseAddrPort("203.0.113.7:5555")
	a, err := h.net.Acquire(client, false)
	if err != nil {
		t.Fatal(err)
	}
	b, err := h.net.Acquire(client, false) // another copier has the same client
	if err != nil {
		t.Fatal(err)
	}
	if a.Client != client || b.Client.Addr() != client.Addr() || b.Client.Port() == client.Port() {
		t.Errorf("%v appears as %v and as %v", client, a.Client, b.Client)
	}
	if s := h.net.Stats(); s.TuplesMoved != 1 || s.TuplesInUse != 7 {
		t.Errorf("stats %+v", s)
	}
	// Copies are more clients than there were: they have addresses of their own.
	if l, err := h.net.AcquireCopy(client, 1, false); err != nil || !DefaultPool()[0].Contains(l.Client.Addr()) || h.net.Stats().TuplesPooled != 5 {
		t.Errorf("a copy appears as %v, %v", l.Client, err)
	}
	h.net.Release(b)
	c, err := h.net.Acquire(netip.MustParseAddrPort("198.18.0.77:5555"), false) // a client that has a pool's address
	if err != nil {
		t.Fatal(err)
	}
	if key, ok := h.net.keyOf(false, c.Client.Addr().AsSlice(), 5555); !ok || key != c.key || c.Client.String() != "198.18.0.77:5555" {
		t.Errorf("%v is found as %x, held as %x", c.Client, key, c.key)
	}
}

// Two IPv6 addresses may have one hash: each packet must still find its own session.
func TestOriginalAddressesOfOneHash(t *testing.T) {
	p := newPath(netip.MustParseAddrPort("[2001:db8::1]:5"), netip.MustParseAddrPort("[fd09::1]:80"))
	own, other := netip.MustParseAddr("2001:db8::1").As16(), netip.MustParseAddr("2001:db8::2").As16()
	if !p.to(own[:]) || p.to(other[:]) {
		t.Error("a session does not know its address")
	}
	a := newAllocator(pool{}, pool{}, 1, func() time.Duration { return 0 })
	k := a.keyOf(netip.MustParseAddr("2001:db8::1"))
	a.take(k.onPort(5)) // of another address with this hash
	l, ok := a.keep(netip.MustParseAddrPort("[2001:db8::1]:5"))
	if !ok || l.Client.Addr().String() != "2001:db8::1" || l.Client.Port() == 5 {
		t.Errorf("leased %v, %v", l.Client, ok)
	}
}

// A port with real users is refused, since their answers would come to us; those
// of the host itself and the pool's do not count.
func TestTargetWithUsersIsRefused(t *testing.T) {
	h, other := wired(t)
	target, _ := h.remotes(t, "10.5.0.1:0")
	dialIn := func(ns *testnet.NS) net.Conn {
		var c net.Conn
		var err error
		ns.Do(func() { c, err = net.Dial("tcp", target.String()) })
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	guest := dialIn(h.ns)
	defer func() { _ = guest.Close() }()
	h.open(t, Config{Original: true})
	if err := h.net.CheckTarget(target); err != nil {
		t.Errorf("with a connection of the host itself: %v", err)
	}
	if err := h.net.Close(); err != nil {
		t.Error(err)
	}
	user := dialIn(other)
	defer func() { _ = user.Close() }()
	h.open(t, Config{Original: true})
	err := h.net.CheckTarget(target)
	if !errors.Is(err, ErrUsers) || !strings.Contains(err.Error(), "10.5.0.2") {
		t.Fatalf("with a user: %v", err)
	}
	t.Log(err)
	if rules := h.ns.Run(t, "ip", "rule"); strings.Contains(rules, "proto 74") {
		t.Errorf("the refusal left a rule: %s", rules)
	}
	if err := h.net.Close(); err != nil {
		t.Error(err)
	}
	h.open(t, Config{Original: true, Force: true})
	if err := h.net.CheckTarget(target); err != nil {
		t.Errorf("with Force: %v", err)
	}
}

// The rule of a killed responder lets packets pass until the next one removes it,
// whatever that one's settings; the rules of one that lives stay.
func TestRuleOfAKilledResponder(t *testing.T) {
	h, _ := wired(t)
	h.ns.Run(t, "ip", "route", "add", "default", "via", "10.5.0.2")
	before := h.ns.Run(t, "ip", "rule")
	killed := *h
	killed.open(t, Config{Original: true})
	target := netip.MustParseAddrPort("10.9.0.1:80")
	if err := killed.net.CheckTarget(target); err != nil {
		t.Fatal(err)
	}
	way := func() string {
		return h.ns.Run(t, "ip", "route", "get", "203.0.113.1", "from", "10.9.0.1", "ipproto", "tcp", "sport", "80")
	}
	if got := way(); !strings.Contains(got, "dev "+killed.net.Name()) {
		t.Errorf("answers go %s", got)
	}
	second := *h
	second.open(t, Config{Pool: []netip.Prefix{netip.MustParsePrefix("10.200.0.0/16")}})
	if got := way(); !strings.Contains(got, "dev "+killed.net.Name()) {
		t.Errorf("another responder took the rule: answers go %s", got)
	}
	if err := second.net.Close(); err != nil {
		t.Error(err)
	}
	h.ns.Run(t, "ip", "link", "del", killed.net.Name()) // as the kernel does when the process is killed
	if got := h.ns.Run(t, "ip", "rule"); !strings.Contains(got, "proto 74") {
		t.Fatalf("no rule is left: %s", got)
	}
	if got := way(); !strings.Contains(got, "dev eth0") {
		t.Errorf("behind a dead rule answers go %s", got)
	}
	h.open(t, Config{})
	if got := h.ns.Run(t, "ip", "rule"); got != before {
		t.Errorf("rules are %s, before %s", got, before)
	}
	if !h.net.answers.orphans[target] {
		t.Error("the target of the killed one is not known: its own connections would count as users")
	}
}

// A host's rule that goes before ours is found, and nothing is left behind.
func TestOriginalAddressesBehindAnotherRule(t *testing.T) {
	h, _ := wired(t)
	h.ns.Run(t, "ip", "route", "add", "default", "via", "10.5.0.2", "table", "100")
	h.ns.Run(t, "ip", "route", "add", "198.18.0.0/15", "dev", "lo", "table", "101")
	h.ns.Run(t, "ip", "rule", "add", "pref", "5", "to", "203.0.113.0/24", "lookup", "100")
	h.open(t, Config{Original: true})
	err := h.net.CheckTarget(netip.MustParseAddrPort("10.9.0.1:80"))
	if !errors.Is(err, ErrRouting) {
		t.Fatalf("got %v", err)
	}
	t.Log(err)
	if rules := h.ns.Run(t, "ip", "rule"); strings.Contains(rules, "proto 74") {
		t.Errorf("the refusal left a rule: %s", rules)
	}
}

// A copier may name a target while the responder ends: a rule made then would stay
// on the host.
func TestNoRuleBehindTheEnd(t *testing.T) {
	h, _ := wired(t)
	h.open(t, Config{Original: true})
	if err := h.net.answers.close(false); err != nil {
		t.Fatal(err)
	}
	if err := h.net.CheckTarget(netip.MustParseAddrPort("10.9.0.1:80")); !errors.Is(err, os.ErrClosed) {
		t.Errorf("got %v", err)
	}
	if rules := h.ns.Run(t, "ip", "rule"); strings.Contains(rules, "proto 74") {
		t.Errorf("a rule is left: %s", rules)
	}
}

// Looking for a new target's users may take long on a busy host: flows to the other
// targets must not wait for it.
func TestLeasesDoNotWaitForATargetsCheck(t *testing.T) {
	h, _ := wired(t)
	h.open(t, Config{Original: true})
	own := netip.MustParseAddr("10.9.0.1")
	if !h.net.own.has(own, h.net.device) {
		t.Error("the host's own address is not known")
	}
	h.net.own.until = time.Time{}
	h.net.device.asking.Lock() // as lead does; has would wait for ever
	defer h.net.device.asking.Unlock()
	if !h.net.own.has(own, h.net.device) {
		t.Error("the host's own address is forgotten")
	}
}

// When the device is lost no reset reaches the target: its sockets stay, with clients'
// addresses. The next responder must not take them for those of others.
func TestStartAfterTheDeviceWasLost(t *testing.T) {
	h, _ := wired(t)
	before := h.ns.Run(t, "ip", "rule")
	var err error
	if h.ns.Do(func() { h.net, err = Open(Config{Original: true}) }); err != nil {
		t.Fatal(err)
	}
	target, seen := h.remotes(t, "10.9.0.1:0")
	if err := h.net.CheckTarget(target); err != nil {
		t.Fatal(err)
	}
	h.awaitState(t, h.dial(t, netip.MustParseAddrPort("203.0.113.7:5555"), target, 0), Established)
	<-seen
	h.ns.Run(t, "ip", "link", "del", h.net.Name())
	select {
	case err := <-h.net.Failed():
		t.Log(err)
	case <-time.After(deadline):
		t.Fatal("the loss is not told")
	}
	if err := h.net.Close(); err != nil {
		t.Error(err)
	}
	h.open(t, Config{Original: true})
	if err := h.net.CheckTarget(target); err != nil {
		t.Error(err)
	}
	if err := h.net.Close(); err != nil {
		t.Error(err)
	}
	if got := h.ns.Run(t, "ip", "rule"); got != before {
		t.Errorf("rules are %s, before %s", got, before)
	}
}
