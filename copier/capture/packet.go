package capture

import (
	"encoding/binary"
	"sync/atomic"

	"flowtwin/internal/flow"
	"flowtwin/internal/packet"
)

// tagLen is the length of a VLAN tag as it stands before a packet: its number
// and the protocol behind it.
const tagLen = 4

// packetInfo is what else the kernel says of a packet.
type packetInfo struct {
	proto  uint16 // behind all tags; on old kernels the inner tag's own
	tagged bool   // had a VLAN tag, which was stripped

	unfinished bool // the checksum is not there yet, or was checked when packets were merged
}

// Stamp returns when the packet was taken from its wire.
func (p *Packet) Stamp() int64 {
	if p.Recorded != 0 {
		return p.Recorded
	}
	return p.Time
}

// innerTag reports whether a second VLAN tag stands before the IP header of p.
//
// Only received frames that had a tag stripped can have one. Old kernels say so
// by the protocol. New ones (since 6.10) look behind the tag and give the IP
// version instead, so the tag shows by being no IP header of this version. One
// that looks like it, by its priority, is told by the length not being right.
func (i packetInfo) innerTag(p *Packet) bool {
	if !i.tagged || !p.ToServer || len(p.Data) < tagLen+20 {
		return false
	}
	if i.proto == etherVLAN || i.proto == etherQinQ {
		return true
	}
	return !plausible(p.Data, i.proto, p.WireLen) && plausible(p.Data[tagLen:], i.proto, p.WireLen-tagLen)
}

// plausible reports whether b can be the beginning of a packet of n bytes.
func plausible(b []byte, proto uint16, n int) bool {
	var length int
	switch {
	case proto == etherIPv4 && b[0]>>4 == 4 && b[0]&0xf >= 5:
		length = int(binary.BigEndian.Uint16(b[2:]))
	case proto == etherIPv6 && b[0]>>4 == 6:
		if length = int(binary.BigEndian.Uint16(b[4:])); length != 0 {
			length += 40
		}
	default:
		return false
	}
	// Ethernet pads up to 46 bytes; super-packets beyond 64 KiB give no length.
	return length == n || length < n && n <= 46 || length == 0
}

// portless reports whether the filter could not see the ports of p, because of
// IPv6 extension headers, and therefore took it by its address alone.
func portless(b []byte) bool {
	return len(b) >= 40 && b[0]>>4 == 6 && b[6] != protoTCP
}

// unwrap makes p the packet inside the mirrored packet that it is, and reports false
// when there is none, or p.Fault with it.
func (p *Packet) unwrap(e packet.Encap, info packetInfo) bool {
	var f packet.Fault
	p.Data, p.WireLen, f = e.Inner(p.Data, p.WireLen)
	p.Checked = info.unfinished // what the network card has found right is only the packet around
	if f != packet.OK && f != packet.NotTCP {
		p.Fault = f
	}
	return f == packet.OK
}

// A selection is what a filter selects by.
type selection struct {
	matches []Match
	choice  flow.Choice
	anyWay  bool // some servers are elsewhere: the way of a packet is not its direction
}

// matcher decides again about packets of which the filter could not see, or cannot
// tell, everything.
type matcher struct {
	by   atomic.Pointer[selection]
	view packet.View
}

// needed reports whether wants has to look at b.
func (m *matcher) needed(b []byte) bool { return portless(b) || m.by.Load().anyWay }

// wants reports whether p is of a server in the list, or is nothing that can be
// told, which is for the reader to count. The directions are tried in the same
// order as the filter does, which has cut p by what it found.
func (m *matcher) wants(p *Packet) bool {
	v := &m.view
	switch v.Parse(p.Data, p.WireLen) {
	case packet.OK:
	case packet.NotTCP:
		return false
	default:
		return true
	}
	by := m.by.Load()
	to, from := by.has(&v.Dst, v.DstPort), by.has(&v.Src, v.SrcPort)
	switch {
	case p.ToServer && to || !p.ToServer && from:
	case by.anyWay && (to || from):
		p.ToServer = to
	default:
		return false
	}
	if p.ToServer {
		return by.choice.Takes(&v.Src, v.SrcPort)
	}
	return by.choice.Takes(&v.Dst, v.DstPort)
}

// has reports whether a server is in the list.
func (s *selection) has(addr *packet.Addr, port uint16) bool {
	for i := range s.matches {
		w := &s.matches[i]
		if w.Port == port && (!w.Addr.IsValid() || packet.AddrFrom(w.Addr) == *addr) {
			return true
		}
	}
	return false
}
