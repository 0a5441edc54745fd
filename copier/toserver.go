package copier

import (
	"flowtwin/copier/capture"
	"flowtwin/copier/report"
	"flowtwin/internal/flow"
	"flowtwin/internal/packet"
	"flowtwin/tunnel/frame"
)

// fromClient handles a packet to the server; s.tuple is its flow's.
func (s *shard) fromClient(p *capture.Packet, v *packet.View) {
	slot, ok := s.table.Find(&s.tuple)
	if v.Flags&(packet.SYN|packet.ACK|packet.RST) == packet.SYN {
		if ok && s.claimed(slot, p, v) {
			return
		}
		slot, ok = s.syn(slot, ok, p, v)
	} else if ok {
		var taken bool
		if slot, ok, taken = s.claimant(slot, p, v); taken {
			return
		}
	}
	if !ok {
		s.stranger(v)
		return
	}
	r := s.table.At(slot)
	if r.succeeded(v) {
		s.table.Unlink(slot) // its account finds it
		s.stranger(v)
		return
	}
	s.book.Packets.ToServer++
	if v.PayloadLen > 0 {
		s.book.Client.Captured.Add(v.PayloadLen)
	}
	if r.state == stateSynSeen && !s.handshake(slot, r, p, v) || r.state == stateObserved && !s.observeClient(slot, r, p, v) {
		return
	}
	r.last = s.clock
	if !r.state.followed() {
		s.afterwards(slot, r, p, v)
		return
	}
	if v.Flags&(packet.SYN|packet.RST|packet.ACK) == 0 {
		s.drop(report.Outside, v.PayloadLen) // by the server, too (RFC 9293, 3.10.7.4)
		return
	}
	if v.Flags&packet.RST == 0 {
		s.goesOn(r)
	}
	r.acknowledge(v)
	if v.Flags&packet.URG != 0 && v.PayloadLen > 0 {
		s.book.Client.Urgent++
	}
	if v.PayloadLen > 0 && !s.payload(slot, r, p, v) {
		if slot, ok = s.table.Find(&s.tuple); !ok {
			return
		}
		if r = s.table.At(slot); !r.state.followed() {
			s.outlive(slot, r, v)
			return
		}
	}
	if v.Flags&(packet.FIN|packet.RST) != 0 {
		s.clientEnds(slot, r, v)
	}
}

// acknowledge takes over how much of the answers the client has.
func (r *record) acknowledge(v *packet.View) {
	if v.Flags&packet.ACK == 0 {
		return
	}
	ack := v.Ack
	if r.serverClosed() && ack.After(r.serverFin) {
		ack = r.serverFin // a FIN counts as one byte and is none
	}
	if d := ack.Diff(r.acked); d > 0 && d <= maxWindow {
		r.seen += uint64(d)
		r.acked = ack
	}
}

// seenBy returns seen as of a segment: a later ACK of its client may have come before it.
func (r *record) seenBy(v *packet.View) uint64 {
	if d := r.acked.Diff(v.Ack); v.Flags&packet.ACK != 0 && 0 < d && d <= windowSlack {
		return r.seen - min(uint64(d), r.seen)
	}
	return r.seen
}

func (r *record) serverClosed() bool {
	return r.ending == report.ServerHalf || r.ending == report.ServerFirst || r.ending == report.ClientFirst
}

// payload copies the new bytes of v. It reports false when the flow was given up.
func (s *shard) payload(slot uint32, r *record, p *capture.Packet, v *packet.View) bool {
	seq := v.Seq
	if v.Flags&packet.SYN != 0 {
		seq = seq.Add(1)
	}
	next := r.asm.Next()
	if end := seq.Add(v.PayloadLen); r.state == stateFinSent || !v.Whole() {
		switch {
		case !end.After(next):
			s.again(r, p, report.Count{Segments: 1, Bytes: uint64(v.PayloadLen)})
		case r.state == stateFinSent:
			s.drop(report.AfterEnd, v.PayloadLen)
		default: // forwarding what is left of it would copy something never sent
			s.drop(report.Truncated, v.PayloadLen)
			if _, early := r.asm.Gap(s.store); seq == next && !early {
				r.skips(end)
			}
			s.giveUp(slot, r, report.Truncated)
			return false
		}
		return true
	}
	return s.assemble(slot, r, p, v, seq)
}

