// Package packettest builds and checks the IPv4 and IPv6 TCP packets that tests
// of other packages feed in and get out.
//
// What it builds is what a kernel would send: lengths, padding and checksums are
// right. A test that needs a broken packet breaks the bytes it got.
package packettest

import (
	"encoding/binary"
	"net/netip"

	"flowtwin/internal/packet"
)

// A Packet describes one TCP packet. Src and Dst must be of one address family,
// which decides the IP version; an IPv4-mapped address counts as IPv4. The zero
// value of every other field is usable.
type Packet struct {
	Src, Dst netip.AddrPort
	Seq, Ack packet.Seq
	Flags    packet.Flags
	Window   uint16 // 0: 65535
	IPID     uint16 // IPv4 identification

	// Options are TCP options, padded by the builder; see [MSS] and its like.
	Options []byte
	// IPOptions are IPv4 options, padded by the builder.
	IPOptions []byte
	// Extensions are IPv6 extension headers, in order.
	Extensions []Extension
	Payload    []byte
}

// An Extension is an IPv6 extension header.
type Extension struct {
	Type byte // 0 hop-by-hop, 43 routing, 44 fragment, 51 authentication, 60 destination options
	// Body is what follows the next-header and the length byte. The builder pads
	// it; a fragment header takes its first 6 bytes.
	Body []byte
}

// IP header lengths, and the protocol number of TCP.
const (
	ip4Header = 20
	ip6Header = 40
	tcpHeader = 20
	protoTCP  = 6
)

// Bytes returns p as a new packet, beginning with its IP header.
func (p Packet) Bytes() []byte { return p.Append(nil) }

// Append appends p to b. A packet too long for the IP length field gets 0 there,
// as Linux does with super-packets (BIG TCP).
func (p Packet) Append(b []byte) []byte {
	start := len(b)
	src, dst := p.Src.Addr().Unmap(), p.Dst.Addr().Unmap()
	if src.Is4() != dst.Is4() || !src.IsValid() || !dst.IsValid() {
		panic("packettest: addresses of different or no family")
	}
	if src.Is4() {
		b = p.appendIP4(b, src, dst)
	} else {
		b = p.appendIP6(b, src, dst)
	}
	b = p.appendTCP(b)
	setLength(b[start:])
	SetChecksums(b[start:])
	return b
}

func (p Packet) appendIP4(b []byte, src, dst netip.Addr) []byte {
	options := pad4(p.IPOptions)
	b = append(b, 0x40|byte((ip4Header+len(options))/4), 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, p.IPID)
	b = append(b, 0x40, 0, 64, protoTCP, 0, 0) // don't fragment, TTL 64
	b = append(b, src.AsSlice()...)
	b = append(b, dst.AsSlice()...)
	return append(b, options...)
}

func (p Packet) appendIP6(b []byte, src, dst netip.Addr) []byte {
	next := func(i int) byte {
		if i < len(p.Extensions) {
			return p.Extensions[i].Type
		}
		return protoTCP
	}
	b = append(b, 0x60, 0, 0, 0, 0, 0, next(0), 64)
	b = append(b, src.AsSlice()...)
	b = append(b, dst.AsSlice()...)
	for i, e := range p.Extensions {
		b = append(b, e.bytes(next(i+1))...)
	}
	return b
}

func (e Extension) bytes(next byte) []byte {
	const fragment, authentication = 44, 51
	h := append([]byte{next, 0}, e.Body...)
	for len(h)%8 != 0 || len(h) == 0 {
		h = append(h, 0)
	}
	switch e.Type {
	case fragment:
		return h[:8]
	case authentication:
		h[1] = byte(len(h)/4 - 2)
	default:
		h[1] = byte(len(h)/8 - 1)
	}
	return h
}

func (p Packet) appendTCP(b []byte) []byte {
	options := pad4(p.Options)
	window := p.Window
	if window == 0 {
		window = 65535
	}
	b = binary.BigEndian.AppendUint16(b, p.Src.Port())
	b = binary.BigEndian.AppendUint16(b, p.Dst.Port())
	b = binary.BigEndian.AppendUint32(b, uint32(p.Seq))
	b = binary.BigEndian.AppendUint32(b, uint32(p.Ack))
	b = append(b, byte((tcpHeader+len(options))/4)<<4, byte(p.Flags))
	b = binary.BigEndian.AppendUint16(b, window)
	b = append(b, 0, 0, 0, 0) // checksum, urgent pointer
	b = append(b, options...)
	return append(b, p.Payload...)
}

// pad4 ends options with End of Option List up to a whole number of words.
func pad4(options []byte) []byte {
	padded := append([]byte(nil), options...)
	for len(padded)%4 != 0 {
		padded = append(padded, 0)
	}
	if len(padded) > 40 {
		panic("packettest: more than 40 bytes of options")
	}
	return padded
}

func setLength(pkt []byte) {
	at, n := 2, len(pkt)
	if pkt[0]>>4 == 6 {
		at, n = 4, len(pkt)-ip6Header
	}
	if n > 65535 {
		n = 0
	}
	binary.BigEndian.PutUint16(pkt[at:], uint16(n))
}

// MSS is the option that announces a maximum segment size.
func MSS(n uint16) []byte { return []byte{2, 4, byte(n >> 8), byte(n)} }

// WindowScale is the option that announces a window scale, with a NOP in front.
func WindowScale(shift uint8) []byte { return []byte{1, 3, 3, shift} }

// Timestamps is the timestamps option (RFC 7323), aligned by two NOPs.
func Timestamps(value, echo uint32) []byte {
	b := []byte{1, 1, 8, 10}
	b = binary.BigEndian.AppendUint32(b, value)
	return binary.BigEndian.AppendUint32(b, echo)
}
