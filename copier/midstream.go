package copier

import (
	"time"

	"flowtwin/copier/capture"
	"flowtwin/copier/report"
	"flowtwin/internal/flow"
	"flowtwin/internal/packet"
	"flowtwin/tunnel/frame"
)

// A connection that began before the copier is observed until its client begins a
// turn: sends its first bytes after an answer, with nothing on its way. There it
// is adopted, and from there on it is a flow like all others, whose session
// begins with a whole request. What came before is dropped as midstream.
//
// In a record that is observed the assembler stands where the server's latest ACK
// does, answerNxt behind the answers captured so far, and fin behind the client's
// bytes captured so far: where it is ahead of the assembler, some are on their way.
// Without packets of the server, the assembler stands behind the client's bytes, and
// acked is what these acknowledged.

// observedShare is the part of the table, 1/2, that observed flows may have; those
// that begin now go before them in any case.
const observedShare = 2

// silence is how long a client says nothing before a new turn, where the server's
// packets are not captured and only this tells.
const silence = 200 * time.Millisecond

// near reports whether two sequence numbers may be of one connection at one time.
func near(a, b packet.Seq) bool {
	d := a.Diff(b)
	return -windowSlack <= d && d <= windowSlack
}

// observe begins to observe the connection of s.tuple, or refuses it and says why.
func (s *shard) observe(at int) (uint32, report.Reason) {
	s.book.Flows.Seen++
	why := report.Midstream
	if !s.orders.adopt.Takes(&s.tuple.Client, s.tuple.ClientPort) {
		why = report.SampledOut
	} else if !s.skip && !s.stopped(s.at) {
		if s.book.Flows.Observed >= uint64(max(s.table.Max()/observedShare, 1)) {
			s.unobserve()
		}
		if slot, ok := s.table.Insert(&s.tuple); ok {
			s.used = max(s.used, int(slot)+1)
			s.book.Flows.Observed++
			r := s.table.At(slot)
			r.state = stateObserved
			r.last = s.clock
			r.mapped = uint16(at)
			s.push(&s.observed, slot)
			return slot, report.None
		}
	}
	s.book.Flows.Refused[why]++
	s.known.put(memo{tuple: s.tuple, drop: why}, s.clock)
	return 0, why
}

// unobserve refuses the flow that has been observed for longest.
func (s *shard) unobserve() {
	oldest := s.observed.first - 1
	s.refuse(oldest, s.table.At(oldest), report.Midstream)
}

// meetClient begins to observe a connection by a segment of its client.
func (s *shard) meetClient(at int, v *packet.View) {
	slot, why := s.observe(at)
	if why != report.None {
		s.refused(why, v.PayloadLen)
		return
	}
	s.book.Packets.ToServer++
	s.book.Client.Captured.Add(v.PayloadLen)
	s.drop(report.Midstream, v.PayloadLen)
	r := s.table.At(slot)
	r.fin = v.Seq.Add(v.PayloadLen)
	r.acked = v.Ack
	r.asm.Start(r.fin)
	s.leaves(slot, r, v)
}

// meetServer begins to observe a connection by an answer of its server. It reports
// false when it is refused.
func (s *shard) meetServer(at int, v *packet.View) bool {
	slot, why := s.observe(at)
	if why == report.None {
		s.book.Packets.ToClient++
		r := s.table.At(slot)
		r.fin = v.Ack
		s.observeServer(slot, r, v)
	}
	return why == report.None
}

// observeClient looks at a client's packet of an observed flow, and reports whether
// the flow is adopted with it.
func (s *shard) observeClient(slot uint32, r *record, p *capture.Packet, v *packet.View) bool {
	if r.beginsTurn(v, s.clock) && s.adopt(slot, r, p, v) {
		return true
	}
	s.drop(report.Midstream, v.PayloadLen)
	r.observed(v)
	r.last = s.clock
	s.leaves(slot, r, v)
	return false
}