// assemble sends what is in order now, and keeps what came early.
func (s *shard) assemble(slot uint32, r *record, p *capture.Packet, v *packet.View, seq packet.Seq) bool {
	n := len(v.Payload)
	if seq != r.asm.Next() && r.beyond(seq) {
		s.drop(report.Outside, n)
		return true
	}
	seen := r.seenBy(v)
	fresh, verdict := s.add(slot, r, &r.asm, p, seq, seen, v.Payload)
	switch verdict {
	case flow.InOrder:
		switch r.guess {
		case guessFin:
			r.guess = guessNone // it was this
		case guessHole:
			r.doubt = s.clock // the rest may come, too
		case guessNone, guessReset:
		}
		s.exact = len(fresh) == n
		return s.send(slot, r, seen, p.Time, fresh) && s.release(slot, r)
	case flow.Outside:
		s.drop(report.Outside, n)
	case flow.StoreFull:
		s.drop(report.ReorderFull, n)
		s.discard(r, report.ReorderFull)
		s.giveUp(slot, r, report.ReorderFull)
		return false
	case flow.Early, flow.Old:
	}
	return true
}

// add offers a segment to an assembler of r, its own or its claim's. When the store is
// full the flow that has waited longest makes room: it is the least likely to get what
// it waits for.
func (s *shard) add(slot uint32, r *record, asm *flow.Assembler, p *capture.Packet, seq packet.Seq, seen uint64, payload []byte) ([]byte, flow.Verdict) {
	m := flow.Meta{Seen: seen, Time: s.clock, Captured: p.Time, Flow: slot}
	fresh, verdict := asm.Add(s.store, seq, payload, m)
	for verdict == flow.StoreFull && s.store.Crowded(len(payload)) {
		oldest, ok := s.store.Waiting()
		if !ok || oldest == slot {
			break
		}
		s.outwait(oldest)
		fresh, verdict = asm.Add(s.store, seq, payload, m)
	}
	if s.store.Tally() != s.tally {
		s.count(r, p)
	}
	return fresh, verdict
}

// outwait takes the stored segments of the flow in slot away.
func (s *shard) outwait(slot uint32) {
	r := s.table.At(slot)
	if s.unclaim(r) > 0 {
		return
	}
	s.discard(r, report.ReorderFull)
	if r.state.open() {
		s.giveUp(slot, r, report.ReorderFull)
	}
}

// count enters what the assembler found to be known of the last segment, and of
// the stored ones that this overtook.
func (s *shard) count(r *record, p *capture.Packet) {
	t := s.store.Tally()
	s.again(r, p, report.Count{Segments: t.OldSegments - s.tally.OldSegments, Bytes: t.OldBytes - s.tally.OldBytes})
	s.book.Client.Conflicts += t.Conflicts - s.tally.Conflicts
	s.tally = t
}

// release sends the stored segments that are in order now, and the FIN behind
// them. It reports false when the flow was given up.
func (s *shard) release(slot uint32, r *record) bool {
	s.exact = false
	for {
		payload, m, ok := r.asm.Pop(s.store)
		if !ok {
			break
		}
		if !s.send(slot, r, m.Seen, m.Captured, payload) {
			return false
		}
	}
	if d := r.fin.Diff(r.asm.Next()); r.state == stateFinHeld && d <= 0 {
		if d < 0 {
			r.state = stateCopying // a client sends nothing behind its FIN: that was none of it
		} else {
			s.sendFin(slot, r)
		}
	}
	if r.guess == guessReset && r.state.followed() && s.due(r, r.rst) {
		s.reset(slot, r)
	}
	return true
}

// due reports whether a reset with this number is what the client sends next: any
// other is to be confirmed (RFC 5961, 3.2).
func (s *shard) due(r *record, rst packet.Seq) bool {
	d := rst.Diff(r.asm.Next())
	return d == 0 || d == 1 && r.state == stateFinSent
}

// send gives bytes of the flow to the lane. It reports false when the flow was
// given up instead: the online server never waits for the tunnel. Of a flow that waits
// for a session they are dropped, unless it can begin with them.
func (s *shard) send(slot uint32, r *record, seen uint64, time int64, payload []byte) bool {
	if r.cut != 0 {
		return s.sift(slot, r, seen, time, payload)
	}
	if r.proto == protoNew {
		s.meets(r, seen, payload)
	}
	waits := r.state == stateWaiting && !s.resume(slot, r, seen, time, payload)
	if r.pro.open {
		s.keep(r, seen, payload)
	}
	r.told = seen
	if waits {
		s.drop(r.drop, len(payload))
		return true
	}
	if !s.lane.Data(slot, r.since(seen), time, payload) {
		why := report.Overload
		if !s.lane.Up() {
			why = report.TunnelLost
		}
		s.drop(why, len(payload))
		s.giveUp(slot, r, why)
		return false
	}
	r.sent.Add(len(payload))
	s.book.Client.Sent.Add(len(payload))
	s.book.Sent.InFlight.Add(len(payload))
	return true
}

