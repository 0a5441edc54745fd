//go:build netns

package e2e

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"flowtwin/internal/packet"
	"flowtwin/internal/packet/packettest"
	"flowtwin/internal/testnet"
)

// rawNet is where raw clients are: behind a TUN device on the clients' host.
const (
	rawNet    = "10.71.9.0/24"
	rawRouter = "10.71.9.1/24"
	rawAddr   = "10.71.9.2"
)

// A raw client speaks TCP to the online server by single packets, which it can make
// as no kernel would.
type raw struct {
	t             *testing.T
	tun           *os.File
	client, serve netip.AddrPort

	nxt packet.Seq // what it sends next
	ack packet.Seq // what it expects next
	una packet.Seq // what the server has

	window   int
	answers  bytes.Buffer
	finished bool // the server has closed
	heard    int  // packets of the server
}

// rawTun makes the device of raw clients and the routes to it.
func rawTun(t *testing.T, l *testnet.Lab) *os.File {
	t.Helper()
	f, err := l.Clients.OpenTun("raw0", unix.IFF_TUN)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	l.Clients.Run(t, "ip", "addr", "add", rawRouter, "dev", "raw0")
	l.Clients.Run(t, "ip", "link", "set", "raw0", "up")
	if err := l.Clients.Sysctl("net.ipv4.ip_forward", "1"); err != nil {
		t.Fatal(err)
	}
	if err := l.Router.Route(rawNet, "10.71.1.2"); err != nil {
		t.Fatal(err)
	}
	return f
}

// connect shakes hands, the client's numbers beginning with iss.
func (c *raw) connect(iss packet.Seq) {
	c.t.Helper()
	c.nxt, c.una = iss, iss
	c.send(packet.SYN, c.nxt, "")
	c.nxt = c.nxt.Add(1)
	c.until("a SYN-ACK", func() bool { return c.una == c.nxt })
	c.send(packet.ACK, c.nxt, "")
}

// send sends one segment, wherever it lies.
func (c *raw) send(flags packet.Flags, seq packet.Seq, text string) {
	c.t.Helper()
	p := packettest.Packet{Src: c.client, Dst: c.serve, Flags: flags, Seq: seq, Ack: c.ack, Window: 65535, Payload: []byte(text)}
	if flags == packet.SYN {
		p.Ack = 0
		p.Options = packettest.MSS(1400)
	}
	if _, err := c.tun.Write(p.Bytes()); err != nil {
		c.t.Fatal(err)
	}
}

// until reads what comes until cond holds.
func (c *raw) until(what string, cond func() bool) {
	c.t.Helper()
	_ = c.tun.SetReadDeadline(time.Now().Add(patience))
	b := make([]byte, 1<<16)
	var v packet.View
	for !cond() {
		n, err := c.tun.Read(b)
		if err != nil {
			c.t.Fatalf("waiting for %s: %v", what, err)
		}
		if v.Parse(b[:n], n) != packet.OK || v.DstPort != c.client.Port() {
			continue
		}
		c.take(&v)
	}
}

// take takes a packet of the server in.
func (c *raw) take(v *packet.View) {
	c.heard++
	c.una, c.window = v.Ack, int(v.Window)
	switch {
	case v.Flags&packet.RST != 0:
		c.t.Fatal("the server resets")
	case v.Flags&packet.SYN != 0:
		c.ack = v.Seq.Add(1)
	case v.Seq == c.ack:
		c.answers.Write(v.Payload)
		c.ack = c.ack.Add(v.SegLen())
		c.finished = c.finished || v.Flags&packet.FIN != 0
	}
}

// data sends the next bytes.
func (c *raw) data(text string) {
	c.t.Helper()
	c.send(packet.ACK|packet.PSH, c.nxt, text)
	c.nxt = c.nxt.Add(len(text))
}

// answered waits until the server has said so once more, and acknowledges it.
func (c *raw) answered(text string) {
	c.t.Helper()
	c.until(fmt.Sprintf("%q", text), func() bool { return c.una == c.nxt && bytes.HasSuffix(c.answers.Bytes(), []byte(text)) })
	c.answers.Reset()
	c.send(packet.ACK, c.nxt, "")
}

// say sends a line, which the server answers.
func (c *raw) say(text string) {
	c.t.Helper()
	c.data(text + "\n")
	c.answered("ok\n")
}

// question sends what the server only acknowledges, as it is.
func (c *raw) question(seq packet.Seq, text string) {
	c.t.Helper()
	heard := c.heard
	c.send(packet.ACK, seq, text)
	c.until("an ACK", func() bool { return c.heard > heard })
}

// leave closes the connection, and waits for the server to do the same.
func (c *raw) leave() {
	c.t.Helper()
	c.send(packet.FIN|packet.ACK, c.nxt, "")
	c.nxt = c.nxt.Add(1)
	c.until("the end", func() bool { return c.una == c.nxt && c.finished })
	c.send(packet.ACK, c.nxt, "")
}
