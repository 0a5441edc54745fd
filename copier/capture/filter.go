package capture

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"golang.org/x/net/bpf"
)

const (
	keepWhole   = 1 << 20 // more than the kernel merges into one packet (GRO_MAX_SIZE)
	keepHeaders = 192     // IP with extensions or options, and 60 bytes of TCP

	protoTCP = 6

	etherIPv4 = 0x0800
	etherIPv6 = 0x86dd
	etherVLAN = 0x8100 // 802.1Q
	etherQinQ = 0x88a8 // 802.1ad

	// Packet types of linux/if_packet.h: how a packet came to be tapped.
	typeHost     = 0
	typeOutgoing = 4
)

// Scratch memory of the filter.
const (
	slotPort = iota // of the server
	slotKeep        // bytes to keep if it matches
	slotType        // packet type
	slotAddr        // of the server, one word or four
)

// A filterSpec is what a filter program is made of.
type filterSpec struct {
	matches  []Match
	ifaces   []uint32 // taken; nil: the socket is bound to one interface
	untagged bool     // leave frames with a VLAN tag to the VLAN's device
}

// filter is a filter program being written. The program is in three steps:
// which interface and direction; where the packet's server address and port are,
// which go to scratch memory; whether they are in the list.
type filter struct {
	*program
	spec filterSpec

	keep, drop     label
	match4, match6 label // address and port in scratch memory
	addr4, addr6   label // the address alone: a fragment, or extension headers
}

// build returns the filter as BPF. A packet's bytes begin at its network header
// (SOCK_DGRAM), with one exception: see [filter.toServer].
func (s filterSpec) build() ([]bpf.Instruction, error) {
	p := newProgram()
	f := &filter{
		program: p, spec: s, keep: p.label(), drop: p.label(),
		match4: p.label(), match6: p.label(), addr4: p.label(), addr6: p.label(),
	}
	f.interfaces()
	f.tags()

	f.emit(bpf.LoadExtension{Num: bpf.ExtType}, bpf.StoreScratch{Src: bpf.RegA, N: slotType})
	toServer := f.label()
	f.jumpUnless(typeOutgoing, toServer)
	f.fromServer()
	f.place(toServer)
	f.toServer()

	f.list4()
	f.list6()
	// The returns stand last. The kernel's check that scratch memory is written
	// before it is read does not see that a program ends at a return.
	f.place(f.keep)
	f.emit(bpf.LoadScratch{Dst: bpf.RegA, N: slotKeep}, bpf.RetA{})
	f.place(f.drop)
	f.emit(bpf.RetConstant{Val: 0})
	return f.finish()
}

// interfaces drops what is not of the interfaces.
func (f *filter) interfaces() {
	if f.spec.ifaces == nil {
		return
	}
	ok := f.label()
	f.emit(bpf.LoadExtension{Num: bpf.ExtInterfaceIndex})
	f.search(slices.Sorted(slices.Values(f.spec.ifaces)), ok)
	f.place(ok)
}

// search goes to found when register A is one of vals, which are sorted.
func (f *filter) search(vals []uint32, found label) {
	if len(vals) > 4 {
		mid, upper := len(vals)/2, f.label()
		f.jumpIf(bpf.JumpGreaterOrEqual, vals[mid], upper)
		f.search(vals[:mid], found)
		f.place(upper)
		f.search(vals[mid:], found)
		return
	}
	for _, v := range vals {
		f.jumpIf(bpf.JumpEqual, v, found)
	}
	f.jump(f.drop)
}

// tags drops frames of a VLAN when they are left to its device. A tag of VLAN 0
// is only a priority: such frames are the interface's own.
func (f *filter) tags() {
	if !f.spec.untagged {
		return
	}
	none := f.label()
	f.emit(bpf.LoadExtension{Num: bpf.ExtVLANTagPresent})
	f.jumpIf(bpf.JumpEqual, 0, none)
	f.emit(bpf.LoadExtension{Num: bpf.ExtVLANTag}, bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: 0x0fff})
	f.jumpUnless(0, f.drop)
	f.place(none)
	f.emit(bpf.LoadExtension{Num: bpf.ExtProto})
	f.jumpIf(bpf.JumpEqual, etherVLAN, f.drop)
	f.jumpIf(bpf.JumpEqual, etherQinQ, f.drop)
}

