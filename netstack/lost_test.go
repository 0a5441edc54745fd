package netstack

import (
	"errors"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"flowtwin/internal/packet"
	"flowtwin/internal/testnet"
)

// A responder that was killed leaves sockets behind at the target. The next one
// resets each as soon as it says something: by itself, or by a keep-alive.
func TestSocketsOfKilledResponderAreReset(t *testing.T) {
	for _, addr := range []string{"10.9.0.1:0", "[fd09::1]:0"} {
		h := open(t, Config{})
		conns := make(chan *net.TCPConn, 2)
		target := h.serve(t, addr, func(c *net.TCPConn) { conns <- c })
		for i := range 2 {
			h.awaitState(t, h.dial(t, client(i), target, 0), Established)
		}
		speaker, listener := <-conns, <-conns
		h.lose(func(*packet.View) bool { return true }) // from here on it is dead
		if err := h.net.Close(); err != nil {
			t.Fatal(err)
		}
		h.open(t, Config{})
		if _, err := speaker.Write([]byte("hello")); err != nil {
			t.Errorf("%s: write: %v", addr, err)
		}
		keepAlive := net.KeepAliveConfig{Enable: true, Idle: time.Second, Interval: time.Second, Count: 9}
		if err := listener.SetKeepAliveConfig(keepAlive); err != nil {
			t.Fatal(err)
		}
		for _, c := range []*net.TCPConn{speaker, listener} {
			_ = c.SetDeadline(time.Now().Add(deadline))
			if _, err := io.Copy(io.Discard, c); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("%s: the target's socket ends with %v, want a reset", addr, err)
			}
		}
		if st := h.net.Stats(); st.Strays < 2 { // or more, where one says it again before its reset comes
			t.Errorf("%s: %d strays, want at least one for each socket", addr, st.Strays)
		}
	}
}

// A device that is taken away or set down is told of, and Close still works.
func TestLostDevice(t *testing.T) {
	for _, what := range [][]string{{"link", "del"}, {"link", "set", "down", "dev"}} {
		h := &host{ns: testnet.New(t, "netstack")}
		if err := h.ns.AddAddr("lo", "10.9.0.1/24"); err != nil {
			t.Fatal(err)
		}
		var err error
		h.ns.Do(func() { h.net, err = Open(Config{Shards: 2}) })
		if err != nil {
			t.Fatal(err)
		}
		target := h.serve(t, "10.9.0.1:0", echo)
		c := h.dial(t, client(1), target, 0)
		h.awaitState(t, c, Established)
		select {
		case err := <-h.net.Failed():
			t.Fatalf("failed too early: %v", err)
		default:
		}
		h.ns.Run(t, "ip", append(what, h.net.Name())...)
		_, _ = c.Write([]byte("x"))
		select {
		case err := <-h.net.Failed():
			if !strings.Contains(err.Error(), h.net.Name()) {
				t.Errorf("%v does not name the device", err)
			}
			t.Log(err)
		case <-time.After(deadline):
			t.Errorf("%q is not told", what)
		}
		if err := h.net.Close(); err != nil {
			t.Error(err)
		}
	}
}

// An orderly end is no loss.
func TestCloseIsNoLoss(t *testing.T) {
	h := open(t, Config{})
	if err := h.net.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-h.net.Failed():
		t.Error(err)
	default:
	}
}
