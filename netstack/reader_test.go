package netstack

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"sync"
	"testing"
	"time"

	"flowtwin/internal/packet"
)

// wire is a TUN queue that keeps what is written to it.
type wire struct {
	mu      sync.Mutex
	packets [][]byte
}

func (w *wire) Read([]byte) (int, error) { panic("nobody reads") }

func (w *wire) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.packets = append(w.packets, bytes.Clone(b))
	return len(b), nil
}

// take waits for at least n packets and returns all that were written since the
// last call.
func (w *wire) take(tb testing.TB, n int) [][]byte {
	tb.Helper()
	end, poll := time.After(deadline), time.NewTicker(time.Millisecond)
	defer poll.Stop()
	for {
		w.mu.Lock()
		if len(w.packets) >= n {
			defer w.mu.Unlock()
			p := w.packets
			w.packets = nil
			return p
		}
		w.mu.Unlock()
		select {
		case <-poll.C:
		case <-end:
			tb.Fatalf("waited in vain for %d packets", n)
		}
	}
}

// unplugged returns a Net without a device, its reader, and what it writes. No
// privileges are needed.
func unplugged(tb testing.TB) (*Net, *reader, *wire) {
	tb.Helper()
	cfg := Config{Pool: []netip.Prefix{netip.MustParsePrefix("198.18.0.0/15"), netip.MustParsePrefix("2001:2::/48")}}
	if err := cfg.fill(); err != nil {
		tb.Skip(err)
	}
	v4, v6, err := newPools(cfg.Pool)
	if err != nil {
		tb.Fatal(err)
	}
	n, w := &Net{cfg: cfg, began: time.Now()}, &wire{}
	n.alloc = newAllocator(v4, v6, 1, n.now)
	s, err := newStack(n, 0, w)
	if err != nil {
		tb.Fatal(err)
	}
	n.stacks = []*Stack{s}
	tb.Cleanup(s.close)
	r := newReader(n, w)
	tb.Cleanup(r.void.Release)
	return n, r, w
}

// answer turns a packet to the target around: a packet of the target with these
// flags that acknowledges it.
func answer(sent []byte, flags packet.Flags, seq uint32) []byte {
	b := bytes.Clone(sent[virtioHdr:])
	at, addr := ip4Header, 12
	size := 4
	if b[0]>>4 == 6 {
		at, addr, size = ip6Header, 8, 16
	}
	src, dst := bytes.Clone(b[addr:addr+size]), bytes.Clone(b[addr+size:addr+2*size])
	copy(b[addr:], dst)
	copy(b[addr+size:], src)
	t := b[at:]
	sport, dport := binary.BigEndian.Uint16(t), binary.BigEndian.Uint16(t[2:])
	binary.BigEndian.PutUint16(t, dport)
	binary.BigEndian.PutUint16(t[2:], sport)
	binary.BigEndian.PutUint32(t[8:], binary.BigEndian.Uint32(t[4:])+1)
	binary.BigEndian.PutUint32(t[4:], seq)
	t[13] = byte(flags)
	return b
}

// A handshake without a kernel: what leaves has outward addresses and an IP
// checksum, and what comes is told to the tap.
func TestHandshakeWithoutKernel(t *testing.T) {
	for _, target := range []string{"10.0.0.1:80", "[fd00::1]:80"} {
		n, r, w := unplugged(t)
		s := n.stacks[0]
		taps := 0
		s.SetTap(func(user uint64, _ int64, headers []byte, payload int) {
			if taps++; user != 9 || payload != 0 || len(headers) < 40 {
				t.Errorf("tap: user %d, %d header bytes, payload %d", user, len(headers), payload)
			}
		})
		addr := netip.MustParseAddrPort(target)
		l, err := n.Acquire(client(1), addr.Addr().Is6())
		if err != nil {
			t.Fatal(err)
		}
		c, err := s.Dial(l, addr, 9)
		if err != nil {
			t.Fatal(err)
		}
		sent := w.take(t, 0)
		if len(sent) != 1 {
			t.Fatalf("%d packets after Dial, want the SYN", len(sent))
		}
		var v packet.View
		syn := sent[0]
		if f := v.Parse(syn[virtioHdr:], len(syn)); f != packet.OK || v.Flags != packet.SYN {
			t.Fatalf("first packet: %v, flags %x", f, v.Flags)
		}
		if src := netip.AddrPortFrom(v.Src.Netip(), v.SrcPort); src != l.Client {
			t.Errorf("SYN from %v, want %v", src, l.Client)
		}
		if dst := netip.AddrPortFrom(v.Dst.Netip(), v.DstPort); dst != addr {
			t.Errorf("SYN to %v, want %v", dst, addr)
		}
		if b := syn[virtioHdr:]; b[0]>>4 == 4 {
			want := bytes.Clone(b[:ip4Header])
			if setIP4Checksum(want); !bytes.Equal(want, b[:ip4Header]) {
				t.Error("wrong IP checksum")
			}
		}

		if got := checksum(syn[virtioHdr:]); got != 0xffff {
			t.Errorf("TCP checksum sums up to %#x when finished", got)
		}
		alien := answer(syn, packet.SYN|packet.ACK, 1000)
		alien[12] ^= 1 // another target's address
		r.take(alien, 5)
		r.take(answer(syn, packet.RST|packet.ACK, 0), 6)
		for c.State() == Connecting {
			<-s.Wake()
			s.Ready(nil)
		}
		if c.State() != Refused || taps != 1 || r.strays.Load() != 1 {
			t.Errorf("state %v, %d taps, %d strays", c.State(), taps, r.strays.Load())
		}
		c.Release()
		s.Ready(nil)
	}
}