// again counts what was known already.
func (s *shard) again(r *record, p *capture.Packet, c report.Count) {
	if p.Iface != r.iface {
		s.book.Client.Duplicate.Plus(c)
	} else {
		s.book.Client.Retransmitted.Plus(c)
	}
}

// drop counts a segment of n bytes that is not copied; of 0 bytes it is none.
func (s *shard) drop(why report.Reason, n int) {
	if n > 0 {
		s.book.Client.Dropped[why].Add(n)
	}
}

// clientEnds handles the client's FIN or reset.
func (s *shard) clientEnds(slot uint32, r *record, v *packet.View) {
	if v.Flags&packet.RST != 0 {
		s.clientResets(slot, r, v)
		return
	}
	if r.state == stateFinSent {
		return
	}
	fin := v.Seq.Add(v.SegLen() - 1)
	switch d := fin.Diff(r.asm.Next()); {
	case d < 0 || r.beyond(fin): // of an older connection, or forged
	case r.state == stateWaiting:
		s.missed(r, d-s.discard(r, r.drop))
		s.leave(slot, r)
	case d > 0:
		r.fin = fin
		r.state = stateFinHeld
	default:
		s.sendFin(slot, r)
	}
}

// clientResets handles the client's reset. One that came early is held: the server
// asks about it by an ACK, which a client that has reset answers with the exact
// number, and which tells that this one did not count. Without such an ACK it did.
func (s *shard) clientResets(slot uint32, r *record, v *packet.View) {
	switch {
	case s.due(r, v.Seq):
		s.reset(slot, r)
	case v.Seq.After(r.asm.Next()) && !r.beyond(v.Seq):
		r.guess, r.rst, r.doubt = guessReset, v.Seq, s.clock
	}
}

// reset ends a flow that its client has reset.
func (s *shard) reset(slot uint32, r *record) {
	if r.state == stateWaiting {
		s.leave(slot, r)
		return
	}
	r.ending = report.ClientReset
	s.control(slot, r, frame.TypeReset)
	s.end(slot, r)
}

// goesOn takes back the guess that the client has reset, when its connection goes
// on for longer than packets overtake each other.
func (s *shard) goesOn(r *record) {
	if r.guess == guessReset && s.clock-r.doubt > int64(tick) {
		r.guess = guessNone
	}
}

// resolve takes a guess for true, since nothing has spoken against it.
func (s *shard) resolve(slot uint32, r *record) {
	gap, stored := r.asm.Gap(s.store)
	switch {
	case r.guess == guessReset:
		if !stored {
			gap = r.rst.Diff(r.asm.Next())
		}
		if r.state != stateFinSent {
			s.missed(r, gap)
		}
		s.reset(slot, r)
	case r.guess == guessHole:
		r.guess = guessNone
		if missing := r.rst.Diff(r.asm.Next()); missing > 0 {
			s.hole(slot, r, missing)
		}
	case stored:
		s.hole(slot, r, gap)
	default:
		s.sendFin(slot, r)
	}
}

// sendFin closes the client's side of the session: all before it is sent.
func (s *shard) sendFin(slot uint32, r *record) {
	if r.state == stateWaiting {
		s.leave(slot, r)
		return
	}
	if s.finish(slot, r); !r.state.open() {
		return
	}
	s.discard(r, report.AfterEnd)
	r.state = stateFinSent
	if r.guess == guessFin {
		r.guess = guessNone
	}
	r.ending = r.ending.ClientClosed()
	s.control(slot, r, frame.TypeFin)
	if r.ending.Over() {
		s.end(slot, r)
	}
}

// afterwards handles a client's packet of a flow whose session gets no more.
func (s *shard) afterwards(slot uint32, r *record, p *capture.Packet, v *packet.View) {
	if v.PayloadLen > 0 {
		switch {
		case !v.Seq.Add(v.PayloadLen).After(r.asm.Next()):
			s.again(r, p, report.Count{Segments: 1, Bytes: uint64(v.PayloadLen)})
		case r.state == stateGivenUp || r.state == stateShunned:
			s.drop(r.drop, v.PayloadLen)
		default:
			s.drop(report.AfterEnd, v.PayloadLen)
		}
	}
	s.outlive(slot, r, v)
}

// outlive notes how the client ends a flow whose session gets no more.
func (s *shard) outlive(slot uint32, r *record, v *packet.View) {
	if v.Flags&packet.RST != 0 {
		r.ending = report.ClientReset
	} else if v.Flags&packet.FIN != 0 {
		r.ending = r.ending.ClientClosed()
	}
	s.over(slot, r)
}
