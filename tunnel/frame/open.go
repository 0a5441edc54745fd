package frame

import (
	"encoding/binary"

	"flowtwin/internal/flow"
	"flowtwin/internal/packet"
)

// Open begins a flow. Its number is chosen by the copier, dense from 0, and is
// free for another flow of the same lane only after the responder's Closed.
type Open struct {
	Key      flow.Key
	Map      uint16 // index into the maps of the handshake
	Time     int64  // capture time of the first packet, ns since the epoch
	BaseSeen uint64 // answer bytes that the client had acknowledged before this frame
	MSS      uint16 // the client's, from its SYN; 0 unknown
	RTT      uint32 // client's round-trip time in µs, from its handshake; 0 unknown
	Copies   uint16 // sessions that replay the flow, 1 to MaxCopies; 0 is 1
	Jitter   uint32 // ms over which the copies behind the first are spread
}

// MaxCopies is how often a flow may be replayed at most.
const MaxCopies = 1000

// openLen: client 16, server 16, ports 2 + 2, ISS 4, map 2, MSS 2, RTT 4,
// time 8, base seen 8, copies 2, jitter 4.
const openLen = 70

// OpenSize is the length of an Open frame, header included.
const OpenSize = HeaderLen + openLen

// AppendOpen appends an Open frame.
func AppendOpen(b []byte, flow uint32, o *Open) []byte {
	b = appendHeader(b, TypeOpen, flow, openLen)
	b = append(b, o.Key.Client[:]...)
	b = append(b, o.Key.Server[:]...)
	b = binary.BigEndian.AppendUint16(b, o.Key.ClientPort)
	b = binary.BigEndian.AppendUint16(b, o.Key.ServerPort)
	b = binary.BigEndian.AppendUint32(b, uint32(o.Key.ISS))
	b = binary.BigEndian.AppendUint16(b, o.Map)
	b = binary.BigEndian.AppendUint16(b, o.MSS)
	b = binary.BigEndian.AppendUint32(b, o.RTT)
	b = binary.BigEndian.AppendUint64(b, uint64(o.Time))
	b = binary.BigEndian.AppendUint64(b, o.BaseSeen)
	b = binary.BigEndian.AppendUint16(b, o.Copies)
	return binary.BigEndian.AppendUint32(b, o.Jitter)
}

// ParseOpen reads the body of an Open frame.
func ParseOpen(body []byte) (o Open, ok bool) {
	if len(body) != openLen {
		return Open{}, false
	}
	o.Key.Client = packet.Addr(body[0:16])
	o.Key.Server = packet.Addr(body[16:32])
	o.Key.ClientPort = binary.BigEndian.Uint16(body[32:])
	o.Key.ServerPort = binary.BigEndian.Uint16(body[34:])
	o.Key.ISS = packet.Seq(binary.BigEndian.Uint32(body[36:]))
	o.Map = binary.BigEndian.Uint16(body[40:])
	o.MSS = binary.BigEndian.Uint16(body[42:])
	o.RTT = binary.BigEndian.Uint32(body[44:])
	o.Time = int64(binary.BigEndian.Uint64(body[48:]))
	o.BaseSeen = binary.BigEndian.Uint64(body[56:])
	o.Copies = binary.BigEndian.Uint16(body[64:])
	o.Jitter = binary.BigEndian.Uint32(body[66:])
	return o, true
}
