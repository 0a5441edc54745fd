package netstack

import (
	"encoding/binary"
	"net/netip"
)

// Inside a stack every session runs from one of a handful of addresses to one
// fixed address; neither ever leaves. gVisor looks addresses up by scanning, so
// the many outward ones are kept out of it and translated in the link endpoint.
const (
	maxInner    = 8 // addresses per stack and family
	innerPorts  = 1<<16 - 1
	ip4Header   = 20
	ip6Header   = 40
	tcpHeader   = 20
	protoTCP    = 6
	tcpCsumAt   = 16
	maxHeaders  = 512 // of a packet that is looked at; longer ones are strays
	virtioHdr   = 10
	innerRemote = 1 // last byte of the fixed remote address
	innerLocal  = 16
)

// inner4 and inner6 are the addresses inside a stack, by their last byte:
// 192.0.0.0/24 is kept for protocols' own use (RFC 6890), fd00::/64 is local.
func inner4(last byte) [4]byte { return [4]byte{192, 0, 0, last} }

func inner6(last byte) [16]byte { return [16]byte{0: 0xfd, 15: last} }

// A slotID names a session within its stack and family: the inner address it
// runs from and its inner port.
type slotID uint32

func (s slotID) inner() byte  { return byte(s>>16) + innerLocal }
func (s slotID) port() uint16 { return uint16(s) }

// A path is what a session's packets carry outside: from outward to target.
type path struct {
	v6               bool
	outPort, dstPort uint16
	pseudo           uint32 // sum of the pseudo-header but for the length
	out, dst         [16]byte
}

func newPath(out, dst netip.AddrPort) path {
	p := path{v6: out.Addr().Is6(), outPort: out.Port(), dstPort: dst.Port()}
	copy(p.out[:], out.Addr().AsSlice())
	copy(p.dst[:], dst.Addr().AsSlice())
	p.pseudo = protoTCP
	for i := 0; i < 16; i += 2 {
		p.pseudo += uint32(binary.BigEndian.Uint16(p.out[i:])) + uint32(binary.BigEndian.Uint16(p.dst[i:]))
	}
	return p
}

// from reports whether a packet with this source is the target's.
func (p *path) from(src []byte, port uint16) bool {
	return port == p.dstPort && string(src) == string(p.dst[:len(src)])
}

// to reports whether a packet with this destination is the session's: tuples of
// original addresses may meet.
func (p *path) to(dst []byte) bool { return string(dst) == string(p.out[:len(dst)]) }

// outward translates pkt, a packet of the stack, in place. Its TCP checksum
// becomes that of the pseudo-header alone: the virtio header asks the kernel for
// the rest, which it never computes for a packet that does not leave the host.
func (p *path) outward(pkt []byte) (tcp []byte) {
	var length int
	if p.v6 {
		copy(pkt[8:24], p.out[:])
		copy(pkt[24:40], p.dst[:])
		tcp = pkt[ip6Header:]
		length = len(tcp)
	} else {
		copy(pkt[12:16], p.out[:4])
		copy(pkt[16:20], p.dst[:4])
		ihl := int(pkt[0]&15) * 4
		setIP4Checksum(pkt[:ihl])
		tcp = pkt[ihl:]
		length = len(tcp)
	}
	binary.BigEndian.PutUint16(tcp, p.outPort)
	binary.BigEndian.PutUint16(tcp[tcpCsumAt:], fold(p.pseudo+uint32(length)))
	return tcp
}

// inward translates the headers of a packet of the target in place, as the
// session in slot knows it. Checksums are left wrong: the kernel of this very
// host made the packet, and the stack is told not to look.
func inward(hdr []byte, tcpAt int, v6 bool, slot slotID) {
	if v6 {
		src, dst := inner6(innerRemote), inner6(slot.inner())
		copy(hdr[8:24], src[:])
		copy(hdr[24:40], dst[:])
	} else {
		src, dst := inner4(innerRemote), inner4(slot.inner())
		copy(hdr[12:16], src[:])
		copy(hdr[16:20], dst[:])
	}
	binary.BigEndian.PutUint16(hdr[tcpAt+2:], slot.port())
}

// setIP4Checksum computes the checksum of an IPv4 header (RFC 1071).
func setIP4Checksum(h []byte) {
	h[10], h[11] = 0, 0
	var sum uint32
	for i := 0; i < len(h); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(h[i:]))
	}
	binary.BigEndian.PutUint16(h[10:], ^fold(sum))
}

// fold reduces a sum of 16-bit words to one word.
func fold(sum uint32) uint16 {
	sum = sum>>16 + sum&0xffff
	return uint16(sum>>16 + sum)
}

// putVirtio writes the header that precedes each packet on the TUN (struct
// virtio_net_hdr, in the byte order of the host): the checksum is unfinished, and
// payload longer than mss is to be cut into segments of mss bytes.
func putVirtio(b []byte, v6 bool, hdrLen, tcpAt, payload, mss int) {
	clear(b[:virtioHdr])
	const needsCsum, gsoTCP4, gsoTCP6 = 1, 1, 4
	b[0] = needsCsum
	if mss > 0 && payload > mss {
		b[1] = gsoTCP4
		if v6 {
			b[1] = gsoTCP6
		}
		binary.NativeEndian.PutUint16(b[2:], uint16(hdrLen))
		binary.NativeEndian.PutUint16(b[4:], uint16(mss))
	}
	binary.NativeEndian.PutUint16(b[6:], uint16(tcpAt))
	binary.NativeEndian.PutUint16(b[8:], tcpCsumAt)
}
