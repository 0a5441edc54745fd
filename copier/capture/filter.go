package capture

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"golang.org/x/net/bpf"

	"flowtwin/internal/flow"
	"flowtwin/internal/packet"
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

	slotClientPort = slotAddr + 4
	slotClient     = slotClientPort + 1 // one word or four
)

// A filterSpec is what a filter program is made of.
type filterSpec struct {
	matches  []Match
	foreign  []Match // those of matches whose server is not this host, see [filter.build]
	choice   flow.Choice
	decap    packet.Encap // not none: of mirrored packets, all are taken
	ifaces   []uint32     // taken; nil: the socket is bound to one interface
	untagged bool         // leave frames with a VLAN tag to the VLAN's device
}

// An end of a packet is the server's or the client's.
type end struct {
	keep                uint32 // of packets whose server is at this end
	addr4, addr6, ports uint32 // offsets in the IP and TCP header
}

// other returns the opposite end.
func (e end) other() end {
	if e == source() {
		return destination()
	}
	return source()
}

func source() end      { return end{keepHeaders, 12, 8, 0} }
func destination() end { return end{keepWhole, 16, 24, 2} }

// filter is a filter program being written. The program is in three steps:
// which interface and direction; where the packet's server address and port are,
// which go to scratch memory; whether they are in the list. The last two make a
// pass, of which there may be several. What is in the list is kept if its client is
// chosen.
type filter struct {
	*program
	spec filterSpec

	keep, drop     label
	found4, found6 label // in the list, with its ports in scratch memory

	// Of the present pass.
	match4, match6 label // address and port in scratch memory
	addr4, addr6   label // the address alone: a fragment, or extension headers
	none           label // the packet is not one of this pass
}

// build returns the filter as BPF. A packet's bytes begin at its network header
// (SOCK_DGRAM), with one exception: see [filter.received].
//
// What comes to a server on this host is received, and what it answers is sent;
// on the other way, which lo has too, both are seen a second time. The packets of a
// server elsewhere pass this host in any way: a container's are sent to it and
// received from it, at a mirror port all are received.
func (s filterSpec) build() ([]bpf.Instruction, error) {
	p := newProgram()
	f := &filter{program: p, spec: s, keep: p.label(), drop: p.label()}
	f.found4, f.found6 = f.keep, f.keep
	if len(s.choice) > 0 {
		f.found4, f.found6 = f.label(), f.label()
	}
	f.interfaces()
	f.tags()
	f.emit(bpf.LoadExtension{Num: bpf.ExtType}, bpf.StoreScratch{Src: bpf.RegA, N: slotType})
	if s.decap != 0 {
		f.mirrored()
	} else {
		f.pass(s.matches, destination(), source())
	}
	if len(s.foreign) > 0 {
		f.pass(s.foreign, source(), destination())
	}
	f.jump(f.drop)
	f.choose()

	// The returns stand last. The kernel's check that scratch memory is written
	// before it is read does not see that a program ends at a return.
	f.place(f.keep)
	f.emit(bpf.LoadScratch{Dst: bpf.RegA, N: slotKeep}, bpf.RetA{})
	f.place(f.drop)
	f.emit(bpf.RetConstant{Val: 0})
	return f.finish()
}

