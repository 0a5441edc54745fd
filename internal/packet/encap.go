package packet

import "encoding/binary"

// Encap is a set of encapsulations, in which mirrored packets come from another
// host.
type Encap uint8

// The encapsulations that mirrors use.
const (
	VXLAN  Encap = 1 << iota // RFC 7348
	GENEVE                   // RFC 8926
	GRE                      // RFC 2784 and 2890, with IP, Ethernet or ERSPAN I and II inside
)

// Where the encapsulations are found.
const (
	PortVXLAN  = 4789
	PortGENEVE = 6081
	ProtoGRE   = 47
	ProtoUDP   = 17
)

// Protocol numbers of what is inside (EtherTypes).
const (
	etherIPv4   = 0x0800
	etherIPv6   = 0x86dd
	etherVLAN   = 0x8100
	etherQinQ   = 0x88a8
	etherBridge = 0x6558 // an Ethernet frame
	etherERSPAN = 0x88be
)

const (
	udpHeader    = 8
	vxlanHeader  = 8
	geneveHeader = 8
	greHeader    = 4
	erspanHeader = 8
	etherHeader  = 14
	vlanTag      = 4
	maxVLANTags  = 4
)

// Inner returns the IP packet inside the packet at b, which begins with its IP
// header, and how long that was on the wire (see [View.Parse]): what a mirror has
// cut off is missing in both. The fault is NotTCP for what is none of the
// encapsulations of e, or has no IP packet inside. It borrows b: inner aliases it.
func (e Encap) Inner(b []byte, wireLen int) (inner []byte, innerLen int, f Fault) {
	proto, off, total, f := outer(b, wireLen)
	if f != OK {
		return nil, 0, f
	}
	if total < off {
		return nil, 0, Malformed
	}
	b = b[:min(total, len(b))]
	inside := uint16(etherBridge)
	switch {
	case proto == ProtoUDP && len(b) < off+udpHeader:
		return nil, 0, Truncated
	case proto == ProtoUDP && binary.BigEndian.Uint16(b[off+2:]) == PortVXLAN && e&VXLAN != 0:
		off, f = skipVXLAN(b, off+udpHeader)
	case proto == ProtoUDP && binary.BigEndian.Uint16(b[off+2:]) == PortGENEVE && e&GENEVE != 0:
		inside, off, f = skipGENEVE(b, off+udpHeader)
	case proto == ProtoGRE && e&GRE != 0:
		inside, off, f = skipGRE(b, off)
	default:
		return nil, 0, NotTCP
	}
	if f == OK && inside == etherBridge {
		inside, off, f = skipEthernet(b, off)
	}
	switch {
	case f != OK:
		return nil, 0, f
	case inside != etherIPv4 && inside != etherIPv6:
		return nil, 0, NotTCP
	case off >= len(b):
		return nil, 0, Truncated
	}
	return b[off:len(b):len(b)], total - off, OK
}

// outer reads the header of the packet around: the protocol behind it, where that
// begins, and the packet's length.
func outer(b []byte, wireLen int) (proto byte, off, total int, f Fault) {
	switch {
	case len(b) >= ip4MinHeader && b[0]>>4 == 4:
		total = int(binary.BigEndian.Uint16(b[2:]))
		off = int(b[0]&0x0f) * 4
		proto = b[9]
		if binary.BigEndian.Uint16(b[6:])&0x3fff != 0 {
			f = Fragment
		}
		if off < ip4MinHeader {
			f = Malformed
		}
	case len(b) >= ip6Header && b[0]>>4 == 6:
		total = int(binary.BigEndian.Uint16(b[4:]))
		if total != 0 {
			total += ip6Header
		}
		proto, off, f = skipExtensions(b, b[6])
	default:
		f = Truncated
	}
	if total == 0 && wireLen > maxIPLen {
		total = wireLen
	}
	return proto, off, total, f
}

func skipVXLAN(b []byte, off int) (int, Fault) {
	if len(b) < off+vxlanHeader {
		return 0, Truncated
	}
	if b[off]&0x08 == 0 { // the network's number is not valid
		return 0, Malformed
	}
	return off + vxlanHeader, OK
}

func skipGENEVE(b []byte, off int) (inside uint16, next int, f Fault) {
	if len(b) < off+geneveHeader {
		return 0, 0, Truncated
	}
	if b[off]>>6 != 0 {
		return 0, 0, Malformed // of another version
	}
	if b[off+1]&0x80 != 0 {
		return 0, 0, NotTCP // control
	}
	return binary.BigEndian.Uint16(b[off+2:]), off + geneveHeader + int(b[off]&0x3f)*4, OK
}

func skipGRE(b []byte, off int) (inside uint16, next int, f Fault) {
	const checksum, routing, key, sequence, version = 0x8000, 0x4000, 0x2000, 0x1000, 0x0007
	if len(b) < off+greHeader {
		return 0, 0, Truncated
	}
	flags := binary.BigEndian.Uint16(b[off:])
	inside = binary.BigEndian.Uint16(b[off+2:])
	if flags&version != 0 {
		return 0, 0, NotTCP // PPTP
	}
	if flags&routing != 0 {
		return 0, 0, Malformed // RFC 2784, 2.3
	}
	off += greHeader
	for _, field := range [...]uint16{checksum, key, sequence} {
		if flags&field != 0 {
			off += 4
		}
	}
	if inside == etherERSPAN {
		inside = etherBridge
		if flags&sequence != 0 { // type II; type I has no header
			off += erspanHeader
		}
	}
	return inside, off, OK
}

func skipEthernet(b []byte, off int) (inside uint16, next int, f Fault) {
	for n := 0; ; n++ {
		if len(b) < off+etherHeader {
			return 0, 0, Truncated
		}
		inside = binary.BigEndian.Uint16(b[off+etherHeader-2:])
		if inside != etherVLAN && inside != etherQinQ {
			return inside, off + etherHeader, OK
		}
		if n == maxVLANTags {
			return 0, 0, Malformed
		}
		off += vlanTag
	}
}
