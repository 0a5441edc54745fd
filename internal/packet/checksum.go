package packet

import (
	"encoding/binary"
	"math/bits"
)

// ChecksumOK reports whether the TCP checksum is right. The packet must be whole,
// and its checksum a finished one: a captured packet may carry one that the
// network card is still to compute, or did check before it merged packets.
func (v *View) ChecksumOK() bool { return fold(v.sum()) == 0xffff }

// Checksum returns what the TCP checksum has to be. The packet must be whole.
func (v *View) Checksum() uint16 {
	tcp := v.Headers[len(v.Headers)-len(v.Options)-tcpMinHeader:]
	// To add the complement is to take away.
	return ^fold(v.sum() + uint64(^binary.BigEndian.Uint16(tcp[16:])))
}

// sum returns the sum that the checksum completes.
func (v *View) sum() uint64 {
	tcp := v.Headers[len(v.Headers)-len(v.Options)-tcpMinHeader:]
	// The mapped form of an IPv4 address adds ffff, which is nothing in ones'
	// complement.
	s := sum(protoTCP+uint64(len(tcp)+len(v.Payload)), v.Src[:])
	s = sum(s, v.Dst[:])
	s = sum(s, tcp) // of whole words, so the payload begins with one
	return sum(s, v.Payload)
}

// ChecksumPartial reports whether the TCP checksum is one that was left to the
// network card: so far it covers the pseudo-header only. Recordings of a host's own
// packets, and of merged ones, are full of these.
func (v *View) ChecksumPartial() bool {
	tcp := v.Headers[len(v.Headers)-len(v.Options)-tcpMinHeader:]
	s := sum(sum(protoTCP+uint64(len(tcp)+v.PayloadLen), v.Src[:]), v.Dst[:])
	return fold(s) == binary.BigEndian.Uint16(tcp[16:])
}

// sum adds b, as 64-bit numbers in ones' complement: that is the same as adding
// 16-bit ones, once folded (RFC 1071, 2).
func sum(s uint64, b []byte) uint64 {
	var c uint64
	for len(b) >= 64 {
		s, c = bits.Add64(s, binary.BigEndian.Uint64(b), 0)
		s, c = bits.Add64(s, binary.BigEndian.Uint64(b[8:]), c)
		s, c = bits.Add64(s, binary.BigEndian.Uint64(b[16:]), c)
		s, c = bits.Add64(s, binary.BigEndian.Uint64(b[24:]), c)
		s, c = bits.Add64(s, binary.BigEndian.Uint64(b[32:]), c)
		s, c = bits.Add64(s, binary.BigEndian.Uint64(b[40:]), c)
		s, c = bits.Add64(s, binary.BigEndian.Uint64(b[48:]), c)
		s, c = bits.Add64(s, binary.BigEndian.Uint64(b[56:]), c)
		s, c = bits.Add64(s, 0, c)
		s += c
		b = b[64:]
	}
	for len(b) >= 8 {
		s, c = bits.Add64(s, binary.BigEndian.Uint64(b), 0)
		s += c
		b = b[8:]
	}
	if len(b) > 0 {
		var last [8]byte
		copy(last[:], b)
		s, c = bits.Add64(s, binary.BigEndian.Uint64(last[:]), 0)
		s += c
	}
	return s
}

func fold(s uint64) uint16 {
	s = s>>32 + s&0xffffffff
	s = s>>32 + s&0xffffffff
	s = s>>16 + s&0xffff
	s = s>>16 + s&0xffff
	return uint16(s)
}
