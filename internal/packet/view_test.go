package packet_test

import (
	"bytes"
	"net/netip"
	"testing"

	"flowtwin/internal/packet"
	"flowtwin/internal/packet/packettest"
)

var (
	client4 = netip.MustParseAddrPort("10.0.1.7:40000")
	server4 = netip.MustParseAddrPort("192.168.44.137:80")
	client6 = netip.MustParseAddrPort("[2001:db8::7]:40000")
	server6 = netip.MustParseAddrPort("[2001:db8:1::1]:80")
)

func tcp4(payload int) packettest.Packet {
	return packettest.Packet{
		Src: client4, Dst: server4, Seq: 0xfffffffe, Ack: 5, Flags: packet.ACK | packet.PSH,
		Window: 512, IPID: 99, Payload: bytes.Repeat([]byte("x"), payload),
	}
}

func tcp6(payload int, ext ...packettest.Extension) packettest.Packet {
	p := tcp4(payload)
	p.Src, p.Dst, p.Extensions = client6, server6, ext
	return p
}

// TestParse holds the packets that a capture meets. Every case starts from a
// right packet, which edit then makes what the name says.
func TestParse(t *testing.T) {
	hop, route, dest := packettest.Extension{Type: 0}, packettest.Extension{Type: 43, Body: make([]byte, 20)}, packettest.Extension{Type: 60}
	auth, frag := packettest.Extension{Type: 51, Body: make([]byte, 22)}, packettest.Extension{Type: 44}
	eight := []packettest.Extension{hop, route, dest, auth, frag, dest, dest, dest}
	set := func(i int, vals ...byte) func([]byte) []byte {
		return func(b []byte) []byte { copy(b[i:], vals); return b }
	}
	cut := func(n int) func([]byte) []byte { return func(b []byte) []byte { return b[:n] } }
	pad := func(b []byte) []byte { return append(b, make([]byte, 18)...) }

	tests := []struct {
		name       string
		pkt        packettest.Packet
		edit       func([]byte) []byte
		wire       int // 0: the length of the bytes before edit
		want       packet.Fault
		got, total int // captured and stated payload
	}{
		{name: "IPv4 without payload", pkt: tcp4(0)},
		{name: "IPv4 with payload", pkt: tcp4(1460), got: 1460, total: 1460},
		{name: "IPv4 padded to the Ethernet minimum", pkt: tcp4(0), edit: pad},
		{name: "IPv4 with payload and a trailer", pkt: tcp4(7), edit: pad, got: 7, total: 7},
		{name: "IPv4 cut in the payload", pkt: tcp4(1460), edit: cut(96), got: 56, total: 1460},
		{name: "IPv4 cut behind the headers", pkt: tcp4(1460), edit: cut(40), total: 1460},
		{name: "IPv4 cut in the TCP header", pkt: tcp4(1460), edit: cut(39), want: packet.Truncated},
		{name: "IPv4 cut in the IP header", pkt: tcp4(1460), edit: cut(19), want: packet.Truncated},
		{name: "nothing", pkt: tcp4(0), edit: cut(0), want: packet.Truncated},
		{name: "IPv4 as long as its length field can say", pkt: tcp4(65535 - 40), got: 65495, total: 65495},
		{name: "IPv4 super-packet", pkt: tcp4(180_000), got: 180_000, total: 180_000},
		{name: "IPv4 super-packet, cut", pkt: tcp4(180_000), edit: cut(140), got: 100, total: 180_000},
		{name: "IPv4 length 0 in a short packet", pkt: tcp4(6), edit: set(2, 0, 0), want: packet.Malformed},
		{name: "IPv4 length below its header", pkt: tcp4(6), edit: set(2, 0, 19), want: packet.Malformed},
		{name: "IPv4 length below the TCP header", pkt: tcp4(6), edit: set(2, 0, 39), want: packet.Malformed},
		{name: "IPv4 header length below 20", pkt: tcp4(6), edit: set(0, 0x44), want: packet.Malformed},
		{name: "IPv4 header length beyond the capture", pkt: tcp4(6), edit: set(0, 0x4f), want: packet.Malformed},
		{name: "TCP header length below 20", pkt: tcp4(6), edit: set(32, 0x40), want: packet.Malformed},
		{name: "TCP header length beyond the packet", pkt: tcp4(6), edit: set(32, 0xf0), want: packet.Malformed},
		{name: "TCP options cut", pkt: tcp4(100), edit: func(b []byte) []byte { return set(32, 0xf0)(b)[:79] }, want: packet.Truncated},
		{name: "IPv4 first fragment", pkt: tcp4(100), edit: set(6, 0x20), want: packet.Fragment},
		{name: "IPv4 last fragment", pkt: tcp4(100), edit: set(6, 0, 1), want: packet.Fragment},
		{name: "IPv4 far fragment", pkt: tcp4(100), edit: set(6, 0x10, 0), want: packet.Fragment},
		{name: "UDP", pkt: tcp4(100), edit: set(9, 17), want: packet.NotTCP},
		{name: "UDP fragment", pkt: tcp4(100), edit: func(b []byte) []byte { return set(9, 17)(set(6, 0x20)(b)) }, want: packet.NotTCP},
		{name: "another IP version", pkt: tcp4(100), edit: set(0, 0x55), want: packet.NotTCP},

		{name: "IPv6 without payload", pkt: tcp6(0)},
		{name: "IPv6 with payload", pkt: tcp6(1440), got: 1440, total: 1440},
		{name: "IPv6 with payload and a trailer", pkt: tcp6(1440), edit: pad, got: 1440, total: 1440},
		{name: "IPv6 cut in the payload", pkt: tcp6(1440), edit: cut(70), got: 10, total: 1440},
		{name: "IPv6 cut in the TCP header", pkt: tcp6(1440), edit: cut(59), want: packet.Truncated},
		{name: "IPv6 cut in the IP header", pkt: tcp6(1440), edit: cut(39), want: packet.Truncated},
		{name: "IPv6 with eight extensions", pkt: tcp6(10, eight...), got: 10, total: 10},
		{name: "IPv6 with nine extensions", pkt: tcp6(10, eight...), edit: set(128, 60), want: packet.Malformed},
		{name: "IPv6 cut in an extension", pkt: tcp6(10, hop, dest), edit: cut(55), want: packet.Truncated},
		{name: "IPv6 extension reaches out of the packet", pkt: tcp6(10, hop), edit: set(41, 200), want: packet.Malformed},
		{name: "IPv6 length ends in an extension", pkt: tcp6(10, hop), edit: set(4, 0, 4), want: packet.Malformed},
		{name: "IPv6 atomic fragment", pkt: tcp6(10, frag), got: 10, total: 10},
		{name: "IPv6 first fragment", pkt: tcp6(10, frag), edit: set(43, 1), want: packet.Fragment},
		{name: "IPv6 later fragment", pkt: tcp6(10, frag), edit: set(42, 0, 8), want: packet.Fragment},
		{name: "IPv6 no next header", pkt: tcp6(10), edit: set(6, 59), want: packet.NotTCP},
		{name: "IPv6 UDP behind an extension", pkt: tcp6(10, dest), edit: set(40, 17), want: packet.NotTCP},
		{name: "IPv6 as long as its length field can say", pkt: tcp6(65535 - 20), got: 65515, total: 65515},
		{name: "IPv6 super-packet", pkt: tcp6(300_000), got: 300_000, total: 300_000},
		{name: "IPv6 super-packet with its jumbogram option", pkt: tcp6(300_000, packettest.Extension{Body: []byte{0xc2, 4, 0, 4, 0x93, 0xfc}}), got: 300_000, total: 300_000},
		{name: "IPv6 length 0 in a short packet", pkt: tcp6(6), edit: set(4, 0, 0), want: packet.Malformed},
		{name: "IPv6 with an IPv4-mapped source", pkt: tcp6(6), edit: set(8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff), want: packet.Malformed},
		{name: "IPv6 with an IPv4-mapped destination", pkt: tcp6(6), edit: set(24, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff), want: packet.Malformed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := tt.pkt.Bytes()
			wire := len(b)
			if tt.edit != nil {
				b = tt.edit(b)
			}
			v := dirtyView()
			if got := v.Parse(b, wire); got != tt.want {
				t.Fatalf("Parse = %v, want %v", got, tt.want)
			}
			if tt.want != packet.OK {
				return
			}
			checkFields(t, &v, tt.pkt)
			if len(v.Payload) != tt.got || v.PayloadLen != tt.total || v.Whole() != (tt.got == tt.total) {
				t.Errorf("payload %d of %d, whole %v, want %d of %d", len(v.Payload), v.PayloadLen, v.Whole(), tt.got, tt.total)
			}
			if cap(v.Payload) != len(v.Payload) || cap(v.Headers) != len(v.Headers) || cap(v.Options) != len(v.Options) {
				t.Error("a slice can be grown into its neighbour")
			}
		})
	}
}

