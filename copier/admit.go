package copier

import (
	"flowtwin/copier/capture"
	"flowtwin/copier/report"
	"flowtwin/internal/flow"
	"flowtwin/internal/packet"
	"flowtwin/tunnel/frame"
)

// syn handles a client's SYN, whose tuple the table knows as slot if linked. It
// returns the flow that the packet belongs to, or false when that is refused.
func (s *shard) syn(slot uint32, linked bool, p *capture.Packet, v *packet.View) (uint32, bool) {
	if linked {
		if r := s.table.At(slot); r.iss == v.Seq { // sent again
			if r.state == stateSynSeen {
				r.last = s.clock
			}
			return slot, true
		}
		s.replace(slot)
	} else if e := s.known.find(&s.tuple); e != nil && e.drop != report.Midstream && e.iss == v.Seq {
		return 0, false
	}
	c := claimFrom(p, v)
	return s.meet(&c)
}

// meet begins a flow, or refuses it.
func (s *shard) meet(c *claim) (uint32, bool) {
	at, ok := s.maps.find(s.tuple.Server, s.tuple.ServerPort)
	if !ok {
		return 0, false
	}
	s.book.Flows.Seen++
	why := s.unwanted(c.time)
	if why == report.None {
		if slot, ok := s.insert(); ok {
			s.begin(slot, at, c)
			return slot, true
		}
		why = report.TableFull
	}
	s.book.Flows.Refused[why]++
	s.known.put(memo{tuple: s.tuple, iss: c.iss, drop: why}, s.clock)
	return 0, false
}

// pendingShare is the part of the table, 1/8, that flows in their handshake may
// have: a flood of SYNs must not take it from connections.
const pendingShare = 8

// insert takes a slot for the tuple. The oldest of the pending flows makes way when
// these are too many; and when the table is full the one that was shunned first, or
// else the first that waits, or is observed.
func (s *shard) insert() (uint32, bool) {
	if s.book.Flows.Pending >= uint64(max(s.table.Max()/pendingShare, 1)) {
		oldest := s.pending.first - 1
		s.refuse(oldest, s.table.At(oldest), report.NeverEstablished)
	}
	if s.table.Len() == s.table.Max() && s.shunned.first != 0 {
		oldest := s.shunned.first - 1
		s.free(oldest, s.table.At(oldest))
	}
	if s.table.Len() == s.table.Max() && s.waiting.first != 0 {
		oldest := s.waiting.first - 1
		s.leave(oldest, s.table.At(oldest))
	}
	if s.table.Len() == s.table.Max() && s.observed.first != 0 {
		s.unobserve()
	}
	if s.table.Len() == s.table.Max() && s.parting.first != 0 {
		s.hurry() // for those that come soon
	}
	return s.table.Insert(&s.tuple)
}

// begin fills the record of a new flow. Its assembler begins with the number of
// the SYN itself, so that data in the SYN waits in the store until the server has
// taken it.
func (s *shard) begin(slot uint32, at int, c *claim) {
	s.used = max(s.used, int(slot)+1)
	s.book.Flows.Pending++
	r := s.table.At(slot)
	r.state = stateSynSeen
	r.from, r.last = c.time, s.clock
	r.iss = c.iss
	r.iface = c.iface
	r.mss = c.mss
	r.scaled = c.scaled
	r.mapped = uint16(at)
	r.asm.Start(c.iss)
	r.got = c.iss.Add(1)
	r.born, r.pro.open = true, true
	s.push(&s.pending, slot)
}