// fromServer looks at outgoing packets. The protocol may be that of a VLAN tag
// which the kernel has put into the link header already; the bytes begin at the
// IP header all the same, so its version decides.
func (f *filter) fromServer() {
	v4, v6 := f.label(), f.label()
	f.emit(bpf.LoadConstant{Dst: bpf.RegA, Val: keepHeaders}, bpf.StoreScratch{Src: bpf.RegA, N: slotKeep})
	f.emit(bpf.LoadExtension{Num: bpf.ExtProto})
	f.jumpIf(bpf.JumpEqual, etherIPv4, v4)
	f.jumpIf(bpf.JumpEqual, etherIPv6, v6)
	known := f.label()
	f.jumpIf(bpf.JumpEqual, etherVLAN, known)
	f.jumpUnless(etherQinQ, f.drop)
	f.place(known)
	f.emit(bpf.LoadAbsolute{Off: 0, Size: 1}, bpf.ALUOpConstant{Op: bpf.ALUOpShiftRight, Val: 4})
	f.jumpIf(bpf.JumpEqual, 4, v4)
	f.jumpUnless(6, f.drop)
	f.place(v6)
	f.read6(0, 8, 0)
	f.place(v4)
	f.read4(0, 12, 0)
}

// toServer looks at received packets. The kernel strips the first VLAN tag of a
// received frame; a second one is left in front of the IP header, and the
// protocol is the tag's.
func (f *filter) toServer() {
	v4, v6, tagged4 := f.label(), f.label(), f.label()
	f.emit(bpf.LoadConstant{Dst: bpf.RegA, Val: keepWhole}, bpf.StoreScratch{Src: bpf.RegA, N: slotKeep})
	f.emit(bpf.LoadExtension{Num: bpf.ExtProto})
	f.jumpIf(bpf.JumpEqual, etherIPv4, v4)
	f.jumpIf(bpf.JumpEqual, etherIPv6, v6)
	known := f.label()
	f.jumpIf(bpf.JumpEqual, etherVLAN, known)
	f.jumpUnless(etherQinQ, f.drop)
	f.place(known)
	f.emit(bpf.LoadAbsolute{Off: 2, Size: 2})
	f.jumpIf(bpf.JumpEqual, etherIPv4, tagged4)
	f.jumpUnless(etherIPv6, f.drop)
	f.read6(tagLen, 24, 2)
	f.place(tagged4)
	f.read4(tagLen, 16, 2)
	f.place(v6)
	f.read6(0, 24, 2)
	f.place(v4)
	f.read4(0, 16, 2)
}

// read4 brings the server's address and port of the IPv4 packet at base to
// scratch memory; addr and port are their offsets in the IP and TCP header.
func (f *filter) read4(base, addr, port uint32) {
	f.emit(bpf.LoadAbsolute{Off: base + 9, Size: 1})
	f.jumpUnless(protoTCP, f.drop)
	f.emit(bpf.LoadAbsolute{Off: base + addr, Size: 4}, bpf.StoreScratch{Src: bpf.RegA, N: slotAddr})
	f.emit(bpf.LoadAbsolute{Off: base + 6, Size: 2})
	f.jumpIf(bpf.JumpBitsSet, 0x1fff, f.addr4) // no ports in a later fragment
	f.emit(
		bpf.LoadMemShift{Off: base},
		bpf.LoadIndirect{Off: base + port, Size: 2},
		bpf.StoreScratch{Src: bpf.RegA, N: slotPort},
	)
	f.jump(f.match4)
}

