package flow

import (
	"fmt"
	"iter"
)

// A Table maps tuples to records of type T, which it keeps inline in slots
// numbered from 0. A slot's number is the flow's number on its lane.
//
// A slot is used from Insert to Free. Between the two, Unlink takes its tuple
// out of the index, so that the tuple can begin another flow while the account
// of the old one is still outstanding.
//
// Memory. Records live in chunks that are added with use, never moved and never
// given back: at most max records, and an index of 16 to 32 bytes for each. With
// a T that holds no pointers the garbage collector looks at none of it.
//
// Insert may take long when the index doubles; everything else is constant.
// A Table is not safe for concurrent use.
type Table[T any] struct {
	seed   seed
	index  []cell // a power of two long, at most half full
	linked int    // cells in use
	used   int    // slots in use
	fresh  uint32 // slots never used begin here
	free   uint32 // slot last freed, plus one; the list goes on in record.next
	max    int
	chunks []*[chunkLen]record[T]
}

// A cell of the index: the slot plus one in the low half, 0 for an empty cell,
// and the upper half of the tuple's hash in the high half. The hash tells most
// other tuples apart and a cell's home without a look at the record.
type cell uint64

func (c cell) slot() uint32 { return uint32(c) - 1 }
func (c cell) tag() uint32  { return uint32(c >> 32) }

// A record is a slot's content.
type record[T any] struct {
	tuple Tuple
	tag   uint32 // as in its cell
	next  uint32 // free: the slot freed before, plus one
	state slotState
	value T
}

type slotState uint8

const (
	slotFree slotState = iota
	slotLinked
	slotUnlinked // in use, its tuple not in the index
)

const (
	chunkBits = 10
	chunkLen  = 1 << chunkBits
	minIndex  = 64
)

// NewTable returns a table of at most max records, 1 to 2^30.
func NewTable[T any](max int) *Table[T] {
	if max < 1 || max > 1<<30 {
		panic(fmt.Sprintf("flow: table of %d records", max))
	}
	return &Table[T]{seed: newSeed(), index: make([]cell, minIndex), max: max}
}

// Find returns the slot of k.
func (t *Table[T]) Find(k *Tuple) (slot uint32, ok bool) {
	tag := uint32(t.seed.hash(k) >> 32)
	mask := uint32(len(t.index) - 1)
	for i := tag; ; i++ {
		c := t.index[i&mask]
		if c == 0 {
			return 0, false
		}
		if c.tag() == tag && same(&t.at(c.slot()).tuple, k) {
			return c.slot(), true
		}
	}
}

// Insert takes a slot for k with a zeroed record: the slot last freed, or else
// the lowest never used. It reports false when all are in use. It panics if Find
// finds k.
func (t *Table[T]) Insert(k *Tuple) (slot uint32, ok bool) {
	if t.used == t.max {
		return 0, false
	}
	if _, found := t.Find(k); found {
		panic("flow: tuple inserted twice")
	}
	if 2*(t.linked+1) > len(t.index) {
		t.grow()
	}
	slot = t.take()
	r := t.at(slot)
	*r = record[T]{tuple: *k, tag: uint32(t.seed.hash(k) >> 32), state: slotLinked}
	t.place(cell(r.tag)<<32 | cell(slot+1))
	t.linked++
	return slot, true
}

// take returns an unused slot and counts it as used.
func (t *Table[T]) take() uint32 {
	t.used++
	if t.free != 0 {
		slot := t.free - 1
		t.free = t.at(slot).next
		return slot
	}
	slot := t.fresh
	t.fresh++
	if int(slot>>chunkBits) == len(t.chunks) {
		t.chunks = append(t.chunks, new([chunkLen]record[T]))
	}
	return slot
}

// place puts c into the first empty cell from its home on.
func (t *Table[T]) place(c cell) {
	mask := uint32(len(t.index) - 1)
	i := c.tag()
	for t.index[i&mask] != 0 {
		i++
	}
	t.index[i&mask] = c
}

func (t *Table[T]) grow() {
	old := t.index
	t.index = make([]cell, 2*len(old))
	for _, c := range old {
		if c != 0 {
			t.place(c)
		}
	}
}

// Unlink makes the tuple of slot unknown to Find; the slot and its record stay
// in use until Free. Doing it again does nothing.
func (t *Table[T]) Unlink(slot uint32) {
	r := t.inUse(slot)
	if r.state == slotUnlinked {
		return
	}
	r.state = slotUnlinked
	mask := uint32(len(t.index) - 1)
	i := r.tag
	for t.index[i&mask].slot() != slot {
		i++
	}
	t.vacate(i & mask)
	t.linked--
}

// vacate empties cell hole and moves cells behind it forward, so that none is
// cut off from its home.
func (t *Table[T]) vacate(hole uint32) {
	mask := uint32(len(t.index) - 1)
	for i := (hole + 1) & mask; t.index[i] != 0; i = (i + 1) & mask {
		home := t.index[i].tag()
		if (i-home)&mask >= (i-hole)&mask {
			t.index[hole] = t.index[i]
			hole = i
		}
	}
	t.index[hole] = 0
}

// Free gives slot back, unlinking it if need be. It panics if slot is not in use.
func (t *Table[T]) Free(slot uint32) {
	t.Unlink(slot)
	r := t.at(slot)
	r.state = slotFree
	r.next = t.free
	t.free = slot + 1
	t.used--
}

// At returns the record of slot; the pointer is good until Free. Of a slot that
// was used once and is free, it is the record as Free found it: code that sweeps
// by number can keep its own mark there. Other slots it must not be asked for.
func (t *Table[T]) At(slot uint32) *T { return &t.at(slot).value }

// Tuple returns the tuple that slot was inserted for.
func (t *Table[T]) Tuple(slot uint32) Tuple { return t.inUse(slot).tuple }

// Len returns the number of slots in use.
func (t *Table[T]) Len() int { return t.used }

// Max returns how many slots can be in use.
func (t *Table[T]) Max() int { return t.max }

// All iterates over the slots in use, unlinked ones included, in their order.
// The loop may Unlink and Free any of them.
func (t *Table[T]) All() iter.Seq2[uint32, *T] {
	return func(yield func(uint32, *T) bool) {
		for slot := uint32(0); slot < t.fresh; slot++ {
			r := t.at(slot)
			if r.state != slotFree && !yield(slot, &r.value) {
				return
			}
		}
	}
}

func (t *Table[T]) at(slot uint32) *record[T] {
	return &t.chunks[slot>>chunkBits][slot%chunkLen]
}

// inUse returns the record of slot. A slot that is not in use is a broken rule
// of ownership: going on would mix up two flows.
func (t *Table[T]) inUse(slot uint32) *record[T] {
	if slot >= t.fresh || t.at(slot).state == slotFree {
		panic(fmt.Sprintf("flow: slot %d is not in use", slot))
	}
	return t.at(slot)
}
