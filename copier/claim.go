package copier

import (
	"flowtwin/copier/capture"
	"flowtwin/copier/report"
	"flowtwin/internal/flow"
	"flowtwin/internal/packet"
)

// claimed notes the SYN of another connection on the tuple of the flow in slot,
// and reports false when nothing speaks against it at once.
func (s *shard) claimed(slot uint32, p *capture.Packet, v *packet.View) bool {
	r := s.table.At(slot)
	if r.iss == v.Seq || !r.defended() {
		return false
	}
	if !r.claim.made || r.claim.iss != v.Seq {
		s.unclaim(r)
		r.claim = claimFrom(p, v)
		r.claim.asm.Start(v.Seq)
	}
	s.claimData(slot, r, p, v, v.Seq.Add(1))
	return true
}

// claimData stores what a client sends on its claim.
func (s *shard) claimData(slot uint32, r *record, p *capture.Packet, v *packet.View, seq packet.Seq) {
	s.book.Packets.ToServer++
	if v.PayloadLen == 0 {
		return
	}
	s.book.Client.Captured.Add(v.PayloadLen)
	if !v.Whole() {
		s.drop(report.Truncated, v.PayloadLen)
		return
	}
	switch _, verdict := s.add(slot, r, &r.claim.asm, p, seq, 0, v.Payload); verdict {
	case flow.StoreFull:
		s.drop(report.ReorderFull, v.PayloadLen)
	case flow.Outside:
		s.drop(report.Outside, v.PayloadLen)
	case flow.InOrder, flow.Early, flow.Old:
	}
}

// unclaim drops what is stored of a claim, and returns how much.
func (s *shard) unclaim(r *record) (segments int) {
	segments, bytes := r.claim.asm.Drop(s.store)
	if segments > 0 {
		s.book.Client.Dropped[report.NeverEstablished].Plus(report.Count{Segments: uint64(segments), Bytes: uint64(bytes)})
	}
	return segments
}

// ofClaim reports whether seq is behind the claim's SYN, and cannot be the flow's.
func (r *record) ofClaim(seq packet.Seq) bool {
	d := seq.Diff(r.claim.iss)
	return r.claim.made && 0 < d && d <= windowSlack && !near(seq, r.asm.Next())
}

// claimant returns the flow that a client's packet on a tuple belongs to. One that
// follows a claim is of a new flow if the server's packets, which would tell, are not
// captured; if they are it is kept until they do, and taken is true.
func (s *shard) claimant(slot uint32, p *capture.Packet, v *packet.View) (at uint32, ok, taken bool) {
	r := s.table.At(slot)
	c := &r.claim
	if !c.made || v.Flags&(packet.ACK|packet.RST) != packet.ACK {
		return slot, true, false
	}
	first := v.Seq == c.iss.Add(1)
	switch {
	case !r.heard && first:
		at, ok = s.succeed(slot)
		return at, ok, false
	case r.heard && r.state != stateSynSeen && r.ofClaim(v.Seq):
		if !c.acked {
			c.irs, c.acked = v.Ack.Add(-1), true
		}
		s.claimData(slot, r, p, v, v.Seq)
		return slot, true, true
	}
	return slot, true, false
}

// accepted returns the flow that a server's SYN-ACK belongs to, which is a new one
// when it accepts a claim.
func (s *shard) accepted(slot uint32, v *packet.View) (uint32, bool) {
	r := s.table.At(slot)
	// The data in a SYN may be acknowledged with it.
	if d := v.Ack.Diff(r.claim.iss.Add(1)); !r.claim.made || d < 0 || d > 1<<16 || v.Ack == r.iss.Add(1) {
		return slot, true
	}
	return s.succeed(slot)
}

// confirmed is accepted for any other packet of the server, in case that the SYN-ACK
// was not captured: what it acknowledges tells the same.
func (s *shard) confirmed(slot uint32, v *packet.View) (uint32, bool) {
	r := s.table.At(slot)
	if !r.claim.acked || v.Flags&(packet.ACK|packet.RST) != packet.ACK || !r.ofClaim(v.Ack) {
		return slot, true
	}
	irs := r.claim.irs
	slot, ok := s.succeed(slot)
	if !ok {
		return slot, false
	}
	r = s.table.At(slot)
	r.heard = true
	r.answers(irs)
	_, ok = s.open(slot, r, true)
	return slot, ok
}

// succeed puts the claim's flow in the place of the one in slot.
func (s *shard) succeed(slot uint32) (uint32, bool) {
	r := s.table.At(slot)
	c := r.claim
	r.claim = claim{}
	s.replace(slot)
	slot, ok := s.meet(&c)
	if !ok {
		r := record{claim: c}
		s.unclaim(&r)
		return 0, false
	}
	r = s.table.At(slot)
	r.asm = c.asm
	r.asm.Rename(s.store, slot)
	return slot, true
}
