package packet

import "encoding/binary"

// Fault says why bytes are not a usable TCP packet.
type Fault uint8

// What can be wrong with a packet.
const (
	OK        Fault = iota
	NotTCP          // another protocol, or an IP version other than 4 and 6
	Fragment        // a piece of a fragmented IP packet
	Truncated       // fewer bytes than the headers themselves need
	Malformed       // lengths that contradict each other

	// BadChecksum is not found by Parse, see [View.ChecksumOK].
	BadChecksum
)

// String returns the fault as a metric label.
func (f Fault) String() string {
	switch f {
	case OK:
		return "ok"
	case NotTCP:
		return "not_tcp"
	case Fragment:
		return "fragment"
	case Truncated:
		return "truncated"
	case Malformed:
		return "malformed"
	case BadChecksum:
		return "bad_checksum"
	}
	return "unknown"
}

// A View is a parsed IP/TCP packet. It is a plain value to be reused: Parse
// overwrites every field, and leaves them undefined when it reports a fault. All
// slices alias the bytes given to Parse and live as long as they do.
type View struct {
	Src, Dst         Addr
	SrcPort, DstPort uint16
	Seq, Ack         Seq
	Flags            Flags
	Window           uint16 // unscaled, as on the wire
	IPID             uint16 // IPv4 identification, 0 for IPv6

	// PayloadLen is the length of the TCP payload on the wire, from the IP
	// header. It is larger than len(Payload) when the capture was cut.
	PayloadLen int
	// Payload is the part of the TCP payload that was captured.
	Payload []byte
	// Headers is the IP header with its extensions and the TCP header with its
	// options.
	Headers []byte
	// Options are the TCP options, padding included.
	Options []byte
}

// Whole reports whether all of the payload was captured.
func (v *View) Whole() bool { return len(v.Payload) == v.PayloadLen }

// SegLen returns the sequence space that the segment covers: its payload, and
// one each for SYN and FIN (RFC 9293, 3.4).
func (v *View) SegLen() int {
	n := v.PayloadLen
	if v.Flags&SYN != 0 {
		n++
	}
	if v.Flags&FIN != 0 {
		n++
	}
	return n
}

// The IPv6 extension headers that can stand in front of TCP.
const (
	extHopByHop       = 0
	extRouting        = 43
	extFragment       = 44
	extAuthentication = 51
	extDestination    = 60
)

const (
	protoTCP      = 6
	ip4MinHeader  = 20
	ip6Header     = 40
	tcpMinHeader  = 20
	maxExtHeaders = 8

	// maxIPLen is the largest length that the 16-bit length fields can state.
	maxIPLen = 65535
)

// Parse reads the packet at b, which begins with its IP header and may be cut
// short anywhere or padded behind the length that the IP header states; wireLen
// is the packet's length as the capture reported it before cutting, used only
// where the IP header itself states none: super-packets too long for its length
// field, which is then 0 (BIG TCP). In a shorter packet a length of 0 is
// Malformed, as the kernel sees it too; its bytes never reached the application.
//
// It borrows b: v's slices alias it. Checksums are not looked at, since captured
// packets may carry unfinished ones (TP_STATUS_CSUMNOTREADY): see
// [View.ChecksumOK].
func (v *View) Parse(b []byte, wireLen int) Fault {
	if len(b) == 0 {
		return Truncated
	}
	switch b[0] >> 4 {
	case 4:
		return v.parse4(b, wireLen)
	case 6:
		return v.parse6(b, wireLen)
	}
	return NotTCP
}

func (v *View) parse4(b []byte, wireLen int) Fault {
	if len(b) < ip4MinHeader {
		return Truncated
	}
	if b[9] != protoTCP {
		return NotTCP
	}
	if binary.BigEndian.Uint16(b[6:])&0x3fff != 0 { // more fragments, or an offset
		return Fragment
	}
	ihl := int(b[0]&0x0f) * 4
	total := int(binary.BigEndian.Uint16(b[2:]))
	if total == 0 && wireLen > maxIPLen {
		total = wireLen
	}
	if ihl < ip4MinHeader || total < ihl {
		return Malformed
	}
	v.Src.set4(b[12:16])
	v.Dst.set4(b[16:20])
	v.IPID = binary.BigEndian.Uint16(b[4:])
	return v.parseTCP(b, ihl, total)
}