// pass keeps packets of servers in matches, which are at one end of received and
// at the other one of sent packets. What it does not keep goes on behind it.
func (f *filter) pass(matches []Match, received, sent end) {
	f.match4, f.match6, f.addr4, f.addr6, f.none = f.label(), f.label(), f.label(), f.label(), f.label()
	in := f.label()
	f.emit(bpf.LoadScratch{Dst: bpf.RegA, N: slotType})
	f.jumpUnless(typeOutgoing, in)
	f.sent(sent)
	f.place(in)
	f.received(received)
	f.list4(matches)
	f.list6(matches)
	f.place(f.none)
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

// byProtocol goes by the protocol that the kernel tells of a packet: IPv4 and IPv6
// continue at the labels, which are to be placed, and what has a VLAN tag behind this.
// All else is dropped.
func (f *filter) byProtocol(server end) (v4, v6 label) {
	v4, v6 = f.label(), f.label()
	f.emit(bpf.LoadConstant{Dst: bpf.RegA, Val: server.keep}, bpf.StoreScratch{Src: bpf.RegA, N: slotKeep})
	f.emit(bpf.LoadExtension{Num: bpf.ExtProto})
	f.jumpIf(bpf.JumpEqual, etherIPv4, v4)
	f.jumpIf(bpf.JumpEqual, etherIPv6, v6)
	tagged := f.label()
	f.jumpIf(bpf.JumpEqual, etherVLAN, tagged)
	f.jumpUnless(etherQinQ, f.drop)
	f.place(tagged)
	return v4, v6
}

// sent looks at outgoing packets. The protocol may be that of a VLAN tag which the
// kernel has put into the link header already; the bytes begin at the IP header all
// the same, so its version decides.
func (f *filter) sent(server end) {
	v4, v6 := f.byProtocol(server)
	f.emit(bpf.LoadAbsolute{Off: 0, Size: 1}, bpf.ALUOpConstant{Op: bpf.ALUOpShiftRight, Val: 4})
	f.jumpIf(bpf.JumpEqual, 4, v4)
	f.jumpUnless(6, f.drop)
	f.place(v6)
	f.read6(0, server)
	f.place(v4)
	f.read4(0, server)
}

// received looks at received packets. The kernel strips the first VLAN tag of a
// received frame; a second one is left in front of the IP header, and the
// protocol is the tag's.
func (f *filter) received(server end) {
	v4, v6 := f.byProtocol(server)
	tagged4 := f.label()
	f.emit(bpf.LoadAbsolute{Off: 2, Size: 2})
	f.jumpIf(bpf.JumpEqual, etherIPv4, tagged4)
	f.jumpUnless(etherIPv6, f.drop)
	f.read6(tagLen, server)
	f.place(tagged4)
	f.read4(tagLen, server)
	f.place(v6)
	f.read6(0, server)
	f.place(v4)
	f.read4(0, server)
}

// read4 brings the server's address and port of the IPv4 packet at base to
// scratch memory.
func (f *filter) read4(base uint32, server end) {
	f.emit(bpf.LoadAbsolute{Off: base + 9, Size: 1})
	f.jumpUnless(protoTCP, f.drop)
	f.emit(bpf.LoadAbsolute{Off: base + server.addr4, Size: 4}, bpf.StoreScratch{Src: bpf.RegA, N: slotAddr})
	f.emit(bpf.LoadAbsolute{Off: base + 6, Size: 2})
	f.jumpIf(bpf.JumpBitsSet, 0x1fff, f.addr4) // no ports in a later fragment
	f.emit(
		bpf.LoadMemShift{Off: base},
		bpf.LoadIndirect{Off: base + server.ports, Size: 2},
		bpf.StoreScratch{Src: bpf.RegA, N: slotPort},
	)
	if client := server.other(); len(f.spec.choice) > 0 {
		f.emit(bpf.LoadIndirect{Off: base + client.ports, Size: 2}, bpf.StoreScratch{Src: bpf.RegA, N: slotClientPort})
		f.words(base+client.addr4, 1, slotClient)
	}
	f.jump(f.match4)
}

// read6 does the same for IPv6.
func (f *filter) read6(base uint32, server end) {
	f.words(base+server.addr6, 4, slotAddr)
	f.emit(bpf.LoadAbsolute{Off: base + 6, Size: 1})
	for _, ext := range []uint32{0, 43, 44, 51, 60} { // as packet.View skips them
		f.jumpIf(bpf.JumpEqual, ext, f.addr6)
	}
	f.jumpUnless(protoTCP, f.drop)
	f.emit(bpf.LoadAbsolute{Off: base + 40 + server.ports, Size: 2}, bpf.StoreScratch{Src: bpf.RegA, N: slotPort})
	if client := server.other(); len(f.spec.choice) > 0 {
		f.emit(bpf.LoadAbsolute{Off: base + 40 + client.ports, Size: 2}, bpf.StoreScratch{Src: bpf.RegA, N: slotClientPort})
		f.words(base+client.addr6, 4, slotClient)
	}
	f.jump(f.match6)
}

// words brings n words of the packet from off on to scratch memory from slot on.
func (f *filter) words(off uint32, n, slot int) {
	for i := range n {
		f.emit(bpf.LoadAbsolute{Off: off + 4*uint32(i), Size: 4}, bpf.StoreScratch{Src: bpf.RegA, N: slot + i})
	}
}

// list4 decides about IPv4 packets.
func (f *filter) list4(matches []Match) {
	f.list(matches, f.match4, f.addr4, f.found4, func(a netip.Addr) (words []uint32) {
		if a.Is4() {
			b := a.As4()
			words = []uint32{binary.BigEndian.Uint32(b[:])}
		}
		return words
	})
}

// list6 decides about IPv6 packets.
func (f *filter) list6(matches []Match) {
	f.list(matches, f.match6, f.addr6, f.found6, func(a netip.Addr) (words []uint32) {
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
// addresses are words, and goes to found. Without ports, at addr, the address has
// to do: the reader looks closer.
func (f *filter) list(matches []Match, match, addr, found label, words func(netip.Addr) []uint32) {
	var anyPorts []uint32
	var addrs []netip.Addr
	ports := map[netip.Addr][]uint32{}
	for _, m := range matches {
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
			f.jumpIf(bpf.JumpEqual, port, found)
		}
		f.place(other)
	}
	if len(anyPorts) > 0 {
		f.oursOnly()
		f.emit(bpf.LoadScratch{Dst: bpf.RegA, N: slotPort})
		for _, port := range anyPorts {
			f.jumpIf(bpf.JumpEqual, port, found)
		}
	}
	f.jump(f.none)

	f.place(addr)
	for _, a := range addrs {
		other := f.label()
		f.compare(words(a), other)
		f.jump(f.keep)
		f.place(other)
	}
	if len(anyPorts) == 0 {
		f.jump(f.none)
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
	f.jumpUnless(typeOutgoing, f.none)
	f.place(ours)
}
