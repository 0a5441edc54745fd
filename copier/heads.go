package copier

import "flowtwin/internal/http1"

// Heads of requests that came in several segments wait for the rest in buffers of 2
// to 64 KiB, within headBytes over all shards.
const (
	headBytes   = 16 << 20
	headLeast   = 2 << 10
	headClasses = 6
)

// heads lends the buffers of a shard. They are made when first needed, and kept.
type heads struct {
	room  int // bytes that may still be made
	bufs  [][]byte
	empty []uint32              // places in bufs without a buffer
	free  [headClasses][]uint32 // buffers that are not lent, by size
}

// headSize returns the size of class i.
func headSize(i int) int { return headLeast << i }

// hold appends b, at most as much as a head may have, to the buffer id, which is 0 at
// first. It returns the new id and false when there is no room.
func (h *heads) hold(id uint32, b []byte) (uint32, bool) {
	var old []byte
	if id != 0 {
		old = h.bufs[id-1]
	}
	n := len(old) + len(b)
	if n > http1.MaxHead {
		panic("copier: more is held than a head may have")
	}
	if n > cap(old) {
		to, ok := h.take(n)
		if !ok {
			return id, false
		}
		h.bufs[to-1] = append(h.bufs[to-1], old...)
		h.drop(id)
		id = to
	}
	h.bufs[id-1] = append(h.bufs[id-1], b...)
	return id, true
}

// held returns what id holds, until the next call of hold for it.
func (h *heads) held(id uint32) []byte { return h.bufs[id-1] }

// drop gives id back; 0 is none.
func (h *heads) drop(id uint32) {
	if id == 0 {
		return
	}
	b := h.bufs[id-1]
	h.bufs[id-1] = b[:0]
	for i := range headClasses {
		if cap(b) == headSize(i) {
			h.free[i] = append(h.free[i], id)
		}
	}
}

// take returns an empty buffer for n bytes.
func (h *heads) take(n int) (id uint32, ok bool) {
	class := 0
	for headSize(class) < n {
		class++
	}
	if f := h.free[class]; len(f) > 0 {
		h.free[class] = f[:len(f)-1]
		return f[len(f)-1], true
	}
	for i := 0; h.room < headSize(class) && i < headClasses; i++ {
		h.shrink(i, headSize(class))
	}
	if h.room < headSize(class) {
		return 0, false
	}
	h.room -= headSize(class)
	b := make([]byte, 0, headSize(class))
	if e := len(h.empty); e > 0 {
		id = h.empty[e-1]
		h.empty = h.empty[:e-1]
		h.bufs[id-1] = b
		return id, true
	}
	h.bufs = append(h.bufs, b)
	return uint32(len(h.bufs)), true
}

// shrink gives up buffers of class i that are not lent, until there is room.
func (h *heads) shrink(i, room int) {
	for h.room < room && len(h.free[i]) > 0 {
		last := len(h.free[i]) - 1
		id := h.free[i][last]
		h.free[i] = h.free[i][:last]
		h.bufs[id-1] = nil
		h.empty = append(h.empty, id)
		h.room += headSize(i)
	}
}
