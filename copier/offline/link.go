package offline

import (
	"encoding/binary"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

// Link types (draft-ietf-opsawg-pcaplinktype).
const (
	linkNull     = 0
	linkEthernet = 1
	linkRawBSD   = 12
	linkRawOpen  = 14
	linkRaw      = 101
	linkLoop     = 108
	linkSLL      = 113
	linkIPv4     = 228
	linkIPv6     = 229
	linkSLL2     = 276
)

const (
	etherIPv4 = 0x0800
	etherIPv6 = 0x86dd
	etherVLAN = 0x8100
	etherQinQ = 0x88a8
	etherOld  = 0x9100 // QinQ before it was a standard
)

// strip cuts the link's header off r, so that its data begins with the IP header.
// It reports false when there is none.
func (r *record) strip() bool {
	var off int
	switch r.link {
	case linkEthernet:
		if off = behindTags(r.data, 12, 14); off < 0 { // PPPoE, MPLS
			off = decode(r.link, r.data)
		}
	case linkRaw, linkRawBSD, linkRawOpen, linkIPv4, linkIPv6:
		off = 0
	case linkNull, linkLoop: // the address family, in some order and by some system
		off = 4
	case linkSLL:
		off = behindTags(r.data, 14, 16)
	case linkSLL2:
		if off = behindTags(r.data, 0, 20); off > 0 {
			r.iface = int32(binary.BigEndian.Uint32(r.data[4:]))
		}
	default:
		off = decode(r.link, r.data)
	}
	if off < 0 || off >= len(r.data) || r.data[off]>>4 != 4 && r.data[off]>>4 != 6 {
		return false
	}
	r.data = r.data[off:]
	r.wireLen -= off
	return true
}

// behindTags returns where the IP header begins in b, whose type stands at typeAt
// and whose link header is n bytes long, or -1.
func behindTags(b []byte, typeAt, n int) int {
	for len(b) >= n {
		switch binary.BigEndian.Uint16(b[typeAt:]) {
		case etherIPv4, etherIPv6:
			return n
		case etherVLAN, etherQinQ, etherOld:
			typeAt, n = n+2, n+4
		default:
			return -1
		}
	}
	return -1
}

// decode leaves it to gopacket to find the IP header.
func decode(link uint16, b []byte) int {
	if link > 255 {
		return -1
	}
	p := gopacket.NewPacket(b, layers.LinkType(link), gopacket.DecodeOptions{Lazy: true, NoCopy: true})
	ip := p.NetworkLayer()
	if ip == nil || len(ip.LayerContents()) == 0 {
		return -1
	}
	switch ip.LayerType() {
	case layers.LayerTypeIPv4, layers.LayerTypeIPv6:
	default:
		return -1
	}
	// NoCopy: the contents are a part of b.
	off := cap(b) - cap(ip.LayerContents())
	if off < 0 || off >= len(b) || &b[off] != &ip.LayerContents()[0] {
		return -1
	}
	return off
}
