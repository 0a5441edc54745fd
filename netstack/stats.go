package netstack

// Stats of the whole Net.
type Stats struct {
	TunPacketsIn  uint64 `json:"tun_packets_in"` // in: from the target
	TunPacketsOut uint64 `json:"tun_packets_out"`
	TunBytesIn    uint64 `json:"tun_bytes_in"` // IP packets, the payload of absorbed ones included
	TunBytesOut   uint64 `json:"tun_bytes_out"`
	TunDropped    uint64 `json:"tun_dropped"` // packets to the target that found the queue full or the device refusing
	LineLost      uint64 `json:"line_lost"`   // packets of the emulated network: lost as told, and for want of room in a buffer
	LineFull      uint64 `json:"line_full"`
	LineUnknown   uint64 `json:"line_unknown"`  // sessions whose round-trip time was not known
	Strays        uint64 `json:"strays"`        // packets of the target that belong to no session
	TuplesInUse   int    `json:"tuples_in_use"` // waiting: within TIME_WAIT
	TuplesWaiting int    `json:"tuples_waiting"`
	TuplesRefused uint64 `json:"tuples_refused"` // moved: client's port was taken, or its address exhausted
	TuplesMoved   uint64 `json:"tuples_moved"`
	TuplesPooled  uint64 `json:"tuples_pooled"` // of the pool, where the client's own address was asked for and cannot be
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
