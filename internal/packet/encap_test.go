package packet_test

import (
	"bytes"
	"net"
	"net/netip"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"flowtwin/internal/packet"
	"flowtwin/internal/packet/packettest"
)

const everyEncap = packet.VXLAN | packet.GENEVE | packet.GRE

func mirrored(tb testing.TB, src, dst string) []byte {
	tb.Helper()
	return packettest.Packet{
		Src: netip.MustParseAddrPort(src), Dst: netip.MustParseAddrPort(dst), Flags: packet.ACK, Payload: []byte("payload"),
	}.Bytes()
}

func TestInner(t *testing.T) {
	ip4, ip6 := mirrored(t, "10.0.0.1:5000", "10.0.0.2:80"), mirrored(t, "[fd00::1]:5000", "[fd00::2]:80")
	from, to := netip.MustParseAddrPort("192.0.2.1:50000"), netip.MustParseAddr("192.0.2.2")
	from6, to6 := netip.MustParseAddrPort("[2001:db8::1]:50000"), netip.MustParseAddr("2001:db8::2")
	udp := func(port uint16, parts ...[]byte) []byte {
		return packettest.UDP(from, netip.AddrPortFrom(to, port), parts...)
	}
	gre := func(flags, proto uint16, parts ...[]byte) []byte {
		return packettest.IP(from.Addr(), to, 47, append([][]byte{packettest.GREHeader(flags, proto)}, parts...)...)
	}
	vxlan := udp(4789, packettest.VXLANHeader(7), packettest.Ethernet(ip4))
	change := func(b []byte, at int, to byte) []byte {
		b = bytes.Clone(b)
		b[at] = to
		return b
	}
	arp := change(packettest.Ethernet(ip4), 13, 6)
	// Linux's ip6gre puts an option in front: how deep tunnels may be nested.
	limited := packettest.IP(from6.Addr(), to6, 60, []byte{47, 0, 4, 1, 4, 1, 1, 0}, packettest.GREHeader(0, 0x6558), packettest.Ethernet(ip4))

	tests := []struct {
		name  string
		pkt   []byte
		want  []byte
		fault packet.Fault
	}{
		{"VXLAN", vxlan, ip4, packet.OK},
		{"VXLAN, IPv6 inside", udp(4789, packettest.VXLANHeader(7), packettest.Ethernet(ip6)), ip6, packet.OK},
		{"VXLAN over IPv6", packettest.UDP(from6, netip.AddrPortFrom(to6, 4789), packettest.VXLANHeader(7), packettest.Ethernet(ip4)), ip4, packet.OK},
		{"VXLAN, tagged", udp(4789, packettest.VXLANHeader(7), packettest.Ethernet(ip4, 5)), ip4, packet.OK},
		{"VXLAN, tagged twice", udp(4789, packettest.VXLANHeader(7), packettest.Ethernet(ip4, 5, 0x4006)), ip4, packet.OK},
		{"VXLAN, too many tags", udp(4789, packettest.VXLANHeader(7), packettest.Ethernet(ip4, 1, 2, 3, 4, 5)), nil, packet.Malformed},
		{"VXLAN without a network", udp(4789, make([]byte, 8), packettest.Ethernet(ip4)), nil, packet.Malformed},
		{"VXLAN, ARP inside", udp(4789, packettest.VXLANHeader(7), arp), nil, packet.NotTCP},
		{"VXLAN, nothing inside", udp(4789, packettest.VXLANHeader(7)), nil, packet.Truncated},
		{"VXLAN, half a frame", udp(4789, packettest.VXLANHeader(7), arp[:13]), nil, packet.Truncated},
		{"VXLAN, frame without packet", udp(4789, packettest.VXLANHeader(7), packettest.Ethernet(ip4)[:14]), nil, packet.Truncated},
		{"VXLAN, padded", append(bytes.Clone(vxlan), 1, 2, 3), ip4, packet.OK},
		{"VXLAN, first fragment", change(vxlan, 6, 0x20), nil, packet.Fragment},
		{"VXLAN, later fragment", change(vxlan, 7, 9), nil, packet.Fragment},
		{"VXLAN, no room for UDP", udp(4789)[:24], nil, packet.Truncated},
		{"GENEVE", udp(6081, packettest.GENEVEHeader(7, 0x6558, nil), packettest.Ethernet(ip4)), ip4, packet.OK},
		{"GENEVE with options", udp(6081, packettest.GENEVEHeader(7, 0x6558, make([]byte, 12)), packettest.Ethernet(ip6)), ip6, packet.OK},
		{"GENEVE, IP inside", udp(6081, packettest.GENEVEHeader(7, 0x0800, make([]byte, 32)), ip4), ip4, packet.OK},
		{"GENEVE, IPv6 inside", udp(6081, packettest.GENEVEHeader(7, 0x86dd, nil), ip6), ip6, packet.OK},
		{"GENEVE, options beyond the end", udp(6081, packettest.GENEVEHeader(7, 0x0800, make([]byte, 32)))[:44], nil, packet.Truncated},
		{"GENEVE of another version", change(udp(6081, packettest.GENEVEHeader(7, 0x0800, nil), ip4), 28, 0x40), nil, packet.Malformed},
		{"GENEVE, control", change(udp(6081, packettest.GENEVEHeader(7, 0x0800, nil), ip4), 29, 0x80), nil, packet.NotTCP},
		{"GRE", gre(0, 0x0800, ip4), ip4, packet.OK},
		{"GRE, IPv6 inside", gre(0, 0x86dd, ip6), ip6, packet.OK},
		{"GRE, frame inside", gre(0, 0x6558, packettest.Ethernet(ip4)), ip4, packet.OK},
		{"GRE with all fields", gre(0xb000, 0x6558, packettest.Ethernet(ip4, 9)), ip4, packet.OK},
		{"GRE over IPv6 with an option", limited, ip4, packet.OK},
		{"GRE with routing", gre(0x4000, 0x0800, ip4), nil, packet.Malformed},
		{"GRE, PPTP", gre(0x3001, 0x880b, ip4), nil, packet.NotTCP},
		{"GRE, keep-alive", gre(0, 0), nil, packet.NotTCP},
		{"ERSPAN type I", gre(0, 0x88be, packettest.Ethernet(ip4)), ip4, packet.OK},
		{"ERSPAN type II", gre(0x1000, 0x88be, make([]byte, 8), packettest.Ethernet(ip4)), ip4, packet.OK},
		{"another port", udp(4790, packettest.VXLANHeader(7), packettest.Ethernet(ip4)), nil, packet.NotTCP},
		{"TCP", ip4, nil, packet.NotTCP},
		{"nothing", nil, nil, packet.Truncated},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, n, f := everyEncap.Inner(tt.pkt, len(tt.pkt))
			if f != tt.fault || f == packet.OK && (!bytes.Equal(got, tt.want) || n != len(tt.want) || cap(got) != len(got)) {
				t.Errorf("%v, %d of %d bytes %x; want %v, %x", f, len(got), n, got, tt.fault, tt.want)
			}
		})
	}
}

