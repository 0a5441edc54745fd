package frame

import "encoding/binary"

// End is how a client ends its side: the body of a Fin and of a Reset. An end may
// leave when the target has answered what the client had seen, like any bytes.
type End struct {
	Seen   uint64 // answer bytes that the client had acknowledged when it ended
	Second bool   // of a Fin: the server had closed its side before
}

// endLen: seen 8, flags 1, of which bit 0 is second and the others are 0.
const endLen = 8 + 1

// EndSize is the length of a Fin and of a Reset frame, header included.
const EndSize = HeaderLen + endLen

// AppendEnd appends a Fin or a Reset frame, as t says.
func AppendEnd(b []byte, t Type, flow uint32, e *End) []byte {
	b = binary.BigEndian.AppendUint64(appendHeader(b, t, flow, endLen), e.Seen)
	if e.Second {
		return append(b, 1)
	}
	return append(b, 0)
}

// ParseEnd reads the body of a Fin or Reset frame.
func ParseEnd(body []byte) (e End, ok bool) {
	if len(body) != endLen || body[8] > 1 {
		return End{}, false
	}
	return End{Seen: binary.BigEndian.Uint64(body), Second: body[8] == 1}, true
}
