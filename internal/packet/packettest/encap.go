package packettest

import (
	"encoding/binary"
	"net/netip"
)

// Header lengths of what goes around mirrored packets.
const udpHeader = 8

// Ethernet returns a frame with the IP packet ip behind VLAN tags of 802.1Q.
func Ethernet(ip []byte, tags ...uint16) []byte {
	frame := []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2}
	for _, tag := range tags {
		frame = binary.BigEndian.AppendUint16(frame, 0x8100)
		frame = binary.BigEndian.AppendUint16(frame, tag)
	}
	proto := uint16(0x0800)
	if ip[0]>>4 == 6 {
		proto = 0x86dd
	}
	return append(binary.BigEndian.AppendUint16(frame, proto), ip...)
}

// VXLANHeader is what stands between UDP and a frame of network vni.
func VXLANHeader(vni uint32) []byte {
	return binary.BigEndian.AppendUint32([]byte{0x08, 0, 0, 0}, vni<<8)
}

// GENEVEHeader is what stands between UDP and proto, a frame or IP; options have
// whole words.
func GENEVEHeader(vni uint32, proto uint16, options []byte) []byte {
	h := binary.BigEndian.AppendUint16([]byte{byte(len(options) / 4), 0}, proto)
	return append(binary.BigEndian.AppendUint32(h, vni<<8), options...)
}

// GREHeader is what stands between IP and proto; flags say which of the fields
// there are, all of them 0.
func GREHeader(flags, proto uint16) []byte {
	h := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, flags), proto)
	for _, field := range []uint16{0x8000, 0x2000, 0x1000} {
		if flags&field != 0 {
			h = append(h, 0, 0, 0, 0)
		}
	}
	return h
}

// UDP returns a datagram in an IP packet, without a UDP checksum, which tunnels
// may leave out (RFC 6935).
func UDP(src, dst netip.AddrPort, parts ...[]byte) []byte {
	n := udpHeader
	for _, p := range parts {
		n += len(p)
	}
	h := binary.BigEndian.AppendUint16(nil, src.Port())
	h = binary.BigEndian.AppendUint16(h, dst.Port())
	h = binary.BigEndian.AppendUint16(h, uint16(n))
	return IP(src.Addr(), dst.Addr(), 17, append([][]byte{append(h, 0, 0)}, parts...)...)
}

// IP returns a packet of any protocol.
func IP(src, dst netip.Addr, proto byte, parts ...[]byte) []byte {
	var b []byte
	if src.Is4() {
		b = append(b, 0x45, 0, 0, 0, 0, 0, 0, 0, 64, proto, 0, 0)
	} else {
		b = append(b, 0x60, 0, 0, 0, 0, 0, proto, 64)
	}
	b = append(append(b, src.AsSlice()...), dst.AsSlice()...)
	header := len(b)
	for _, p := range parts {
		b = append(b, p...)
	}
	setLength(b)
	if src.Is4() {
		binary.BigEndian.PutUint16(b[10:], ^fold(sum(0, b[:header])))
	}
	return b
}
