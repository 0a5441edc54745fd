package capture

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"flowtwin/internal/testnet"
)

// filledRing is a ring of two blocks as the kernel would have filled them, with n
// packets like pkt in each.
func filledRing(n int, pkt []byte) *Ring {
	const size = 1 << 20
	mem := make([]byte, 2*size)
	for at := 0; at < len(mem); at += size {
		b := mem[at : at+size]
		binary.NativeEndian.PutUint32(b[blockStatus:], unix.TP_STATUS_USER)
		binary.NativeEndian.PutUint32(b[blockCount:], uint32(n))
		binary.NativeEndian.PutUint32(b[blockFirst:], blockHeader)
		p := b[blockHeader:]
		for i := range n {
			next := (pktHeader + 16 + len(pkt) + 15) &^ 15
			if i < n-1 { // the last one has 0
				binary.NativeEndian.PutUint32(p[pktNext:], uint32(next))
			}
			binary.NativeEndian.PutUint32(p[pktSec:], 1_700_000_000)
			binary.NativeEndian.PutUint32(p[pktNsec:], uint32(i))
			binary.NativeEndian.PutUint32(p[pktSnapLen:], uint32(len(pkt)))
			binary.NativeEndian.PutUint32(p[pktLen:], uint32(len(pkt)))
			binary.NativeEndian.PutUint16(p[pktMAC:], pktHeader+16)
			binary.BigEndian.PutUint16(p[pktProto:], etherIPv4)
			copy(p[pktHeader+16:], pkt)
			p = p[next:]
		}
	}
	return newRing(&socket{blocks: blocks{mem: mem, size: size}}, &Config{}, &selection{})
}

// refill gives the reader all blocks again.
func (b *blocks) refill() {
	for at := 0; at < len(b.mem); at += b.size {
		binary.NativeEndian.PutUint32(b.mem[at+blockStatus:], unix.TP_STATUS_USER)
	}
}

func TestWalk(t *testing.T) {
	pkt := pkt4("10.0.0.1:5000", "10.0.0.2:80")
	r := filledRing(3, pkt)
	var p Packet
	for range 2 {
		if ok, err := r.Next(0); !ok || err != nil {
			t.Fatalf("Next = %v, %v; want a block", ok, err)
		}
		for i := range 3 {
			if !r.Packet(&p) {
				t.Fatalf("packet %d is missing", i)
			}
			if want := 1_700_000_000*int64(time.Second) + int64(i); p.Time != want {
				t.Errorf("packet %d has time %d, want %d", i, p.Time, want)
			}
			if !bytes.Equal(p.Data, pkt) || cap(p.Data) != len(pkt) {
				t.Errorf("packet %d is %x with room to %d", i, p.Data, cap(p.Data))
			}
		}
		if r.Packet(&p) {
			t.Error("a fourth packet")
		}
	}
	if ok, err := r.Next(0); ok || err != nil {
		t.Errorf("Next = %v, %v; want that both blocks are the kernel's", ok, err)
	}
	if r.Packet(&p) {
		t.Error("a packet without a block")
	}
}