// set4 makes a the IPv4 address at b. Two whole-word stores: pieces put together
// in place would stall whoever reads the address next.
func (a *Addr) set4(b []byte) {
	binary.BigEndian.PutUint64(a[:8], 0)
	binary.BigEndian.PutUint64(a[8:], 0xffff<<32|uint64(binary.BigEndian.Uint32(b)))
}

// mapped reports whether a is an IPv4-mapped address.
func (a *Addr) mapped() bool {
	return binary.BigEndian.Uint64(a[:]) == 0 && binary.BigEndian.Uint32(a[8:]) == 0xffff
}

func (v *View) parse6(b []byte, wireLen int) Fault {
	if len(b) < ip6Header {
		return Truncated
	}
	total := int(binary.BigEndian.Uint16(b[4:])) + ip6Header
	if total == ip6Header && wireLen > ip6Header+maxIPLen {
		total = wireLen
	}
	next, off, fault := skipExtensions(b, b[6])
	if fault != OK {
		return fault
	}
	if next != protoTCP {
		return NotTCP
	}
	if total < off {
		return Malformed
	}
	v.Src, v.Dst = Addr(b[8:24]), Addr(b[24:40])
	if v.Src.mapped() || v.Dst.mapped() {
		return Malformed // would pass for the IPv4 flow of that name; Linux refuses it as well
	}
	v.IPID = 0
	return v.parseTCP(b, off, total)
}

// skipExtensions walks the IPv6 extension headers (RFC 8200, 4) and returns the
// protocol behind them and where it begins.
func skipExtensions(b []byte, next byte) (proto byte, off int, f Fault) {
	off = ip6Header
	for n := 0; ; n++ {
		switch next {
		case extHopByHop, extRouting, extFragment, extAuthentication, extDestination:
		default:
			return next, off, OK
		}
		if n == maxExtHeaders {
			return 0, 0, Malformed
		}
		if len(b) < off+8 {
			return 0, 0, Truncated
		}
		size := 8 + int(b[off+1])*8
		switch next {
		case extAuthentication: // its length is in words (RFC 4302)
			size = 8 + int(b[off+1])*4
		case extFragment:
			// Offset 0 and no more to come is an atomic fragment, which is whole
			// (RFC 6946).
			if binary.BigEndian.Uint16(b[off+2:])&0xfff9 != 0 {
				return 0, 0, Fragment
			}
			size = 8
		}
		next, off = b[off], off+size
	}
}

// parseTCP reads the TCP header at b[off:]; total is the packet's length on the
// wire.
func (v *View) parseTCP(b []byte, off, total int) Fault {
	if len(b) < off+tcpMinHeader {
		return Truncated
	}
	t := b[off:]
	hdr := int(t[12]>>4) * 4
	if hdr < tcpMinHeader || off+hdr > total {
		return Malformed
	}
	if len(t) < hdr {
		return Truncated
	}
	v.SrcPort = binary.BigEndian.Uint16(t)
	v.DstPort = binary.BigEndian.Uint16(t[2:])
	v.Seq = Seq(binary.BigEndian.Uint32(t[4:]))
	v.Ack = Seq(binary.BigEndian.Uint32(t[8:]))
	v.Flags = Flags(t[13])
	v.Window = binary.BigEndian.Uint16(t[14:])
	start := off + hdr
	end := min(total, len(b))
	v.Headers = b[:start:start]
	v.Options = t[tcpMinHeader:hdr:hdr]
	v.Payload = b[start:end:end]
	v.PayloadLen = total - start
	return OK
}
