package netstack

import "time"

// A fifo holds keys in the order they were pushed, with the time of it. It is
// made of chunks, so that it gives memory back after a peak, and is free of
// pointers but for the chain.
type fifo struct {
	head, tail *fifoChunk
	length     int
}

type fifoChunk struct {
	keys  [512]tupleKey
	at    [512]uint32 // milliseconds
	r, w  int
	after *fifoChunk
}

// push appends key; now must not be before that of earlier pushes.
func (f *fifo) push(key tupleKey, now time.Duration) {
	if f.tail == nil || f.tail.w == len(f.tail.keys) {
		c := &fifoChunk{}
		if f.tail == nil {
			f.head = c
		} else {
			f.tail.after = c
		}
		f.tail = c
	}
	f.tail.keys[f.tail.w] = key
	f.tail.at[f.tail.w] = uint32(now.Milliseconds())
	f.tail.w++
	f.length++
}

// popUntil removes and returns the oldest key when it was pushed at the time
// until or before. Times are compared modulo 2^32 ms, 49 days.
func (f *fifo) popUntil(until time.Duration) (tupleKey, bool) {
	if f.length == 0 {
		return 0, false
	}
	c := f.head
	if until < 0 || int32(uint32(until.Milliseconds())-c.at[c.r]) < 0 {
		return 0, false
	}
	key := c.keys[c.r]
	c.r++
	f.length--
	if c.r == c.w {
		if f.head = c.after; f.head == nil {
			f.tail = nil
		}
	}
	return key, true
}