// Whether a received frame has a second tag is not told by new kernels.
func TestInnerTag(t *testing.T) {
	in4, in6 := pkt4("10.0.0.1:5000", "10.0.0.2:80"), pkt4("[fd00::1]:5000", "[fd00::2]:80")
	tag := func(number, proto uint16, pkt []byte) []byte {
		b := binary.BigEndian.AppendUint16(nil, number)
		return append(binary.BigEndian.AppendUint16(b, proto), pkt...)
	}
	pad := func(b []byte, n int) []byte { return append(b[:len(b):len(b)], make([]byte, max(0, n-len(b)))...) }
	super := append(bytes.Clone(in4), make([]byte, 70_000)...)
	super[2], super[3] = 0, 0
	// A packet whose length is the number of a protocol, and the bytes behind it
	// begin like an IP header.
	like := append(bytes.Clone(in4), make([]byte, etherIPv4-len(in4))...)
	like[2], like[3], like[4] = 8, 0, 0x45
	like[6], like[7] = 0, 0

	tests := []struct {
		name string
		info packetInfo
		out  bool
		data []byte
		want bool
	}{
		{"no tag at all", packetInfo{proto: etherIPv4}, false, in4, false},
		{"one tag", packetInfo{proto: etherIPv4, tagged: true}, false, in4, false},
		{"one tag, IPv6", packetInfo{proto: etherIPv6, tagged: true}, false, in6, false},
		{"one tag, padded", packetInfo{proto: etherIPv4, tagged: true}, false, pad(in4[:46], 46), false},
		{"one tag, super-packet", packetInfo{proto: etherIPv4, tagged: true}, false, super, false},
		{"one tag, length like a protocol", packetInfo{proto: etherIPv4, tagged: true}, false, like, false},
		{"two tags", packetInfo{proto: etherIPv4, tagged: true}, false, tag(200, etherIPv4, in4), true},
		{"two tags, IPv6", packetInfo{proto: etherIPv6, tagged: true}, false, tag(200, etherIPv6, in6), true},
		{"two tags, old kernel", packetInfo{proto: etherVLAN, tagged: true}, false, tag(200, etherIPv4, in4), true},
		{"two tags, super-packet", packetInfo{proto: etherIPv4, tagged: true}, false, tag(200, etherIPv4, super), true},
		{"tag like IPv4", packetInfo{proto: etherIPv4, tagged: true}, false, tag(0x4500, etherIPv4, in4), true},
		{"tag like IPv6", packetInfo{proto: etherIPv6, tagged: true}, false, tag(0x6000, etherIPv6, in6), true},
		{"sent, tag in the link header", packetInfo{proto: etherVLAN, tagged: true}, true, in4, false},
		{"cut short", packetInfo{proto: etherIPv4, tagged: true}, false, []byte{1}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := Packet{Data: tt.data, WireLen: len(tt.data), ToServer: !tt.out}
			if got := tt.info.innerTag(&p); got != tt.want {
				t.Errorf("inner tag %t, want %t", got, tt.want)
			}
		})
	}
}

func TestWalkDoesNotAllocate(t *testing.T) {
	walksWithoutAllocating(t, filledRing(64, pkt4("10.0.0.1:5000", "10.0.0.2:80")))
}

func walksWithoutAllocating(t *testing.T, r *Ring) {
	t.Helper()
	var p Packet
	if n := testing.AllocsPerRun(100, func() {
		r.sock.blocks.refill()
		for ok, _ := r.Next(0); ok; ok, _ = r.Next(0) {
			for r.Packet(&p) {
			}
		}
	}); n != 0 {
		t.Errorf("walking two blocks allocates %v times, want 0", n)
	}
}

func TestWaitDoesNotAllocate(t *testing.T) {
	_, r := idle(t)
	if n := testing.AllocsPerRun(100, func() {
		_, _ = r.Next(10 * time.Microsecond)
		r.Wake()
		_, _ = r.Next(time.Hour)
	}); n != 0 {
		t.Errorf("waiting allocates %v times, want 0", n)
	}
}

func BenchmarkWalk(b *testing.B) {
	for _, size := range []int{100, 1400} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			const n = 256
			r := filledRing(n, tcp("10.0.0.1:5000", "10.0.0.2:80", make([]byte, size-40)))
			var p Packet
			var sum int
			for b.Loop() {
				r.sock.blocks.refill()
				for ok, _ := r.Next(0); ok; ok, _ = r.Next(0) {
					for r.Packet(&p) {
						sum += int(p.Data[0])
					}
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/(2*n), "ns/packet")
		})
	}
}

func BenchmarkWake(b *testing.B) {
	testnet.RequireRoot(b)
	_, r := idle(b)
	b.Run("busy reader", func(b *testing.B) {
		for b.Loop() {
			r.Wake()
		}
	})
	b.Run("wait", func(b *testing.B) {
		for b.Loop() {
			r.Wake()
			_, _ = r.Next(time.Hour)
		}
	})
}
