package netstack

// Stats of the whole Net.
type Stats struct {
	TunPacketsIn, TunPacketsOut uint64 // in: from the target
	TunBytesIn, TunBytesOut     uint64 // IP packets, the payload of absorbed ones included
	TunDropped                  uint64 // packets to the target that found the queue full or the device refusing
	LineLost, LineFull          uint64 // packets of the emulated network: lost as told, and for want of room in a buffer
	LineUnknown                 uint64 // sessions whose round-trip time was not known
	Strays                      uint64 // packets of the target that belong to no session
	TuplesInUse, TuplesWaiting  int    // waiting: within TIME_WAIT
	TuplesRefused, TuplesMoved  uint64 // moved: client's port was taken, or its address exhausted
	TuplesPooled                uint64 // of the pool, where the client's own address was asked for and cannot be
}

// Stats returns the counters now. Any goroutine.
func (n *Net) Stats() Stats {
	var s Stats
	for _, r := range n.readers {
		s.TunPacketsIn += r.packets.Load()
		s.TunBytesIn += r.bytes.Load()
		s.Strays += r.strays.Load()
	}
	for _, st := range n.stacks {
		s.TunPacketsOut += st.out.packets.Load()
		s.TunBytesOut += st.out.bytes.Load()
		if st.lines != nil {
			st.lines.addStats(&s)
		}
		s.TunDropped += st.out.dropped.Load() + st.out.failed.Load()
	}
	s.TuplesPooled = n.pooled.Load()
	n.alloc.addStats(&s)
	return s
}
