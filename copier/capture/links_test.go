package capture

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"flowtwin/internal/testnet"
)

// An interface that goes down and comes back is captured again, and the log says
// so once each time.
func TestInterfaceDownAndUp(t *testing.T) {
	for name, names := range map[string][]string{"bound": {"eth0"}, "all": nil} {
		t.Run(name, func(t *testing.T) {
			client, server := pair(t)
			serve(t, server, "10.9.0.2:80", nil)
			logged := newMessages()
			tp := startTap(t, openIn(t, server, Config{Matches: serverAt("10.9.0.2:80"), Interfaces: names, Log: logged.log()}))
			request(t, client, "10.9.0.2:80", []byte("before"))
			tp.until(t, fins(1))

			server.Run(t, "ip", "link", "set", "eth0", "down")
			logged.await(t, "is down", 1)
			server.Run(t, "ip", "link", "set", "eth0", "up")
			logged.await(t, "capturing on interface", 1)
			request(t, client, "10.9.0.2:80", []byte("after"))
			tp.until(t, fins(2))
			logged.await(t, "is down", 1)
			if n := strings.Count(logged.buf.String(), "\n"); n != 2 {
				t.Errorf("%d messages, want 2: %s", n, &logged.buf)
			}
		})
	}
}

// Where all are captured, what was removed or went into a bridge is not down.
func TestInterfacesThatAreCapturedNoLonger(t *testing.T) {
	_, server := pair(t)
	logged := newMessages()
	openIn(t, server, Config{Matches: serverAt("10.9.0.2:80"), Log: logged.log()})
	server.Run(t, "ip", "link", "add", "br0", "type", "bridge")
	server.Run(t, "ip", "link", "set", "br0", "up")
	logged.await(t, "capturing on interface", 1)
	server.Run(t, "ip", "link", "set", "eth0", "master", "br0")
	logged.await(t, "part of another one", 1)
	server.Run(t, "ip", "link", "del", "br0")
	logged.await(t, "is gone", 1)
	logged.await(t, "capturing on interface", 2)
	if text := logged.buf.String(); strings.Contains(text, "WARN") || strings.Count(text, "\n") != 4 {
		t.Errorf("logged %s", text)
	}
}

// A VPN interface that is removed and made again is another one by the same name.
func TestInterfaceIsMadeAgain(t *testing.T) {
	for rings := 1; rings <= 2; rings++ {
		client, server := pair(t)
		logged := newMessages()
		set := openIn(t, server, Config{
			Matches: serverAt("10.9.0.2:80"), Interfaces: []string{"eth0"}, Rings: rings, Log: logged.log(),
		})
		tp := startTap(t, set)
		serve(t, server, "10.9.0.2:80", nil)
		request(t, client, "10.9.0.2:80", []byte("before"))
		before := len(tp.until(t, fins(1)))

		server.Run(t, "ip", "link", "del", "eth0")
		logged.await(t, "is gone, capture on it waits", 1)
		testnet.Link(t, client, "eth0", "10.9.0.1/24", server, "eth0", "10.9.0.2/24")
		logged.await(t, "capturing on interface", 1)
		request(t, client, "10.9.0.2:80", []byte("after"))
		all := tp.until(t, fins(2))
		if len(all) <= before {
			t.Errorf("read %d packets, then %d", before, len(all))
		}
		tp.until(t, func(all []taken) string { // the last ACK may be in a block of its own
			var n uint64
			for i := range rings {
				n += set.Ring(i).Stats().Packets
			}
			if n != uint64(len(all)) {
				return fmt.Sprintf("kernel counted %d packets, read %d", n, len(all))
			}
			return ""
		})
	}
}

// What the responder replays through its TUN device on the same host must not be
// captured, also when the device appears later; another new interface must be.
func TestAllFollowsInterfaces(t *testing.T) {
	client, server := pair(t)
	logged := newMessages()
	set := openIn(t, server, Config{Matches: []Match{{Port: 80}}, Log: logged.log()})
	tp := startTap(t, set)
	serve(t, server, ":80", nil)

	testnet.Link(t, client, "eth1", "10.9.1.1/24", server, "flowtwin0", "10.9.1.2/24")
	testnet.Link(t, client, "eth2", "10.9.2.1/24", server, "eth2", "10.9.2.2/24")
	logged.await(t, "iface=eth2", 1)
	request(t, client, "10.9.1.2:80", []byte("replayed"))
	request(t, client, "10.9.2.2:80", []byte("from a client"))
	for _, p := range tp.until(t, fins(1)) {
		if p.view.Src.String() == "10.9.1.1" || p.view.Dst.String() == "10.9.1.1" {
			t.Fatal("captured on flowtwin0")
		}
	}
	if got, want := set.Interfaces(), []string{"lo", "eth0", "eth2"}; !slices.Equal(got, want) {
		t.Errorf("interfaces %v, want %v", got, want)
	}
}

