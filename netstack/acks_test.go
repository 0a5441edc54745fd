package netstack

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"flowtwin/internal/packet"
)

// An ACK rides on the next request: a request costs one packet, not two.
func TestAcksRideOnRequests(t *testing.T) {
	const requests = 500
	h := open(t, Config{})
	target := h.serve(t, "10.9.0.1:0", echo)
	c := h.dial(t, client(1), target, 0)
	s := &sender{}
	c.Session = s.event
	h.awaitState(t, c, Established)
	for i := range requests {
		s.data = []byte("request")
		s.event(c)
		h.await(t, "echo", func() bool { return s.got == 7*(i+1) })
	}
	if n := h.net.Stats().TunPacketsOut; n > requests*3/2 {
		t.Errorf("%d packets for %d requests", n, requests)
	}
	c.Release()
}

// An ACK that finds nothing to ride on leaves by itself.
func TestHeldAckLeaves(t *testing.T) {
	h := open(t, Config{})
	conns := make(chan *net.TCPConn, 1)
	target := h.serve(t, "10.9.0.1:0", func(c *net.TCPConn) {
		_, _ = c.Write([]byte("greeting"))
		conns <- c
	})
	s := &sender{}
	c := h.dial(t, client(1), target, 0)
	c.Session = s.event
	h.await(t, "greeting", func() bool { return s.got == 8 })
	server := <-conns
	h.await(t, "acknowledgement", func() bool { return unsent(t, server) == 0 })
	_ = server.Close()
	c.Release()
}

// So does one that no event of the owner's sets free, long after the handshake.
func TestHeldAckLeavesByItsTimer(t *testing.T) {
	n, r, w := unplugged(t)
	l, err := n.Acquire(client(1), false)
	if err != nil {
		t.Fatal(err)
	}
	s := n.stacks[0]
	c, err := s.Dial(l, netip.MustParseAddrPort("10.0.0.1:80"), 0)
	if err != nil {
		t.Fatal(err)
	}
	syn := w.take(t, 1)[0]
	r.take(answer(syn, packet.SYN|packet.ACK, 100), 0)
	for c.State() == Connecting {
		<-s.Wake()
		s.Ready(nil)
	}
	s.Ready(nil)
	s.Ready(nil) // the end of the handshake leaves at the latest now
	w.take(t, 1)
	for i := range 3 {
		b := answer(syn, packet.ACK|packet.PSH, 101+uint32(i))
		binary.BigEndian.PutUint16(b[2:], uint16(len(b))+1) // a byte of payload, which nobody reads
		r.take(b, 0)
		if got := w.take(t, 1)[0]; binary.BigEndian.Uint32(got[virtioHdr+ip4Header+8:]) != 102+uint32(i) {
			t.Errorf("byte %d: acknowledged %d", i, binary.BigEndian.Uint32(got[virtioHdr+ip4Header+8:]))
		}
	}
	c.Abort()
	c.Release()
	s.Ready(nil)
}

// A probe or a retransmission does not take a held ACK along: the target reads no
// ACK of a segment that it has already. The ACK leaves before it.
func TestOldSegmentDoesNotSwallowAck(t *testing.T) {
	var h heldAcks
	h.init(65535, func() {})
	defer h.takeAll(nil)
	c := &Conn{}
	var queue []outPacket
	send := func(flags packet.Flags, seq, ack uint32, payload int) (sent []uint32) {
		t.Helper()
		pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{
			ReserveHeaderBytes: header.TCPMinimumSize, Payload: buffer.MakeWithData(make([]byte, payload)),
		})
		defer pkt.DecRef()
		b := header.TCP(pkt.TransportHeader().Push(header.TCPMinimumSize))
		b.Encode(&header.TCPFields{SeqNum: seq, AckNum: ack, DataOffset: header.TCPMinimumSize, Flags: header.TCPFlags(flags)})
		queue = queue[:0]
		if !h.hold(c, pkt, b, &queue) {
			queue = append(queue, outPacket{c, pkt.IncRef()})
		}
		for _, p := range queue {
			sent = append(sent, header.TCP(p.pkt.TransportHeader().Slice()).AckNumber())
			p.pkt.DecRef()
		}
		return sent
	}
	const data = packet.ACK | packet.PSH
	for i, p := range []struct {
		flags    packet.Flags
		seq, ack uint32
		payload  int
		sent     []uint32
	}{
		{packet.SYN, 1<<32 - 3, 0, 0, []uint32{0}},
		{data, 1<<32 - 2, 1, 10, []uint32{1}},
		{packet.ACK, 8, 2, 0, nil},             // held
		{data, 8, 3, 5, []uint32{3}},           // rides on new bytes
		{packet.ACK, 13, 4, 0, nil},            // held
		{data, 8, 5, 5, []uint32{4, 5}},        // a retransmission
		{packet.ACK, 13, 6, 0, nil},            // held
		{packet.ACK, 12, 6, 0, []uint32{6, 6}}, // a probe of a closed window
		{packet.ACK, 13, 7, 0, nil},            // held
		{data | packet.FIN, 13, 7, 1, []uint32{7}},
	} {
		if sent := send(p.flags, p.seq, p.ack, p.payload); !slices.Equal(sent, p.sent) {
			t.Errorf("packet %d: ACKs %d left, want %d", i, sent, p.sent)
		}
	}
}

