package copier

// A chain holds some of the flows of a shard in the order in which they were
// added. Its links are in the records; a flow is in one chain at most. The zero
// value is empty.
type chain struct {
	first, last uint32 // slots plus one
}

// push adds the flow in slot behind all others.
func (s *shard) push(c *chain, slot uint32) {
	r := s.table.At(slot)
	r.prev, r.next = c.last, 0
	if c.last != 0 {
		s.table.At(c.last - 1).next = slot + 1
	} else {
		c.first = slot + 1
	}
	c.last = slot + 1
}

// remove takes the flow in slot out of c, in which it must be.
func (s *shard) remove(c *chain, slot uint32) {
	r := s.table.At(slot)
	if r.prev != 0 {
		s.table.At(r.prev - 1).next = r.next
	} else {
		c.first = r.next
	}
	if r.next != 0 {
		s.table.At(r.next - 1).prev = r.prev
	} else {
		c.last = r.prev
	}
}
