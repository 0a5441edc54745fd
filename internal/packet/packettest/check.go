package packettest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"

	"flowtwin/internal/packet"
)

// SetChecksums puts the right checksums into the IPv4 and TCP header of pkt, a
// whole packet.
func SetChecksums(pkt []byte) {
	var v packet.View
	if f := v.Parse(pkt, len(pkt)); f != packet.OK {
		panic("packettest: not a TCP packet: " + f.String())
	}
	ip, tcp := layers(&v, pkt)
	if ip != nil {
		ip[10], ip[11] = 0, 0
		binary.BigEndian.PutUint16(ip[10:], ^fold(sum(0, ip)))
	}
	tcp[16], tcp[17] = 0, 0
	binary.BigEndian.PutUint16(tcp[16:], ^fold(sum(pseudo(&v, len(tcp)), tcp)))
}

// Checksums reports what is wrong with the checksums of pkt, a whole packet.
func Checksums(pkt []byte) error {
	var v packet.View
	if f := v.Parse(pkt, len(pkt)); f != packet.OK {
		return fmt.Errorf("not a TCP packet: %s", f)
	}
	if !v.Whole() {
		return fmt.Errorf("cut: %d of %d payload bytes", len(v.Payload), v.PayloadLen)
	}
	ip, tcp := layers(&v, pkt)
	if ip != nil && fold(sum(0, ip)) != 0xffff {
		return fmt.Errorf("bad IPv4 header checksum %#04x", binary.BigEndian.Uint16(ip[10:]))
	}
	if fold(sum(pseudo(&v, len(tcp)), tcp)) != 0xffff {
		return fmt.Errorf("bad TCP checksum %#04x", binary.BigEndian.Uint16(tcp[16:]))
	}
	return nil
}

// layers returns the IPv4 header of pkt (nil for IPv6) and its TCP segment,
// bytes behind the packet's end left out.
func layers(v *packet.View, pkt []byte) (ip, tcp []byte) {
	if pkt[0]>>4 == 4 {
		ip = pkt[:int(pkt[0]&0x0f)*4]
	}
	begin := len(v.Headers) - len(v.Options) - tcpHeader
	return ip, pkt[begin : len(v.Headers)+len(v.Payload)]
}

// pseudo is the sum over the pseudo-header (RFC 9293, 3.1). The mapped form of
// an IPv4 address adds ffff, which is zero in ones' complement.
func pseudo(v *packet.View, tcpLen int) uint64 {
	return sum(sum(uint64(protoTCP)+uint64(tcpLen), v.Src[:]), v.Dst[:])
}

func sum(s uint64, b []byte) uint64 {
	for ; len(b) >= 2; b = b[2:] {
		s += uint64(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		s += uint64(b[0]) << 8
	}
	return s
}

func fold(s uint64) uint16 {
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}

// A Check is one expectation about a packet; it returns what is wrong, or "".
type Check func(v *packet.View) string

// WantTCP fails tb unless pkt is a whole TCP packet with right checksums that
// passes all checks.
func WantTCP(tb testing.TB, pkt []byte, checks ...Check) {
	tb.Helper()
	if err := Checksums(pkt); err != nil {
		tb.Errorf("packet % x: %v", pkt[:min(len(pkt), 80)], err)
		return
	}
	var v packet.View
	v.Parse(pkt, len(pkt))
	for _, check := range checks {
		if wrong := check(&v); wrong != "" {
			tb.Error(wrong)
		}
	}
}

// Src checks the source address and port.
func Src(want netip.AddrPort) Check {
	return func(v *packet.View) string {
		return differ("source", netip.AddrPortFrom(v.Src.Netip(), v.SrcPort), want)
	}
}

// Dst checks the destination address and port.
func Dst(want netip.AddrPort) Check {
	return func(v *packet.View) string {
		return differ("destination", netip.AddrPortFrom(v.Dst.Netip(), v.DstPort), want)
	}
}

// Seq checks the sequence number.
func Seq(want packet.Seq) Check {
	return func(v *packet.View) string { return differ("sequence number", v.Seq, want) }
}

// Ack checks the acknowledgement number.
func Ack(want packet.Seq) Check {
	return func(v *packet.View) string { return differ("acknowledgement", v.Ack, want) }
}

// Flags checks that exactly these control bits are set.
func Flags(want packet.Flags) Check {
	return func(v *packet.View) string { return differ("flags", v.Flags, want) }
}

// Payload checks the payload.
func Payload(want []byte) Check {
	return func(v *packet.View) string {
		if bytes.Equal(v.Payload, want) {
			return ""
		}
		return fmt.Sprintf("payload is %q, want %q", v.Payload, want)
	}
}

func differ[T comparable](what string, got, want T) string {
	if got == want {
		return ""
	}
	return fmt.Sprintf("%s is %v, want %v", what, got, want)
}
