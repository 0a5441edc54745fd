package capture

import (
	"fmt"
	"net/netip"
	"testing"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"flowtwin/internal/packet"
	"flowtwin/internal/packet/packettest"
)

// A kernelSays is what ancillary loads give for a packet.
type kernelSays struct {
	kind  uint32 // packet type
	proto uint32
	iface uint32
	tag   *uint32
}

// run runs the program for pkt with the ancillary loads replaced by what they
// would give: the emulator has none.
func run(tb testing.TB, prog []bpf.Instruction, k kernelSays, pkt []byte) int {
	tb.Helper()
	prog = append([]bpf.Instruction(nil), prog...)
	for i, ins := range prog {
		ext, ok := ins.(bpf.LoadExtension)
		if !ok {
			continue
		}
		var v uint32
		switch ext.Num {
		case bpf.ExtType:
			v = k.kind
		case bpf.ExtProto:
			v = k.proto
		case bpf.ExtInterfaceIndex:
			v = k.iface
		case bpf.ExtVLANTagPresent:
			if k.tag != nil {
				v = 1
			}
		case bpf.ExtVLANTag:
			if k.tag != nil {
				v = *k.tag
			}
		default:
			tb.Fatalf("extension %v", ext.Num)
		}
		prog[i] = bpf.LoadConstant{Dst: bpf.RegA, Val: v}
	}
	vm, err := bpf.NewVM(prog)
	if err != nil {
		tb.Fatal(err)
	}
	n, err := vm.Run(pkt)
	if err != nil {
		tb.Fatal(err)
	}
	return n
}

func built(tb testing.TB, spec filterSpec) []bpf.Instruction {
	tb.Helper()
	prog, err := spec.build()
	if err != nil {
		tb.Fatal(err)
	}
	return prog
}

func match(addr string, port uint16) Match {
	if addr == "" {
		return Match{Port: port}
	}
	return Match{Addr: netip.MustParseAddr(addr), Port: port}
}

func pkt4(src, dst string) []byte { return tcp(src, dst, []byte("payload")) }