// dirtyView is one that was used before: Parse must leave nothing of it.
func dirtyView() packet.View {
	return packet.View{
		Src: packet.Addr{1}, Dst: packet.Addr{2}, SrcPort: 3, DstPort: 4, Seq: 5, Ack: 6, Flags: packet.URG,
		Window: 7, IPID: 8, PayloadLen: 9, Payload: []byte("old"), Headers: []byte("old"), Options: []byte("old"),
	}
}

func checkFields(t *testing.T, v *packet.View, want packettest.Packet) {
	t.Helper()
	wantID := want.IPID
	if want.Src.Addr().Is6() {
		wantID = 0
	}
	if v.Src != packet.AddrFrom(want.Src.Addr()) || v.Dst != packet.AddrFrom(want.Dst.Addr()) ||
		v.SrcPort != want.Src.Port() || v.DstPort != want.Dst.Port() || v.Seq != want.Seq || v.Ack != want.Ack ||
		v.Flags != want.Flags || v.Window != want.Window || v.IPID != wantID {
		t.Errorf("parsed %+v\nfrom %+v", v, want)
	}
}

// A packet cut at any length is refused or has its headers right: no length
// makes up bytes.
func TestParseCutAnywhere(t *testing.T) {
	for _, p := range []packettest.Packet{tcp4(30), tcp6(30, packettest.Extension{Type: 60, Body: make([]byte, 9)})} {
		p.Options = packettest.Timestamps(1, 2)
		pkt := p.Bytes()
		headers := len(pkt) - 30
		for n := range len(pkt) + 1 {
			var v packet.View
			f := v.Parse(pkt[:n:n], len(pkt))
			switch {
			case n < headers && f != packet.Truncated:
				t.Errorf("%d of %d header bytes: %v, want truncated", n, headers, f)
			case n >= headers && (f != packet.OK || len(v.Payload) != n-headers || v.PayloadLen != 30 || len(v.Headers) != headers):
				t.Errorf("%d bytes: %v with %d header and %d of %d payload bytes", n, f, len(v.Headers), len(v.Payload), v.PayloadLen)
			}
		}
	}
}

