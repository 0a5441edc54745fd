package frame

import "encoding/binary"

// Progress is a lane's state at the responder, about once a second.
type Progress struct {
	Time           int64  // responder's clock, ns
	Sessions       uint32 // open now
	LagP50         int64  // responder's clock at the write to the target minus capture time, ns, clocks not aligned
	LagP99         int64
	LagMax         int64
	LagCount       uint64 // how many segments the three speak of
	DeliveredBytes uint64 // so far, this lane
	AnswerBytes    uint64
}

// progressLen: time 8, sessions 4, then six fields of 8 in the order of
// [Progress].
const progressLen = 60

// AppendProgress appends a Progress frame. It speaks of the whole lane: its flow
// is 0.
func AppendProgress(b []byte, p *Progress) []byte {
	b = appendHeader(b, TypeProgress, 0, progressLen)
	b = binary.BigEndian.AppendUint64(b, uint64(p.Time))
	b = binary.BigEndian.AppendUint32(b, p.Sessions)
	b = binary.BigEndian.AppendUint64(b, uint64(p.LagP50))
	b = binary.BigEndian.AppendUint64(b, uint64(p.LagP99))
	b = binary.BigEndian.AppendUint64(b, uint64(p.LagMax))
	b = binary.BigEndian.AppendUint64(b, p.LagCount)
	b = binary.BigEndian.AppendUint64(b, p.DeliveredBytes)
	return binary.BigEndian.AppendUint64(b, p.AnswerBytes)
}

// ParseProgress reads the body of a Progress frame.
func ParseProgress(body []byte) (p Progress, ok bool) {
	if len(body) != progressLen {
		return Progress{}, false
	}
	return Progress{
		Time:           int64(binary.BigEndian.Uint64(body)),
		Sessions:       binary.BigEndian.Uint32(body[8:]),
		LagP50:         int64(binary.BigEndian.Uint64(body[12:])),
		LagP99:         int64(binary.BigEndian.Uint64(body[20:])),
		LagMax:         int64(binary.BigEndian.Uint64(body[28:])),
		LagCount:       binary.BigEndian.Uint64(body[36:]),
		DeliveredBytes: binary.BigEndian.Uint64(body[44:]),
		AnswerBytes:    binary.BigEndian.Uint64(body[52:]),
	}, true
}
