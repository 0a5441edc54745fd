package netstack

import (
	"encoding/binary"
	"net/netip"

	"flowtwin/internal/packet"
)

// answer answers a packet to a tuple without a session, as a client's kernel does
// that knows nothing of the connection:
//
//   - a FIN is acknowledged: the session has ended, its last ACK was lost, and the
//     target asks again. This is all that is left of TIME_WAIT here.
//   - Anything else is reset: the socket is one that a killed responder or a
//     session that timed out has left behind, and would live on for hours.
//
// A reset is never answered. The number of the reset is the very one that the
// target expects, so that it is obeyed, not challenged, and that was the last
// packet: there is one answer to each packet at most, and none to an answer.
func (r *reader) answer(v *packet.View) {
	switch {
	case v.Flags.Has(packet.RST):
	case v.Flags.Has(packet.FIN | packet.ACK):
		r.reply(v, packet.ACK, uint32(v.Ack), uint32(v.Seq)+uint32(v.SegLen()))
	case v.Flags.Has(packet.ACK):
		r.reply(v, packet.RST, uint32(v.Ack), 0)
	default:
		r.reply(v, packet.RST|packet.ACK, 0, uint32(v.Seq)+uint32(v.SegLen()))
	}
}

// reply sends the target a packet without payload, from the address that v is to.
func (r *reader) reply(v *packet.View, flags packet.Flags, seq, ack uint32) {
	out, in := netip.AddrPortFrom(v.Dst.Netip(), v.DstPort), netip.AddrPortFrom(v.Src.Netip(), v.SrcPort)
	p := newPath(out, in)
	var ipLen int
	var reply [virtioHdr + ip6Header + tcpHeader]byte
	ip := reply[virtioHdr:]
	if p.v6 {
		ipLen = ip6Header
		ip[0], ip[6], ip[7] = 6<<4, protoTCP, lifetime
		binary.BigEndian.PutUint16(ip[4:], tcpHeader)
	} else {
		ipLen = ip4Header
		ip[0], ip[8], ip[9] = 4<<4|5, lifetime, protoTCP
		binary.BigEndian.PutUint16(ip[2:], ip4Header+tcpHeader)
	}
	t := ip[ipLen:]
	binary.BigEndian.PutUint16(t[2:], v.SrcPort)
	binary.BigEndian.PutUint32(t[4:], seq)
	binary.BigEndian.PutUint32(t[8:], ack)
	t[12], t[13] = tcpHeader/4<<4, byte(flags)
	if !flags.Has(packet.RST) {
		binary.BigEndian.PutUint16(t[14:], 1<<16-1)
	}
	p.outward(ip[:ipLen+tcpHeader])
	putVirtio(reply[:], p.v6, ipLen+tcpHeader, ipLen, 0, 0)
	if _, err := r.tun.Write(reply[:virtioHdr+ipLen+tcpHeader]); err != nil {
		r.log.Debug("answering a stray packet", "err", err)
	}
}