func TestSYNOptions(t *testing.T) {
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	tests := []struct {
		name    string
		options []byte
		want    packet.SYNOptions
	}{
		{"none", nil, packet.SYNOptions{}},
		{"as Linux sends them", join(packettest.MSS(1460), []byte{4, 2}, packettest.Timestamps(1, 0)[2:], packettest.WindowScale(7)), packet.SYNOptions{MSS: 1460, WindowScale: 7, Scaled: true}},
		{"scale 0 is announced", packettest.WindowScale(0), packet.SYNOptions{Scaled: true}},
		{"scale beyond 14", packettest.WindowScale(200), packet.SYNOptions{WindowScale: 14, Scaled: true}},
		{"behind the end of the list", join([]byte{0, 0, 0, 0}, packettest.MSS(1460)), packet.SYNOptions{}},
		{"length 0", join([]byte{8, 0}, packettest.MSS(1460)), packet.SYNOptions{}},
		{"length 1", join([]byte{8, 1}, packettest.MSS(1460)), packet.SYNOptions{}},
		{"longer than the options", join(packettest.MSS(9000), []byte{8, 10, 0, 0}), packet.SYNOptions{MSS: 9000}},
		{"kind without a length", []byte{1, 1, 1, 2}, packet.SYNOptions{}},
		{"MSS of a wrong length", []byte{2, 3, 5, 1}, packet.SYNOptions{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v := packet.View{Options: tt.options}
			if got := v.SYNOptions(); got != tt.want {
				t.Errorf("SYNOptions = %+v, want %+v", got, tt.want)
			}
		})
	}
}