// A host whose address is on a bridge sees what its port receives twice.
func TestBridgePortsAreLeftToTheBridge(t *testing.T) {
	client, server := pair(t)
	for _, args := range []string{
		"link add br0 type bridge", "link set eth0 master br0", "addr flush dev eth0",
		"addr add 10.9.0.2/24 dev br0", "link set br0 up",
	} {
		server.Run(t, "ip", strings.Fields(args)...)
	}
	serve(t, server, "10.9.0.2:80", nil)
	set := openIn(t, server, Config{Matches: serverAt("10.9.0.2:80")})
	tp := startTap(t, set)
	body := randomBytes(t, 100_000)
	request(t, client, "10.9.0.2:80", body)
	carried := 0
	for _, p := range tp.until(t, fins(1)) {
		if p.ToServer {
			carried += p.view.PayloadLen
		}
	}
	if carried != len(body) {
		t.Errorf("captured %d bytes of a request of %d; on %v", carried, len(body), set.Interfaces())
	}
}

func TestOnlyNamedInterfaces(t *testing.T) {
	client, server := pair(t)
	testnet.Link(t, client, "eth1", "10.9.1.1/24", server, "eth1", "10.9.1.2/24")
	testnet.Link(t, client, "eth2", "10.9.2.1/24", server, "eth2", "10.9.2.2/24")
	tp := startTap(t, openIn(t, server, Config{Matches: []Match{{Port: 80}}, Interfaces: []string{"eth0", "eth2"}}))
	serve(t, server, ":80", nil)
	for _, addr := range []string{"10.9.1.2:80", "10.9.0.2:80", "10.9.2.2:80"} {
		request(t, client, addr, []byte("x"))
	}
	names := map[string]bool{}
	for _, p := range tp.until(t, fins(2)) {
		server.Do(func() {
			if ifc, err := net.InterfaceByIndex(int(p.Iface)); err == nil {
				names[ifc.Name] = true
			}
		})
	}
	if !names["eth0"] || !names["eth2"] || len(names) != 2 {
		t.Errorf("captured on %v, want eth0 and eth2", names)
	}
}

// A service address moves to this host and away again: its packets are taken as a
// local server's, once, or as one's that only pass.
func TestServerAddressMoves(t *testing.T) {
	_, server := pair(t)
	logged := newMessages()
	set := openIn(t, server, Config{Matches: serverAt("10.9.0.77:80"), Log: logged.log()})
	tp := startTap(t, set)
	logged.await(t, "server=10.9.0.77:80", 1)

	server.Run(t, "ip", "addr", "add", "10.9.0.77/32", "dev", "eth0")
	await(t, func() bool { return !set.Ring(0).match.by.Load().anyWay })
	serve(t, server, "10.9.0.77:80", nil)
	body := randomBytes(t, 10_000)
	request(t, server, "10.9.0.77:80", body) // through lo, where each packet is seen twice
	carried := 0
	for _, p := range tp.until(t, fins(1)) {
		if p.ToServer {
			carried += p.view.PayloadLen
		}
	}
	if carried != len(body) {
		t.Errorf("captured %d bytes of %d", carried, len(body))
	}

	server.Run(t, "ip", "addr", "del", "10.9.0.77/32", "dev", "eth0")
	logged.await(t, "server=10.9.0.77:80", 2)
}