func TestFilter(t *testing.T) {
	const (
		broadcast = 1
		otherHost = 3
	)
	named := filterSpec{matches: []Match{match("10.0.0.2", 80), match("10.0.0.2", 81), match("10.0.0.3", 443), match("fd00::2", 80)}}
	anyAddr := filterSpec{matches: []Match{match("", 80), match("10.0.0.3", 443)}}
	onIfaces := filterSpec{matches: named.matches, ifaces: []uint32{9, 2, 5, 7, 3, 300}}
	untagged := filterSpec{matches: named.matches, untagged: true}
	elsewhere := []Match{match("10.0.0.2", 80), match("fd00::2", 80)}
	foreign := filterSpec{matches: append([]Match{match("10.0.0.7", 80)}, elsewhere...), foreign: elsewhere}

	in4, out4 := pkt4("1.1.1.1:5000", "10.0.0.2:80"), pkt4("10.0.0.2:80", "1.1.1.1:5000")
	in6, out6 := pkt4("[fd00::1]:5000", "[fd00::2]:80"), pkt4("[fd00::2]:80", "[fd00::1]:5000")
	options := packettest.Packet{
		Src: netip.MustParseAddrPort("1.1.1.1:80"), Dst: netip.MustParseAddrPort("10.0.0.2:81"), IPOptions: make([]byte, 40),
	}.Bytes()
	udp := append([]byte(nil), in4...)
	udp[9] = 17
	fragment := append([]byte(nil), in4...)
	fragment[7] = 1
	firstFragment := append([]byte(nil), in4...)
	firstFragment[6] = 0x20
	ext := append([]byte(nil), in6...)
	ext[6] = 44
	icmp6 := append([]byte(nil), in6...)
	icmp6[6] = 58
	tagged := func(proto byte, pkt []byte) []byte {
		return append([]byte{0, 200, proto, map[byte]byte{8: 0, 0x86: 0xdd}[proto]}, pkt...)
	}
	number := func(n uint32) *uint32 { return &n }

	tests := []struct {
		name string
		spec filterSpec
		says kernelSays
		pkt  []byte
		want int
	}{
		{"to the server", named, kernelSays{kind: typeHost, proto: etherIPv4}, in4, keepWhole},
		{"to the server, second port", named, kernelSays{proto: etherIPv4}, pkt4("1.1.1.1:1", "10.0.0.2:81"), keepWhole},
		{"to the server, mirrored", named, kernelSays{kind: otherHost, proto: etherIPv4}, in4, keepWhole},
		{"to the server, tapped on its way out", named, kernelSays{kind: typeOutgoing, proto: etherIPv4}, in4, 0},
		{"from the server", named, kernelSays{kind: typeOutgoing, proto: etherIPv4}, out4, keepHeaders},
		{"from the server, tapped on its way in", named, kernelSays{kind: typeHost, proto: etherIPv4}, out4, 0},
		{"another port", named, kernelSays{proto: etherIPv4}, pkt4("1.1.1.1:80", "10.0.0.2:443"), 0},
		{"another server", named, kernelSays{proto: etherIPv4}, pkt4("10.0.0.2:80", "10.0.0.4:80"), 0},
		{"IPv6 to the server", named, kernelSays{proto: etherIPv6}, in6, keepWhole},
		{"IPv6 from the server", named, kernelSays{kind: typeOutgoing, proto: etherIPv6}, out6, keepHeaders},
		{"IPv6 of another server", named, kernelSays{proto: etherIPv6}, pkt4("[fd00::1]:1", "[fd01::2]:80"), 0},
		{"IPv6 with extension headers", named, kernelSays{proto: etherIPv6}, ext, keepWhole},
		{"ICMPv6", named, kernelSays{proto: etherIPv6}, icmp6, 0},
		{"IPv4 options", named, kernelSays{proto: etherIPv4}, options, keepWhole},
		{"UDP", named, kernelSays{proto: etherIPv4}, udp, 0},
		{"first fragment", named, kernelSays{proto: etherIPv4}, firstFragment, keepWhole},
		{"later fragment", named, kernelSays{proto: etherIPv4}, fragment, keepWhole},
		{"later fragment, another server", filterSpec{matches: []Match{match("10.0.0.9", 80)}}, kernelSays{proto: etherIPv4}, fragment, 0},
		{"ARP", named, kernelSays{proto: 0x0806}, in4, 0},
		{"cut inside the ports", named, kernelSays{proto: etherIPv4}, in4[:22], 0},

		{"any address", anyAddr, kernelSays{kind: typeHost, proto: etherIPv4}, pkt4("1.1.1.1:1", "9.9.9.9:80"), keepWhole},
		{"any address, IPv6", anyAddr, kernelSays{kind: typeHost, proto: etherIPv6}, in6, keepWhole},
		{"any address, from the server", anyAddr, kernelSays{kind: typeOutgoing, proto: etherIPv6}, out6, keepHeaders},
		{"any address, to another host", anyAddr, kernelSays{kind: otherHost, proto: etherIPv4}, in4, 0},
		{"any address, broadcast", anyAddr, kernelSays{kind: broadcast, proto: etherIPv4}, in4, 0},
		{"any address, fragment to another host", anyAddr, kernelSays{kind: otherHost, proto: etherIPv4}, fragment, 0},
		{"any address, fragment", anyAddr, kernelSays{kind: typeHost, proto: etherIPv4}, fragment, keepWhole},
		{"any address, port only with an address", anyAddr, kernelSays{proto: etherIPv4}, pkt4("1.1.1.1:1", "9.9.9.9:443"), 0},
		{"any address, the named one to another host", anyAddr, kernelSays{kind: otherHost, proto: etherIPv4}, pkt4("1.1.1.1:1", "10.0.0.3:443"), keepWhole},

		{"forwarded to a container", foreign, kernelSays{kind: typeOutgoing, proto: etherIPv4}, in4, keepWhole},
		{"from a container", foreign, kernelSays{kind: typeHost, proto: etherIPv4}, out4, keepHeaders},
		{"mirrored to the server", foreign, kernelSays{kind: otherHost, proto: etherIPv6}, in6, keepWhole},
		{"mirrored from the server", foreign, kernelSays{kind: otherHost, proto: etherIPv6}, out6, keepHeaders},
		{"mirrored from the server, inner tag", foreign, kernelSays{kind: otherHost, proto: etherVLAN}, tagged(8, out4), keepHeaders},
		{"forwarded from a container", foreign, kernelSays{kind: typeOutgoing, proto: etherIPv6}, out6, keepHeaders},
		{"a container's fragment", foreign, kernelSays{kind: typeOutgoing, proto: etherIPv4}, fragment, keepWhole},
		{"beside a container, out", foreign, kernelSays{kind: typeOutgoing, proto: etherIPv4}, pkt4("1.1.1.1:5000", "10.0.0.7:80"), 0},
		{"beside a container, another port", foreign, kernelSays{kind: typeHost, proto: etherIPv4}, pkt4("10.0.0.2:81", "1.1.1.1:5000"), 0},

		{"inner tag to the server", named, kernelSays{proto: etherVLAN}, tagged(8, in4), keepWhole},
		{"inner tag to the server, IPv6", named, kernelSays{proto: etherQinQ}, tagged(0x86, in6), keepWhole},
		{"inner tag, another port", named, kernelSays{proto: etherVLAN}, tagged(8, pkt4("1.1.1.1:80", "10.0.0.2:82")), 0},
		{"third tag", named, kernelSays{proto: etherVLAN}, tagged(0x81, in4), 0},
		{"from the server, tag in the link header", named, kernelSays{kind: typeOutgoing, proto: etherVLAN}, out4, keepHeaders},
		{"from the server, tag in the link header, IPv6", named, kernelSays{kind: typeOutgoing, proto: etherQinQ}, out6, keepHeaders},
		{"a VLAN's frame", named, kernelSays{proto: etherIPv4, tag: number(100)}, in4, keepWhole},
		{"a VLAN's frame, left to its device", untagged, kernelSays{proto: etherIPv4, tag: number(100)}, in4, 0},
		{"two tags, left to their devices", untagged, kernelSays{proto: etherVLAN, tag: number(0)}, tagged(8, in4), 0},
		{"a VLAN's frame out, left to its device", untagged, kernelSays{kind: typeOutgoing, proto: etherVLAN}, out4, 0},
		{"a priority", untagged, kernelSays{proto: etherIPv4, tag: number(0xe000)}, in4, keepWhole},
		{"no tag", untagged, kernelSays{proto: etherIPv4}, in4, keepWhole},

		{"the lowest interface", onIfaces, kernelSays{proto: etherIPv4, iface: 2}, in4, keepWhole},
		{"an interface in the middle", onIfaces, kernelSays{proto: etherIPv4, iface: 7}, in4, keepWhole},
		{"the highest interface", onIfaces, kernelSays{proto: etherIPv4, iface: 300}, in4, keepWhole},
		{"another interface", onIfaces, kernelSays{proto: etherIPv4, iface: 4}, in4, 0},
		{"no interface is fit", filterSpec{matches: named.matches, ifaces: []uint32{}}, kernelSays{proto: etherIPv4, iface: 4}, in4, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := run(t, built(t, tt.spec), tt.says, tt.pkt); got != tt.want {
				t.Errorf("keeps %d bytes, want %d", got, tt.want)
			}
		})
	}
}

