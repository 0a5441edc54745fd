package frame

import "encoding/binary"

// Moved says how much more of a lane's data is done with since the frame before: of
// the flows' first sessions, not of their copies.
type Moved struct {
	Segments uint64 // written to the target, or dropped
	Bytes    uint64 // acknowledged by the target's kernel, or dropped
}

const movedLen = 16

// AppendMoved appends a Moved frame. It speaks of the whole lane: its flow is 0.
func AppendMoved(b []byte, m *Moved) []byte {
	b = appendHeader(b, TypeMoved, 0, movedLen)
	b = binary.BigEndian.AppendUint64(b, m.Segments)
	return binary.BigEndian.AppendUint64(b, m.Bytes)
}

// ParseMoved reads the body of a Moved frame.
func ParseMoved(body []byte) (m Moved, ok bool) {
	if len(body) != movedLen {
		return Moved{}, false
	}
	return Moved{Segments: binary.BigEndian.Uint64(body), Bytes: binary.BigEndian.Uint64(body[8:])}, true
}
