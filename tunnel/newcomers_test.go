package tunnel

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
)

// stranger opens n connections from the given host and proves nothing; it
// returns those that were let in.
func stranger(t *testing.T, from string, to netip.AddrPort, n int) (conns []*quic.Conn) {
	t.Helper()
	socket, err := listenUDP("udp4", &net.UDPAddr{IP: net.ParseIP(from)})
	if err != nil {
		t.Fatal(err)
	}
	transport := &quic.Transport{Conn: socket}
	t.Cleanup(func() { _, _ = transport.Close(), socket.Close() })
	for range n {
		conn, err := transport.Dial(testContext(t), net.UDPAddrFromAddrPort(to), clientTLS(), quicConfig(0, 1, returnsWindow))
		if err == nil {
			conns = append(conns, conn)
		} else if got := handshakeError(err).Error(); !strings.Contains(got, "takes no more connections now") {
			t.Errorf("refused with %q", got)
		}
	}
	return conns
}

// Strangers that take all places must not keep a copier out.
func TestStrangersDoNotLockCopiersOut(t *testing.T) {
	checkLeaks(t)
	id := testIdentity(t)
	s := listen(t, ServerConfig{Identity: id})
	first := stranger(t, "127.0.0.2", s.Addr(), maxSource+1)
	// On a busy machine the last one comes so late that the first one gives way to it.
	if n := s.newcomers.places(); len(first) < maxSource || n > maxSource {
		t.Errorf("%d connections of one host were let in, and %d have a place, want %d", len(first), n, maxSource)
	}
	second := stranger(t, "127.0.0.3", s.Addr(), maxSource+1)
	if n := s.newcomers.places(); n > maxUnproven {
		t.Errorf("%d newcomers", n)
	}
	c := newClient(t, ClientConfig{Invite: id.Invite([]string{s.Addr().String()}, time.Time{})})
	if err := c.Connect(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Accept(testContext(t)); err != nil {
		t.Fatal(err)
	}
	conn := first[0]
	<-conn.Context().Done()
	var app *quic.ApplicationError
	if err := context.Cause(conn.Context()); !errors.As(err, &app) || app.ErrorCode != codeBusy {
		t.Errorf("the oldest stranger was closed with %v, want code %d", err, codeBusy)
	}
	for _, conn := range append(first, second...) {
		_ = conn.CloseWithError(0, "")
	}
	eventually(t, "places are free again", func() bool {
		s.newcomers.mu.Lock()
		defer s.newcomers.mu.Unlock()
		return len(s.newcomers.list) == 0 && s.newcomers.all == 0
	})
}

// places returns how many there are that have a place.
func (c *newcomers) places() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.list)
}

// Addresses are validated before strangers can take places in another's name.
func TestAddressesAreValidated(t *testing.T) {
	checkLeaks(t)
	s := listen(t, ServerConfig{Identity: testIdentity(t)})
	conns := stranger(t, "127.0.0.2", s.Addr(), validateFrom)
	if !s.transport.VerifySourceAddress(s.socket.LocalAddr()) {
		t.Error("addresses are not validated")
	}
	for _, conn := range conns {
		_ = conn.CloseWithError(0, "")
	}
	eventually(t, "it is over", func() bool { return !s.transport.VerifySourceAddress(s.socket.LocalAddr()) })
}

func TestNewcomersPlaces(t *testing.T) {
	var c newcomers
	now := time.Unix(1000, 0)
	admit := func(addr string) (*newcomer, error) {
		n := &newcomer{source: sourceOf(netip.MustParseAddr(addr)), since: now}
		_, err := c.admit(n)
		return n, err
	}
	lone, err := admit("203.0.113.1") // older than all
	if err != nil {
		t.Fatal(err)
	}
	var old []*newcomer
	for range maxSource {
		n, err := admit("192.0.2.1")
		if err != nil {
			t.Fatal(err)
		}
		old = append(old, n)
	}
	if _, err := admit("192.0.2.1"); err == nil {
		t.Error("a host has got more places than it may")
	}
	now = now.Add(patience)
	if _, err := admit("192.0.2.1"); err != nil {
		t.Errorf("the oldest of the same host did not give way: %v", err)
	}
	if !old[0].out || old[1].out || c.arrived(old[0], nil) || !c.arrived(old[1], nil) {
		t.Error("another one than the oldest gave way")
	}
	for i := range maxUnproven - maxSource { // a network of one host's addresses
		if _, err := admit(netip.AddrFrom16([16]byte{0x20, 1, 15: byte(i)}).String()); err != nil {
			t.Fatal(err)
		}
	}
	if len(c.list) != maxUnproven || !old[1].out || old[2].out {
		t.Error("the place was not taken from the oldest of the host with most")
	}
	if _, err := admit("2001::ff"); err == nil {
		t.Error("an IPv6 host has got a place for each of its addresses")
	}
	if n, err := admit("198.51.100.1"); err != nil || n.out {
		t.Errorf("another host got no place: %v", err)
	}
	if len(c.list) != maxUnproven {
		t.Errorf("%d places taken, want %d", len(c.list), maxUnproven)
	}
	if lone.out {
		t.Error("a host with one connection had to give way to hosts with many")
	}
	for _, n := range old {
		n.left()
		n.left()
	}
	// Two of old had given way, and one of the IPv6 host has and is not over yet.
	if want := maxUnproven - len(old) + 2; len(c.list) != want || c.all != want+1 {
		t.Errorf("%d places taken and %d connections, want %d and %d", len(c.list), c.all, want, want+1)
	}
}

// Without a proof nobody may fill the lanes' windows.
func TestNoLaneBeforeTheProof(t *testing.T) {
	s := listen(t, ServerConfig{Identity: testIdentity(t)})
	conn, _ := rawCopier(t, s.Addr().String())
	stream, err := conn.OpenUniStream()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Write(preamble(0)); err != nil {
		t.Fatal(err)
	}
	<-conn.Context().Done()
	var app *quic.ApplicationError
	if err := context.Cause(conn.Context()); !errors.As(err, &app) || app.ErrorCode != codeProtocol || !strings.Contains(app.ErrorMessage, "before the proof") {
		t.Errorf("closed with %v, want code %d", err, codeProtocol)
	}
}