// Jumps of BPF are short, and programs are limited: the largest that is asked
// for still has to find its last entry.
func TestFilterWithManyMatches(t *testing.T) {
	for _, format := range []string{"10.1.2.%d", "fd00::ff:%x"} {
		spec := filterSpec{untagged: true}
		for i := range 64 {
			spec.matches = append(spec.matches, match(fmt.Sprintf(format, i), uint16(1000+i)))
		}
		for i := range uint32(500) {
			spec.ifaces = append(spec.ifaces, 3*i+1)
		}
		prog := built(t, spec)
		accepted(t, prog)
		for _, iface := range spec.ifaces {
			for i, m := range spec.matches {
				if i > 0 && i < 63 && iface > 1 {
					continue
				}
				for _, port := range []uint16{m.Port, m.Port + 1} {
					src := netip.AddrPortFrom(m.Addr, 7)
					pkt := packettest.Packet{Src: src, Dst: netip.AddrPortFrom(m.Addr, port), Flags: packet.ACK}.Bytes()
					says := kernelSays{proto: etherIPv4, iface: iface}
					if m.Addr.Is6() {
						says.proto = etherIPv6
					}
					want := 0
					if port == m.Port {
						want = keepWhole
					}
					if got := run(t, prog, says, pkt); got != want {
						t.Fatalf("interface %d, %v port %d: keeps %d bytes, want %d", iface, m.Addr, port, got, want)
					}
				}
			}
		}
	}
}