func TestSegLen(t *testing.T) {
	for _, tt := range []struct {
		flags packet.Flags
		want  int
	}{{packet.ACK, 10}, {packet.SYN, 11}, {packet.FIN | packet.ACK, 11}, {packet.SYN | packet.FIN, 12}} {
		v := packet.View{Flags: tt.flags, PayloadLen: 10}
		if got := v.SegLen(); got != tt.want {
			t.Errorf("flags %06b: SegLen = %d, want %d", tt.flags, got, tt.want)
		}
	}
}

func TestSeqAcrossTheWrap(t *testing.T) {
	const last = packet.Seq(0xffffffff)
	if got := last.Add(2); got != 1 {
		t.Errorf("Add = %d, want 1", got)
	}
	if got := packet.Seq(1).Add(-2); got != last {
		t.Errorf("Add(-2) = %d, want %d", got, last)
	}
	if got := packet.Seq(1).Diff(last); got != 2 {
		t.Errorf("Diff = %d, want 2", got)
	}
	if !last.Before(0) || !packet.Seq(0).After(last) || last.After(0) || last.Before(last) || last.After(last) {
		t.Error("order across the wrap is wrong")
	}
}

func TestAddr(t *testing.T) {
	for _, s := range []string{"10.0.0.1", "2001:db8::1", "::1", "0.0.0.0"} {
		a := packet.AddrFrom(netip.MustParseAddr(s))
		if a.String() != s || a.Is4() != netip.MustParseAddr(s).Is4() {
			t.Errorf("%s became %s, Is4 %v", s, a, a.Is4())
		}
	}
}

// FuzzParse: whatever a wire or a file holds, Parse returns, and what it returns
// lies inside the bytes it was given.
func FuzzParse(f *testing.F) {
	for _, p := range []packettest.Packet{tcp4(3), tcp6(3), tcp6(0, packettest.Extension{Type: 60}, packettest.Extension{Type: 51, Body: make([]byte, 10)})} {
		p.Options = append(packettest.MSS(1460), packettest.WindowScale(9)...)
		b := p.Bytes()
		f.Add(b, len(b))
		f.Add(b[:len(b)-1], len(b))
	}
	f.Fuzz(func(t *testing.T, b []byte, wire int) {
		b = b[:len(b):len(b)]
		var v packet.View
		if v.Parse(b, wire) != packet.OK {
			return
		}
		n := len(v.Headers) + len(v.Payload)
		if n > len(b) || len(v.Payload) > v.PayloadLen || len(v.Options) > 40 || len(v.Options)%4 != 0 {
			t.Fatalf("lengths: %d bytes, headers %d, options %d, payload %d of %d", len(b), len(v.Headers), len(v.Options), len(v.Payload), v.PayloadLen)
		}
		if !bytes.Equal(v.Headers, b[:len(v.Headers)]) || !bytes.Equal(v.Payload, b[len(v.Headers):n]) || !bytes.HasSuffix(v.Headers, v.Options) {
			t.Fatal("a slice is not where it belongs")
		}
		if v.PayloadLen+len(v.Headers) > max(65535+40, wire) {
			t.Fatalf("%d payload bytes stated by nobody", v.PayloadLen)
		}
		v.SYNOptions()
	})
}

func TestParseDoesNotAllocate(t *testing.T) {
	b4, b6 := tcp4(100).Bytes(), tcp6(100, packettest.Extension{Type: 60}).Bytes()
	var v packet.View
	if n := testing.AllocsPerRun(100, func() {
		v.Parse(b4, len(b4))
		v.SYNOptions()
		v.Parse(b6, len(b6))
	}); n != 0 {
		t.Errorf("parsing allocates %v times, want 0", n)
	}
}

func BenchmarkParse(b *testing.B) {
	for name, pkt := range map[string][]byte{"IPv4": tcp4(100).Bytes(), "IPv6": tcp6(100).Bytes()} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			v := new(packet.View)
			for b.Loop() {
				if v.Parse(pkt, len(pkt)) != packet.OK {
					b.Fatal("not parsed")
				}
			}
		})
	}
}
