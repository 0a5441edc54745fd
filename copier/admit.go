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
		if s.table.At(slot).iss == v.Seq {
			return slot, true // sent again
		}
		s.replace(slot)
	} else if e := s.known.find(&s.tuple); e != nil && e.drop != report.Midstream && e.iss == v.Seq {
		return 0, false
	}
	at, ok := s.maps.find(s.tuple.Server, s.tuple.ServerPort)
	if !ok {
		return 0, false
	}
	s.book.Flows.Seen++
	why := report.TableFull
	if s.phase == phaseRunning {
		if slot, ok := s.table.Insert(&s.tuple); ok {
			s.begin(slot, at, p, v)
			return slot, true
		}
	} else {
		why = report.Draining
	}
	s.book.Flows.Refused[why]++
	s.known.put(memo{tuple: s.tuple, iss: v.Seq, drop: why})
	return 0, false
}

// begin fills the record of a new flow from its SYN.
func (s *shard) begin(slot uint32, at int, p *capture.Packet, v *packet.View) {
	s.used = max(s.used, int(slot)+1)
	s.book.Flows.Pending++
	r := s.table.At(slot)
	r.state = stateSynSeen
	r.syn, r.last = p.Time, p.Time
	r.iss = v.Seq
	r.iface = p.Iface
	r.mss = v.SYNOptions().MSS
	r.mapped = uint16(at)
}

// handshake looks at a client's packet of a flow in its handshake, and opens the
// flow when that is complete, or when the client sends data already (RFC 7413).
// Without an open flow it says why the packet's data is dropped.
func (s *shard) handshake(slot uint32, r *record, p *capture.Packet, v *packet.View) (report.Reason, bool) {
	switch {
	case v.Flags&packet.RST != 0:
		if v.Seq == r.iss || v.Seq == r.iss.Add(1) {
			s.refuse(slot, r, report.NeverEstablished)
		}
		return report.NeverEstablished, false
	case v.Flags&packet.SYN != 0:
		if v.PayloadLen == 0 {
			return report.NeverEstablished, false
		}
	case v.Flags&packet.ACK == 0 || !v.Seq.After(r.iss) || r.synAck != 0 && !v.Ack.After(r.irs):
		return report.NeverEstablished, false // of an older connection
	case r.synAck == 0: // the SYN-ACK was not captured, but this tells the same
		r.answers(v.Ack.Add(-1))
	default:
		r.rtt = uint32(min(max((p.Time-r.synAck)/1000, 1), 1<<32-1))
	}
	return s.admit(slot, r)
}

// answers notes where the server's sequence numbers begin.
func (r *record) answers(irs packet.Seq) {
	r.irs = irs
	r.acked = irs.Add(1)
	r.answerNxt = irs.Add(1)
}

// admit opens the flow at the responder, or refuses it and says why.
func (s *shard) admit(slot uint32, r *record) (report.Reason, bool) {
	switch {
	case s.phase != phaseRunning:
		return s.refuse(slot, r, report.Draining), false
	case !s.up:
		return s.refuse(slot, r, report.TunnelDown), false
	case s.lane.Room() < s.lane.Size()/2:
		return s.refuse(slot, r, report.Overload), false
	}
	s.opening = frame.Open{
		Key:  flow.Key{Tuple: s.tuple, ISS: r.iss},
		Map:  r.mapped,
		Time: r.syn,
		MSS:  r.mss,
		RTT:  r.rtt,
	}
	if !s.lane.Open(slot, &s.opening) {
		if s.lane.Up() {
			return s.refuse(slot, r, report.Overload), false
		}
		return s.refuse(slot, r, report.TunnelDown), false
	}
	r.asm.Start(r.iss.Add(1))
	r.state = stateCopying
	s.book.Open()
	return 0, true
}

// refuse ends a flow that was not opened, and returns why.
func (s *shard) refuse(slot uint32, r *record, why report.Reason) report.Reason {
	s.book.Flows.Pending--
	s.book.Flows.Refused[why]++
	s.known.put(memo{tuple: s.table.Tuple(slot), iss: r.iss, drop: why})
	r.state = stateFree
	s.table.Free(slot)
	return why
}