// What was not asked for is left alone: a host's own tunnels are none of ours.
func TestInnerOfOtherEncapsulations(t *testing.T) {
	ip4 := mirrored(t, "10.0.0.1:5000", "10.0.0.2:80")
	from, to := netip.MustParseAddrPort("192.0.2.1:50000"), netip.MustParseAddr("192.0.2.2")
	for e, pkt := range map[packet.Encap][]byte{
		packet.VXLAN:  packettest.UDP(from, netip.AddrPortFrom(to, 4789), packettest.VXLANHeader(7), packettest.Ethernet(ip4)),
		packet.GENEVE: packettest.UDP(from, netip.AddrPortFrom(to, 6081), packettest.GENEVEHeader(7, 0x0800, nil), ip4),
		packet.GRE:    packettest.IP(from.Addr(), to, 47, packettest.GREHeader(0, 0x0800), ip4),
	} {
		if _, _, f := e.Inner(pkt, len(pkt)); f != packet.OK {
			t.Errorf("%d: %v", e, f)
		}
		if _, _, f := (everyEncap &^ e).Inner(pkt, len(pkt)); f != packet.NotTCP {
			t.Errorf("without %d: %v", e, f)
		}
	}
}

// A mirror that cuts frames must show: the packet inside says that it is longer.
func TestInnerOfATruncatedMirror(t *testing.T) {
	ip4 := mirrored(t, "10.0.0.1:5000", "10.0.0.2:80")
	from, to := netip.MustParseAddrPort("192.0.2.1:50000"), netip.MustParseAddrPort("192.0.2.2:4789")
	pkt := packettest.UDP(from, to, packettest.VXLANHeader(7), packettest.Ethernet(ip4[:len(ip4)-3]))
	inner, n, f := everyEncap.Inner(pkt, len(pkt))
	if f != packet.OK || n != len(ip4)-3 {
		t.Fatalf("%v, %d bytes", f, n)
	}
	var v packet.View
	if f := v.Parse(inner, n); f != packet.OK || v.Whole() || v.PayloadLen != len("payload") {
		t.Errorf("%v, whole %t, %d bytes of payload", f, v.Whole(), v.PayloadLen)
	}
}