// read6 does the same for IPv6.
func (f *filter) read6(base, addr, port uint32) {
	for i := range uint32(4) {
		f.emit(bpf.LoadAbsolute{Off: base + addr + 4*i, Size: 4}, bpf.StoreScratch{Src: bpf.RegA, N: slotAddr + int(i)})
	}
	f.emit(bpf.LoadAbsolute{Off: base + 6, Size: 1})
	for _, ext := range []uint32{0, 43, 44, 51, 60} { // as packet.View skips them
		f.jumpIf(bpf.JumpEqual, ext, f.addr6)
	}
	f.jumpUnless(protoTCP, f.drop)
	f.emit(bpf.LoadAbsolute{Off: base + 40 + port, Size: 2}, bpf.StoreScratch{Src: bpf.RegA, N: slotPort})
	f.jump(f.match6)
}

// list4 decides about IPv4 packets.
func (f *filter) list4() {
	f.list(f.match4, f.addr4, func(a netip.Addr) (words []uint32) {
		if a.Is4() {
			b := a.As4()
			words = []uint32{binary.BigEndian.Uint32(b[:])}
		}
		return words
	})
}

// list6 decides about IPv6 packets.
func (f *filter) list6() {
	f.list(f.match6, f.addr6, func(a netip.Addr) (words []uint32) {
		if a.Is6() {
			b := a.As16()
			for i := 0; i < len(b); i += 4 {
				words = append(words, binary.BigEndian.Uint32(b[i:]))
			}
		}
		return words
	})
}

// list compares scratch memory with the matches of one IP version, whose
// addresses are words. Without ports, at addr, the address has to do: the reader
// looks closer.
func (f *filter) list(match, addr label, words func(netip.Addr) []uint32) {
	var anyPorts []uint32
	var addrs []netip.Addr
	ports := map[netip.Addr][]uint32{}
	for _, m := range f.spec.matches {
		a := m.Addr.Unmap().WithZone("")
		switch {
		case !m.Addr.IsValid():
			anyPorts = append(anyPorts, uint32(m.Port))
		case words(a) != nil:
			if ports[a] == nil {
				addrs = append(addrs, a)
			}
			ports[a] = append(ports[a], uint32(m.Port))
		}
	}

	f.place(match)
	for _, a := range addrs {
		other := f.label()
		f.compare(words(a), other)
		f.emit(bpf.LoadScratch{Dst: bpf.RegA, N: slotPort})
		for _, port := range ports[a] {
			f.jumpIf(bpf.JumpEqual, port, f.keep)
		}
		f.place(other)
	}
	if len(anyPorts) > 0 {
		f.oursOnly()
		f.emit(bpf.LoadScratch{Dst: bpf.RegA, N: slotPort})
		for _, port := range anyPorts {
			f.jumpIf(bpf.JumpEqual, port, f.keep)
		}
	}
	f.jump(f.drop)

	f.place(addr)
	for _, a := range addrs {
		other := f.label()
		f.compare(words(a), other)
		f.jump(f.keep)
		f.place(other)
	}
	if len(anyPorts) == 0 {
		f.jump(f.drop)
		return
	}
	f.oursOnly()
	f.jump(f.keep)
}

// compare goes to other unless the address in scratch memory is words.
func (f *filter) compare(words []uint32, other label) {
	for i := range words {
		// The last word of IPv6 addresses differs most often.
		i = len(words) - 1 - i
		f.emit(bpf.LoadScratch{Dst: bpf.RegA, N: slotAddr + i})
		f.jumpUnless(words[i], other)
	}
}

// oursOnly drops what is not directed to this host or sent by it: where no
// address was named, others' packets on the same link are none of ours.
func (f *filter) oursOnly() {
	ours := f.label()
	f.emit(bpf.LoadScratch{Dst: bpf.RegA, N: slotType})
	f.jumpIf(bpf.JumpEqual, typeHost, ours)
	f.jumpUnless(typeOutgoing, f.drop)
	f.place(ours)
}
