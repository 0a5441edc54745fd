package flow

import "flowtwin/internal/packet"

// An Offset64 extends the sequence numbers of one direction to offsets in its
// stream that do not wrap. The zero value begins at sequence number 0.
type Offset64 struct {
	seq  packet.Seq // of offset high
	high uint64
}

// Start makes first the sequence number of offset 0.
func (o *Offset64) Start(first packet.Seq) { *o = Offset64{seq: first} }

// High returns the highest offset so far.
func (o *Offset64) High() uint64 { return o.high }

// At returns the offset of s, taken for the one nearest to the highest so far;
// it is negative before the stream's beginning.
func (o *Offset64) At(s packet.Seq) int64 { return int64(o.high) + int64(s.Diff(o.seq)) }

// Advance raises the highest offset to that of s, if it lies ahead by no more
// than a window can, and returns it. A number farther away is a broken or forged
// one and changes nothing.
func (o *Offset64) Advance(s packet.Seq) uint64 {
	if n := s.Diff(o.seq); n > 0 && n <= maxWindow {
		o.seq, o.high = s, o.high+uint64(n)
	}
	return o.high
}