// checksum finishes the TCP checksum of a packet as the kernel would, and returns
// the sum over pseudo-header and segment, 0xffff when it is right.
func checksum(b []byte) uint16 {
	at, addrs := ip4Header, b[12:20]
	if b[0]>>4 == 6 {
		at, addrs = ip6Header, b[8:40]
	}
	sum := func(p []byte) (s uint32) {
		for i := 0; i < len(p); i += 2 {
			s += uint32(binary.BigEndian.Uint16(p[i:]))
		}
		return s
	}
	t := bytes.Clone(b[at:])
	binary.BigEndian.PutUint16(t[tcpCsumAt:], ^fold(sum(t))) // of all, the partial sum included
	return fold(sum(t) + sum(addrs) + protoTCP + uint32(len(t)))
}

// An acknowledgement of what was never sent, of another connection on the tuple,
// does not count.
func TestWildAckIsIgnored(t *testing.T) {
	n, r, w := unplugged(t)
	target := netip.MustParseAddrPort("10.0.0.1:80")
	l, err := n.Acquire(client(1), false)
	if err != nil {
		t.Fatal(err)
	}
	c, err := n.stacks[0].Dial(l, target, 0)
	if err != nil {
		t.Fatal(err)
	}
	wild := answer(w.take(t, 1)[0], packet.ACK, 1)
	ack := wild[ip4Header+8:]
	binary.BigEndian.PutUint32(ack, binary.BigEndian.Uint32(ack)+5000)
	r.take(wild, 0)
	if got := c.acked.Load(); got != 0 {
		t.Errorf("%d bytes acknowledged before any was sent", got)
	}
	c.Release()
	n.stacks[0].Ready(nil)
}

// A FIN to nobody is acknowledged, a reset is met with silence, and other strays
// are reset: with the number that the target expects, without which it would
// challenge.
func TestStrays(t *testing.T) {
	for _, target := range []string{"10.0.0.1:80", "[fd00::1]:80"} {
		n, r, w := unplugged(t)
		addr := netip.MustParseAddrPort(target)
		l, err := n.Acquire(client(1), addr.Addr().Is6())
		if err != nil {
			t.Fatal(err)
		}
		c, err := n.stacks[0].Dial(l, addr, 0)
		if err != nil {
			t.Fatal(err)
		}
		syn := w.take(t, 1)[0]
		c.Release()
		n.stacks[0].Ready(nil)
		if n.stacks[0].Len() != 0 {
			t.Fatal("conn is still there")
		}
		w.take(t, 0)
		var v packet.View
		if f := v.Parse(answer(syn, packet.ACK, 7), 0); f != packet.OK {
			t.Fatal(f)
		}
		expected := v.Ack
		for i, stray := range []struct {
			flags, answer packet.Flags
			seq, ack      packet.Seq
		}{
			{packet.FIN | packet.ACK, packet.ACK, expected, 8},
			{packet.ACK | packet.PSH, packet.RST, expected, 0},
			{packet.SYN | packet.ACK, packet.RST, expected, 0},
			{packet.SYN, packet.RST | packet.ACK, 0, 8},
			{packet.RST, 0, 0, 0},
			{packet.RST | packet.ACK, 0, 0, 0},
			{packet.RST | packet.FIN | packet.ACK, 0, 0, 0},
		} {
			r.take(answer(syn, stray.flags, 7), 0)
			sent := w.take(t, 0)
			if stray.answer == 0 {
				if len(sent) != 0 {
					t.Errorf("%s: %x is answered", target, stray.flags)
				}
				continue
			}
			if len(sent) != 1 {
				t.Fatalf("%s: %d packets answer %x", target, len(sent), stray.flags)
			}
			if f := v.Parse(sent[0][virtioHdr:], 0); f != packet.OK || v.Flags != stray.answer || v.Seq != stray.seq || v.Ack != stray.ack ||
				netip.AddrPortFrom(v.Src.Netip(), v.SrcPort) != l.Client || netip.AddrPortFrom(v.Dst.Netip(), v.DstPort) != addr {
				t.Errorf("%s: answer to %x: %v %+v", target, stray.flags, f, v)
			}
			if got := r.strays.Load(); got != uint64(i+1) {
				t.Errorf("%d strays", got)
			}
		}
	}
}

// Whatever the kernel writes, the reader stands.
func FuzzReader(f *testing.F) {
	n, r, w := unplugged(f)
	for _, target := range []string{"10.0.0.1:80", "[fd00::1]:80"} {
		addr := netip.MustParseAddrPort(target)
		l, err := n.Acquire(client(1), addr.Addr().Is6())
		if err != nil {
			f.Fatal(err)
		}
		if _, err := n.stacks[0].Dial(l, addr, 0); err != nil {
			f.Fatal(err)
		}
		syn := w.take(f, 1)[0]
		f.Add(answer(syn, packet.SYN|packet.ACK, 99))
		f.Add(answer(syn, packet.FIN|packet.ACK, 99))
		f.Add(syn[virtioHdr:])
		f.Add(append([]byte{0x45, 0, 0, 88, 0, 0, 0, 0, 64, 1, 0, 0, 10, 0, 0, 1, 198, 18, 0, 1, 3, 13, 0, 0, 0, 0, 0, 0}, syn[virtioHdr:]...))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 0 {
			r.take(b, 1)
		}
		n.stacks[0].Ready(nil)
		w.take(t, 0)
	})
}
