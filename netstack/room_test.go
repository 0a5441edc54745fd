package netstack

import (
	"bytes"
	"io"
	"net"
	"testing"
)

// A target that takes connections and does not read holds up what is written to all
// of them: thousands of sessions, copies most of all, must not take a megabyte each.
func TestSendBuffersShareABound(t *testing.T) {
	const conns = 1500
	h := open(t, Config{})
	got := make(chan int64, conns)
	target := h.serve(t, "10.9.0.1:0", func(c *net.TCPConn) {
		n, _ := io.Copy(io.Discard, c)
		got <- n
		_ = c.Close()
	})
	up := 0
	all := make([]*Conn, conns)
	for i := range all {
		all[i] = h.dial(t, client(i), target, 0)
		all[i].Session = func(c *Conn) {
			if c.State() == Established {
				c.Session = func(*Conn) {}
				up++
			}
		}
	}
	h.await(t, "all connections", func() bool { return up == conns })
	var sum int64
	for _, c := range all {
		sum += c.ep.SocketOptions().GetSendBufferSize()
	}
	if last := all[conns-1].ep.SocketOptions().GetSendBufferSize(); last > sendRoom/(conns-1) || last < leastSendBuffer {
		t.Errorf("the last of %d conns may hold %d bytes", conns, last)
	}
	if sum > 3*sendRoom { // the shares of 256 conns, and harmonic ones from there on
		t.Errorf("%d conns may hold %d bytes", conns, sum)
	}

	// The least there is must do for a body of any length.
	c := all[0]
	c.ep.SocketOptions().SetSendBufferSize(leastSendBuffer, true)
	s := &sender{data: bytes.Repeat([]byte("x"), 3_000_000), fin: true}
	c.Session = s.event
	c.mark()
	h.await(t, "the end", func() bool { return s.eof })
	if n := <-got; n != 3_000_000 {
		t.Errorf("%d bytes have arrived", n)
	}
}

func TestSendBufferOfMany(t *testing.T) {
	for conns, want := range map[int]int64{0: sendBuffer, 256: sendBuffer, 1024: 64 << 10, 4096: leastSendBuffer, 100_000: leastSendBuffer} {
		if got := sendBufferOf(conns); got != want {
			t.Errorf("with %d conns: %d, want %d", conns, got, want)
		}
	}
}
