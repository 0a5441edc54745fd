package frame

import "encoding/binary"

// End is how a client ends its side: the body of a Fin and of a Reset. An end may
// leave when the target has answered what the client had seen, like any bytes.
type End struct {
	Seen uint64 // answer bytes that the client had acknowledged when it ended
}

// endLen: seen 8.
const endLen = 8

// AppendEnd appends a Fin or a Reset frame, as t says.
func AppendEnd(b []byte, t Type, flow uint32, e *End) []byte {
	return binary.BigEndian.AppendUint64(appendHeader(b, t, flow, endLen), e.Seen)
}

// ParseEnd reads the body of a Fin or Reset frame.
func ParseEnd(body []byte) (e End, ok bool) {
	if len(body) != endLen {
		return End{}, false
	}
	return End{Seen: binary.BigEndian.Uint64(body)}, true
}