// A mirror port's frames are for others; the interface takes them as long as it is
// asked to, also when it is made again.
func TestOthersFramesAreTakenWhileCapturing(t *testing.T) {
	client, server := pair(t)
	promiscuous := func() (n int) {
		server.Do(func() {
			if l, err := netlink.LinkByName("eth0"); err == nil {
				n = l.Attrs().Promisc
			}
		})
		return n
	}
	logged := newMessages()
	set := openIn(t, server, Config{Matches: serverAt("10.8.0.2:80"), Interfaces: []string{"eth0"}, Log: logged.log()})
	if promiscuous() != 1 {
		t.Error("eth0 does not take others' frames")
	}
	server.Run(t, "ip", "link", "del", "eth0")
	logged.await(t, "is gone, capture on it waits", 1)
	testnet.Link(t, client, "eth0", "10.9.0.1/24", server, "eth0", "10.9.0.2/24")
	await(t, func() bool { return promiscuous() == 1 })

	server.Run(t, "ip", "addr", "add", "10.8.0.2/32", "dev", "eth0")
	await(t, func() bool { return promiscuous() == 0 })
	server.Run(t, "ip", "addr", "del", "10.8.0.2/32", "dev", "eth0")
	await(t, func() bool { return promiscuous() == 1 })
	if err := set.Close(); err != nil {
		t.Fatal(err)
	}
	if promiscuous() != 0 {
		t.Error("eth0 still takes others' frames after Close")
	}
}

// await waits for cond.
func await(t *testing.T, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !cond(); <-time.After(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it does not happen")
		}
	}
}

// What is opened for a namespace is opened inside it.
func TestNetNS(t *testing.T) {
	client, server := pair(t)
	serve(t, server, "10.9.0.2:80", nil)
	set := openIn(t, client, Config{Matches: []Match{{Port: 80}}, NetNS: "/run/netns/" + server.Name(), Interfaces: []string{"eth0"}})
	tp := startTap(t, set)
	request(t, client, "10.9.0.2:80", []byte("x"))
	for _, p := range tp.until(t, fins(1)) {
		if p.ToServer != (p.view.DstPort == 80) { // on the client's side it would be the other way
			t.Error("captured outside")
		}
	}
	if !slices.Contains(set.Addrs(), netip.MustParseAddr("10.9.0.2")) || slices.Contains(set.Addrs(), netip.MustParseAddr("10.9.0.1")) {
		t.Errorf("addresses %v", set.Addrs())
	}
}

// Who forgets the server's address at a mirror port is told why nothing is copied.
func TestMatchWithoutAddressAtAMirrorPort(t *testing.T) {
	_, server := pair(t)
	logged := newMessages()
	const warning = "interface has no address"
	openIn(t, server, Config{Matches: []Match{{Port: 80}}, Interfaces: []string{"eth0"}, Log: logged.log()})
	openIn(t, server, Config{Matches: []Match{{Port: 80}}, Log: logged.log()})
	server.Run(t, "ip", "addr", "flush", "dev", "eth0", "scope", "global")
	openIn(t, server, Config{Matches: serverAt("10.9.0.2:80"), Interfaces: []string{"eth0"}, Log: logged.log()})
	logged.mu.Lock()
	early := strings.Contains(logged.buf.String(), warning)
	logged.mu.Unlock()
	if early {
		t.Errorf("warned without a reason: %s", &logged.buf)
	}
	openIn(t, server, Config{Matches: []Match{{Port: 80}}, Interfaces: []string{"eth0"}, Log: logged.log()})
	logged.await(t, warning, 1)
}

// Where interfaces come and go, many a list is said to lack something.
func TestListIsAskedForAgain(t *testing.T) {
	asked := 0
	list := func(interrupted int) func() ([]int, error) {
		asked = 0
		return func() ([]int, error) {
			if asked++; asked <= interrupted {
				return []int{asked}, fmt.Errorf("list: %w", netlink.ErrDumpInterrupted)
			}
			return []int{asked, asked}, nil
		}
	}
	if got, err := whole(list(2)); err != nil || !slices.Equal(got, []int{3, 3}) {
		t.Errorf("a list interrupted twice is %v, %v", got, err)
	}
	if _, err := whole(list(dumps)); !errors.Is(err, netlink.ErrDumpInterrupted) || asked != dumps {
		t.Errorf("asked %d times: %v", asked, err)
	}
	other := errors.New("no more")
	if _, err := whole(func() ([]int, error) { asked++; return nil, other }); !errors.Is(err, other) || asked != dumps+1 {
		t.Errorf("asked %d times: %v", asked-dumps, err)
	}
}