// The layouts are those of others, too.
func TestInnerOfWhatGopacketBuilds(t *testing.T) {
	ip4 := mirrored(t, "10.0.0.1:5000", "10.0.0.2:80")
	outer := func(proto layers.IPProtocol) *layers.IPv4 {
		return &layers.IPv4{Version: 4, TTL: 64, Protocol: proto, SrcIP: net.IP{192, 0, 2, 1}, DstIP: net.IP{192, 0, 2, 2}}
	}
	ether := &layers.Ethernet{SrcMAC: make([]byte, 6), DstMAC: make([]byte, 6), EthernetType: layers.EthernetTypeIPv4}
	for name, stack := range map[string][]gopacket.SerializableLayer{
		"VXLAN": {
			outer(layers.IPProtocolUDP), &layers.UDP{SrcPort: 5, DstPort: 4789},
			&layers.VXLAN{ValidIDFlag: true, VNI: 77}, ether, gopacket.Payload(ip4),
		},
		"GRE": {
			outer(layers.IPProtocolGRE),
			&layers.GRE{Protocol: layers.EthernetTypeTransparentEthernetBridging, KeyPresent: true, Key: 9, SeqPresent: true, Seq: 1},
			ether, gopacket.Payload(ip4),
		},
	} {
		b := gopacket.NewSerializeBuffer()
		if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true}, stack...); err != nil {
			t.Fatal(err)
		}
		inner, _, f := everyEncap.Inner(b.Bytes(), len(b.Bytes()))
		if f != packet.OK || !bytes.Equal(inner, ip4) {
			t.Errorf("%s: %v, %x; want %x", name, f, inner, ip4)
		}
	}
	pkt := packettest.UDP(netip.MustParseAddrPort("192.0.2.1:5"), netip.MustParseAddrPort("192.0.2.2:6081"),
		packettest.GENEVEHeader(77, 0x6558, nil), packettest.Ethernet(ip4))
	theirs := gopacket.NewPacket(pkt, layers.LayerTypeIPv4, gopacket.Default)
	if g, ok := theirs.Layer(layers.LayerTypeGeneve).(*layers.Geneve); !ok || g.VNI != 77 || theirs.Layer(layers.LayerTypeTCP) == nil {
		t.Errorf("GENEVE as built by packettest is %v", theirs)
	}
}

func FuzzInner(f *testing.F) {
	ip4 := packettest.Packet{Src: netip.MustParseAddrPort("10.0.0.1:5000"), Dst: netip.MustParseAddrPort("10.0.0.2:80")}.Bytes()
	from, to := netip.MustParseAddrPort("192.0.2.1:50000"), netip.MustParseAddr("192.0.2.2")
	f.Add(packettest.UDP(from, netip.AddrPortFrom(to, 4789), packettest.VXLANHeader(7), packettest.Ethernet(ip4, 5)), 0)
	f.Add(packettest.UDP(from, netip.AddrPortFrom(to, 6081), packettest.GENEVEHeader(7, 0x0800, make([]byte, 8)), ip4), 0)
	f.Add(packettest.IP(from.Addr(), to, 47, packettest.GREHeader(0xb000, 0x88be), make([]byte, 8), packettest.Ethernet(ip4)), 70000)
	f.Fuzz(func(t *testing.T, pkt []byte, wireLen int) {
		inner, n, fault := everyEncap.Inner(pkt, max(wireLen, len(pkt)))
		if fault != packet.OK {
			return
		}
		if len(inner) == 0 || len(inner) > n || !bytes.Contains(pkt, inner) {
			t.Errorf("%d of %d bytes of %x", len(inner), n, pkt)
		}
	})
}

func TestInnerDoesNotAllocate(t *testing.T) {
	ip4 := mirrored(t, "10.0.0.1:5000", "10.0.0.2:80")
	pkt := packettest.UDP(netip.MustParseAddrPort("192.0.2.1:50000"), netip.MustParseAddrPort("192.0.2.2:4789"),
		packettest.VXLANHeader(7), packettest.Ethernet(ip4))
	if n := testing.AllocsPerRun(100, func() {
		if _, _, f := everyEncap.Inner(pkt, len(pkt)); f != packet.OK {
			t.Fatal(f)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkInner(b *testing.B) {
	ip4 := mirrored(b, "10.0.0.1:5000", "10.0.0.2:80")
	pkt := packettest.UDP(netip.MustParseAddrPort("192.0.2.1:50000"), netip.MustParseAddrPort("192.0.2.2:4789"),
		packettest.VXLANHeader(7), packettest.Ethernet(ip4))
	for b.Loop() {
		if _, _, f := everyEncap.Inner(pkt, len(pkt)); f != packet.OK {
			b.Fatal(f)
		}
	}
}