// unsent returns how many bytes the kernel has not seen acknowledged.
func unsent(t *testing.T, c *net.TCPConn) (n int) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if cerr := raw.Control(func(fd uintptr) { n, err = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) }); cerr != nil || err != nil {
		t.Fatal(cerr, err)
	}
	return n
}

// lossy drops the packets to the TUN that drop chooses.
type lossy struct {
	io.Writer
	drop func(v *packet.View) bool
	view packet.View
}

func (l *lossy) Write(b []byte) (int, error) {
	if l.view.Parse(b[virtioHdr:], 0) == packet.OK && l.drop(&l.view) {
		return len(b), nil
	}
	return l.Writer.Write(b)
}

func (h *host) lose(drop func(v *packet.View) bool) {
	o := h.net.stacks[0].out
	o.writing.Lock()
	defer o.writing.Unlock()
	o.tun = &lossy{Writer: o.tun, drop: drop}
}

// Our last ACK is lost and the endpoint gone: the target's FIN comes again and is
// answered all the same, so that its socket ends too.
func TestLostLastAckIsRepeated(t *testing.T) {
	for _, addr := range []string{"10.9.0.1:0", "[fd09::1]:0"} {
		h := open(t, Config{})
		fin, lost := false, 0
		h.lose(func(v *packet.View) bool {
			fin = fin || v.Flags.Has(packet.FIN)
			if drop := fin && v.Flags == packet.ACK; drop {
				lost++
				return true
			}
			return false
		})
		target := h.serve(t, addr, echo)
		s := &sender{data: []byte("x"), fin: true}
		c := h.dial(t, client(1), target, 0)
		c.Session = s.event
		h.await(t, "EOF", func() bool { return s.eof })
		c.Release()
		h.awaitEmpty(t)
		h.await(t, "the end of the target's socket", func() bool {
			return strings.TrimSpace(h.ns.Run(t, "ss", "-Htan", "state", "last-ack")) == ""
		})
		if lost == 0 || h.net.Stats().Strays == 0 {
			t.Errorf("%s: %d ACKs lost, stats %+v: nothing was tested", addr, lost, h.net.Stats())
		}
	}
}

// A lossy path: nothing is lost or doubled, and Acked tells the truth.
func TestLossyPath(t *testing.T) {
	for _, mtu := range []int{1500, 65535} {
		h := open(t, Config{MTU: mtu})
		n := 0
		h.lose(func(*packet.View) bool { n++; return n%17 == 0 })
		target := h.serve(t, "10.9.0.1:0", echo)
		const size = 2 << 20
		s := &sender{data: bytes.Repeat([]byte("z"), size), fin: true}
		c := h.dial(t, client(1), target, 0)
		c.Session = s.event
		h.await(t, "echo", func() bool { return s.eof })
		if s.got != size || c.Acked() != size {
			t.Errorf("mtu %d: echoed %d, acked %d, want %d", mtu, s.got, c.Acked(), size)
		}
		c.Release()
		h.awaitEmpty(t)
	}
}

// The target's keep-alive probes are answered without anybody's help.
func TestKeepAliveProbesAreAnswered(t *testing.T) {
	h := open(t, Config{})
	conns := make(chan *net.TCPConn, 1)
	target := h.serve(t, "10.9.0.1:0", func(c *net.TCPConn) {
		if err := c.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: time.Second, Interval: time.Second, Count: 1}); err != nil {
			t.Error(err)
		}
		conns <- c
	})
	c := h.dial(t, client(1), target, 0)
	h.awaitState(t, c, Established)
	server := <-conns
	out := h.net.Stats().TunPacketsOut
	h.await(t, "two answers", func() bool { return h.net.Stats().TunPacketsOut >= out+2 })
	if _, err := server.Write([]byte("alive")); err != nil {
		t.Error(err)
	}
	s := &sender{}
	c.Session = s.event
	h.await(t, "the write", func() bool { return s.got == 5 })
	c.Release()
	_ = server.Close()
	h.awaitEmpty(t)
}

func TestSlotsGrowByInnerAddresses(t *testing.T) {
	var s slots
	var added []byte
	grow := func(last byte) error { added = append(added, last); return nil }
	var conns []*Conn
	for i := range maxInner * innerPorts {
		c := &Conn{}
		if ok, err := s.put(c, grow); !ok || err != nil {
			t.Fatalf("slot %d: %v, %v", i, ok, err)
		}
		if c.slot.port() == 0 || s.at(c.slot) != c {
			t.Fatalf("slot %d is %x", i, c.slot)
		}
		conns = append(conns, c)
	}
	if len(added) != maxInner {
		t.Errorf("%d inner addresses", len(added))
	}
	if ok, _ := s.put(&Conn{}, grow); ok {
		t.Error("one more than there is room for")
	}
	for _, c := range conns {
		s.remove(c)
	}
	if s.count != 0 || len(s.all()) != 0 {
		t.Errorf("%d left", s.count)
	}
	c := &Conn{}
	if ok, err := s.put(c, grow); !ok || err != nil || len(added) != maxInner {
		t.Errorf("after removal: %v, %v", ok, err)
	}
}