func TestFilterTooLarge(t *testing.T) {
	spec := filterSpec{matches: []Match{match("", 80)}}
	for i := range uint32(4000) {
		spec.ifaces = append(spec.ifaces, i)
	}
	if _, err := spec.build(); err == nil {
		t.Error("no error for a filter that the kernel will not take")
	}
}

// The kernel checks programs by rules of its own.
func TestKernelTakesFilters(t *testing.T) {
	for _, matches := range [][]Match{
		{match("", 80)},
		{match("10.0.0.1", 80)},
		{match("fd00::1", 80)},
		{match("10.0.0.1", 80), match("fd00::1", 80)},
		{match("", 80), match("10.0.0.1", 80), match("fd00::1", 80), match("::ffff:10.0.0.9", 81)},
	} {
		for _, ifaces := range [][]uint32{nil, {}, {1}, {1, 2, 3, 4, 5, 6}} {
			for _, untagged := range []bool{false, true} {
				accepted(t, built(t, filterSpec{matches: matches, ifaces: ifaces, untagged: untagged}))
				accepted(t, built(t, filterSpec{matches: matches, foreign: matches[len(matches)-1:], ifaces: ifaces, untagged: untagged}))
			}
		}
	}
}

// accepted gives a program to the kernel, for which any socket will do.
func accepted(t *testing.T, prog []bpf.Instruction) {
	t.Helper()
	raw, err := bpf.Assemble(prog)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(fd) }()
	if err := (&socket{fd: fd}).setFilter(raw); err != nil {
		t.Error(err)
	}
}

func FuzzFilter(f *testing.F) {
	spec := filterSpec{matches: []Match{match("10.0.0.2", 80), match("fd00::2", 80)}, ifaces: []uint32{1}}
	prog, err := spec.build()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(pkt4("1.1.1.1:5000", "10.0.0.2:80"), false)
	f.Add(pkt4("[fd00::2]:80", "[fd00::1]:5000"), true)
	f.Fuzz(func(t *testing.T, pkt []byte, out bool) {
		says := kernelSays{proto: etherIPv4, iface: 1}
		if len(pkt) > 0 && pkt[0]>>4 == 6 {
			says.proto = etherIPv6
		}
		if out {
			says.kind = typeOutgoing
		}
		var v packet.View
		if v.Parse(pkt, len(pkt)) != packet.OK || (len(pkt) > 0 && pkt[0]>>4 == 6 && pkt[6] != protoTCP) {
			run(t, prog, says, pkt) // must not fail
			return
		}
		addr, port := v.Dst, v.DstPort
		if out {
			addr, port = v.Src, v.SrcPort
		}
		want := 0
		for _, m := range spec.matches {
			if packet.AddrFrom(m.Addr) == addr && m.Port == port {
				want = keepWhole
				if out {
					want = keepHeaders
				}
			}
		}
		if got := run(t, prog, says, pkt); got != want {
			t.Errorf("keeps %d bytes of %x, want %d", got, pkt, want)
		}
	})
}
