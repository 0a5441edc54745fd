package frame

import "encoding/binary"

// Copies is what became of the sessions that replay a lane's flows beside the first
// one of each, since the lane began. Bytes and segments given are those that reached
// the responder, once for each copy; those given to a session that is open are
// neither delivered nor dropped yet.
type Copies struct {
	Opened      uint64 // asked for, those that were refused included
	Established uint64
	Open        uint64 // no account yet

	GivenBytes, GivenSegments         uint64
	DeliveredBytes, DeliveredSegments uint64
	DroppedBytes, DroppedSegments     uint64
	AnswerBytes                       uint64
	Closed                            [CopiesHows]uint64 // by CloseHow
}

// CopiesHows is how many ways to end a Copies frame has room for.
const CopiesHows = 24

// copiesLen: the ten counters before Closed and those in it, 8 each.
const copiesLen = (10 + CopiesHows) * 8

// counters are the fields before Closed, in their order.
func (c *Copies) counters() [10]*uint64 {
	return [...]*uint64{
		&c.Opened, &c.Established, &c.Open, &c.GivenBytes, &c.GivenSegments, &c.DeliveredBytes, &c.DeliveredSegments,
		&c.DroppedBytes, &c.DroppedSegments, &c.AnswerBytes,
	}
}

// AppendCopies appends a Copies frame. It speaks of the whole lane: its flow is 0.
func AppendCopies(b []byte, c *Copies) []byte {
	b = appendHeader(b, TypeCopies, 0, copiesLen)
	for _, p := range c.counters() {
		b = binary.BigEndian.AppendUint64(b, *p)
	}
	for _, n := range c.Closed {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	return b
}

// ParseCopies reads the body of a Copies frame.
func ParseCopies(body []byte) (c Copies, ok bool) {
	if len(body) != copiesLen {
		return Copies{}, false
	}
	counters := c.counters()
	for i, p := range counters {
		*p = binary.BigEndian.Uint64(body[8*i:])
	}
	for i := range c.Closed {
		c.Closed[i] = binary.BigEndian.Uint64(body[8*(len(counters)+i):])
	}
	return c, true
}
