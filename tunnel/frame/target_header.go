package frame

import "encoding/binary"

// TargetHeader is what the target sent: headers, never payload.
type TargetHeader struct {
	Time    int64  // when the TUN delivered it, ns since the epoch, the responder's clock
	Headers []byte // IP and TCP header as the target sent them, with the outward client address; lent
}

// targetHeaderFixed: time 8; the headers follow.
const targetHeaderFixed = 8

// AppendTargetHeader appends a TargetHeader frame. Headers must not be longer
// than [MaxReturnBody] less the time.
func AppendTargetHeader(b []byte, flow uint32, h *TargetHeader) []byte {
	b = appendHeader(b, TypeTargetHeader, flow, targetHeaderFixed+len(h.Headers))
	b = binary.BigEndian.AppendUint64(b, uint64(h.Time))
	return append(b, h.Headers...)
}

// ParseTargetHeader reads the body of a TargetHeader frame; the headers are
// lent.
func ParseTargetHeader(body []byte) (h TargetHeader, ok bool) {
	if len(body) < targetHeaderFixed {
		return TargetHeader{}, false
	}
	return TargetHeader{
		Time:    int64(binary.BigEndian.Uint64(body)),
		Headers: body[targetHeaderFixed:],
	}, true
}