// handshake looks at a client's packet of a flow in its handshake, and opens the
// flow when that is complete. It reports whether the flow is open.
func (s *shard) handshake(slot uint32, r *record, p *capture.Packet, v *packet.View) bool {
	switch {
	case v.Flags&packet.RST != 0:
		if v.Seq == r.iss || v.Seq == r.iss.Add(1) {
			s.refuse(slot, r, report.NeverEstablished)
		}
		s.drop(report.NeverEstablished, v.PayloadLen)
		return false
	case v.Flags&packet.SYN != 0:
		s.synData(slot, r, p, v)
		return false
	case v.Flags&packet.ACK == 0 || !v.Seq.After(r.iss) || r.synAck != 0 && !v.Ack.After(r.irs):
		s.drop(report.NeverEstablished, v.PayloadLen) // of an older connection
		return false
	case r.synAck == 0: // the SYN-ACK was not captured, but this tells the same
		r.answers(v.Ack.Add(-1))
	default:
		r.rtt = uint32(min(max((p.Stamp()-r.synAck)/1000, 1), 1<<32-1))
	}
	// Without the SYN-ACK, a client that goes on behind its SYN's data tells that it was taken.
	why, ok := s.open(slot, r, r.synAck == 0 && v.Seq.After(r.iss.Add(1)))
	if !ok {
		s.drop(why, v.PayloadLen)
	}
	return ok
}

// synData stores the data in a SYN (RFC 7413): nobody knows yet whether the server
// takes it, or the client will have to send it again.
func (s *shard) synData(slot uint32, r *record, p *capture.Packet, v *packet.View) {
	switch {
	case v.PayloadLen == 0:
	case !v.Whole():
		s.drop(report.Truncated, v.PayloadLen)
	default:
		if _, verdict := s.add(slot, r, &r.asm, p, r.iss.Add(1), 0, v.Payload); verdict == flow.StoreFull {
			s.drop(report.ReorderFull, v.PayloadLen)
		}
	}
}

// open opens the flow at the responder, with the data of its SYN if the server has
// taken that, or refuses it and says why.
func (s *shard) open(slot uint32, r *record, taken bool) (report.Reason, bool) {
	if why, ok := s.admit(slot, r); !ok {
		return why, false
	}
	if !taken {
		s.discard(r, report.NeverEstablished) // the client sends it again
	}
	r.asm.Advance(r.iss.Add(1))
	s.release(slot, r)
	return report.None, true
}

// answers notes where the server's sequence numbers begin.
func (r *record) answers(irs packet.Seq) {
	r.irs = irs
	r.acked = irs.Add(1)
	r.answerNxt = irs.Add(1)
}

// admit opens the flow at the responder, makes it wait for that, or refuses it and
// says why.
func (s *shard) admit(slot uint32, r *record) (report.Reason, bool) {
	switch {
	case s.phase >= phaseFinishing || r.from >= s.stop.at:
		return s.refuse(slot, r, report.Draining), false
	case s.sieve != nil:
		s.screen(r)
		s.park(slot, r, report.HTTPUnselected)
		return report.None, true
	case s.orders.paused:
		s.park(slot, r, report.Paused)
		return report.None, true
	case !s.up:
		s.park(slot, r, report.TunnelDown)
		return report.None, true
	case s.lane.Room() < s.lane.Size()/2:
		s.park(slot, r, report.Overload)
		return report.None, true
	}
	s.opening = frame.Open{
		Key:  flow.Key{Tuple: s.tuple, ISS: r.iss},
		Map:  r.mapped,
		Time: r.from,
		MSS:  r.mss,
		RTT:  r.rtt,
	}
	s.amplify()
	if !s.lane.Open(slot, &s.opening) {
		why := report.Overload
		if !s.lane.Up() {
			why = report.TunnelDown
		}
		s.park(slot, r, why)
		return report.None, true
	}
	s.remove(&s.pending, slot)
	r.state = stateCopying
	s.book.Open()
	s.book.Copies.Ask(s.opening.Copies)
	return report.None, true
}

// refuse ends a flow that was not opened, and returns why.
func (s *shard) refuse(slot uint32, r *record, why report.Reason) report.Reason {
	s.discard(r, why)
	s.unclaim(r)
	if r.state == stateObserved {
		s.remove(&s.observed, slot)
		s.book.Flows.Observed--
	} else {
		s.remove(&s.pending, slot)
		s.book.Flows.Pending--
	}
	s.book.Flows.Refused[why]++
	s.known.put(memo{tuple: s.table.Tuple(slot), iss: r.iss, drop: why}, s.clock)
	r.state = stateFree
	s.table.Free(slot)
	return why
}