// beginsTurn reports whether a segment of the client is the first after an answer.
func (r *record) beginsTurn(v *packet.View, now int64) bool {
	if v.PayloadLen == 0 || v.Flags&(packet.SYN|packet.RST|packet.ACK) != packet.ACK || !v.Whole() {
		return false
	}
	if v.Seq != r.asm.Next() || r.fin.After(v.Seq) {
		return false // others are on their way, or it is one of them sent again
	}
	if !r.heard {
		return v.Flags&packet.PSH != 0 && now-r.last >= int64(silence) && v.Ack.After(r.acked)
	}
	d := v.Ack.Diff(r.answerNxt)
	return r.turn && 0 <= d && d <= windowSlack
}

// observed notes a client's packet with which the flow is not adopted.
func (r *record) observed(v *packet.View) {
	end := v.Seq.Add(v.PayloadLen)
	if !r.heard {
		if end.After(r.fin) || !near(end, r.fin) {
			r.fin = end
			r.asm.Start(end)
		}
		if v.PayloadLen > 0 {
			r.acked = v.Ack
		}
		return
	}
	if near(end, r.asm.Next()) && end.After(r.fin) {
		r.fin = end
		if v.Ack.After(r.answerNxt) && near(v.Ack, r.answerNxt) {
			r.answerNxt = v.Ack // an answer that was not captured, to what was before
		}
	}
}

// adopt opens an observed flow at the responder, beginning with v. It reports false
// when that cannot be now: there will be other turns.
func (s *shard) adopt(slot uint32, r *record, p *capture.Packet, v *packet.View) bool {
	if s.stopped(p.Time) || !s.up || s.orders.paused || s.lane.Room() < s.lane.Size()/2 || !s.sieve.takes(v.Payload) {
		return false
	}
	// seen counts from here on, behind the server's greeting.
	r.acked, r.answerNxt = v.Ack, v.Ack
	r.less = -int64(s.greeting(r))
	r.got = v.Seq
	r.iss = v.Seq.Add(-1)
	r.from = p.Time
	r.iface = p.Iface
	r.within = true
	if s.sieve != nil {
		s.adoptLater(slot, r)
		return true
	}
	s.opening = frame.Open{
		Key:  flow.Key{Tuple: s.tuple, ISS: r.iss},
		Map:  r.mapped,
		Time: r.from,
	}
	s.amplify()
	if !s.lane.Open(slot, &s.opening) {
		return false
	}
	s.remove(&s.observed, slot)
	r.state = stateCopying
	s.book.Adopt()
	s.book.Copies.Ask(s.opening.Copies)
	return true
}

// observeServer looks at a server's packet of an observed flow.
func (s *shard) observeServer(slot uint32, r *record, v *packet.View) {
	r.last = s.clock
	if v.Flags&(packet.SYN|packet.ACK) == packet.ACK {
		r.serverSays(v)
	}
	if v.Flags&(packet.FIN|packet.RST) != 0 && (!r.heard || near(v.Seq, r.answerNxt)) {
		s.refuse(slot, r, report.Midstream)
	}
}

// serverSays notes what a server's packet of an observed flow says of its numbers.
func (r *record) serverSays(v *packet.View) {
	end := v.Seq.Add(v.PayloadLen)
	if !r.heard || !near(v.Ack, r.asm.Next()) || !near(end, r.answerNxt) {
		// The first of its connection.
		if !r.fin.After(v.Ack) || !near(r.fin, v.Ack) {
			r.fin = v.Ack
		}
		r.heard = true
		r.turn = v.PayloadLen > 0
		r.asm.Start(v.Ack)
		r.answerNxt = end
		// How the window is scaled was said in the handshake: by 14 bits at most.
		r.scale, r.windowed = maxScale, true
		r.edge = v.Ack.Add(int(v.Window) << maxScale)
		return
	}
	r.offer(v)
	moved := v.Ack.After(r.asm.Next())
	if moved {
		r.asm.Start(v.Ack)
	}
	switch {
	case end.After(r.answerNxt):
		r.answerNxt = end
		r.turn = true
	case moved: // the client has begun a turn, and this does not answer it
		r.turn = false
	}
}

// leaves refuses an observed flow that its client ends.
func (s *shard) leaves(slot uint32, r *record, v *packet.View) {
	if v.Flags&(packet.FIN|packet.RST) != 0 && near(v.Seq, r.asm.Next()) {
		s.refuse(slot, r, report.Midstream)
	}
}
