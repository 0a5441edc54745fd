package copier

import (
	"flowtwin/copier/capture"
	"flowtwin/copier/report"
	"flowtwin/internal/packet"
	"flowtwin/tunnel/frame"
)

// fromServer handles a packet to the client; s.tuple is its flow's. Only its
// headers were captured: they tell what the server answered, what it has received
// and how it ends the connection.
func (s *shard) fromServer(p *capture.Packet, v *packet.View) {
	slot, ok := s.table.Find(&s.tuple)
	if v.Flags.Has(packet.SYN | packet.ACK) {
		if ok {
			slot, ok = s.accepted(slot, v)
		} else if slot, ok = s.answered(p, v); !ok {
			return
		}
	} else if ok {
		slot, ok = s.confirmed(slot, v)
	}
	if !ok {
		s.strangeAnswer(v)
		return
	}
	r := s.table.At(slot)
	s.book.Packets.ToClient++
	if r.state == stateObserved {
		s.observeServer(slot, r, v)
		return
	}
	r.heard = true
	if r.state == stateSynSeen {
		s.serverHandshake(slot, r, p, v)
		return
	}
	r.last = s.clock
	if v.Flags&packet.SYN != 0 {
		return
	}
	r.offer(v)
	if v.Flags&packet.RST == 0 {
		s.goesOn(r)
	}
	if r.guess == guessReset && v.PayloadLen == 0 && v.Flags&(packet.FIN|packet.RST) == 0 {
		r.guess = guessNone // the server lives on
	}
	if v.PayloadLen > 0 {
		s.answer(r, v)
	}
	if v.Flags&packet.ACK != 0 && !s.acknowledged(slot, r, v.Ack) {
		if slot, ok = s.table.Find(&s.tuple); !ok {
			return
		}
		r = s.table.At(slot)
	}
	if v.Flags&(packet.FIN|packet.RST) != 0 {
		s.serverEnds(slot, r, v)
	}
}

// acknowledged handles that the server has all of the client's bytes before ack. It
// reports false when the flow may be elsewhere now, or over.
func (s *shard) acknowledged(slot uint32, r *record, ack packet.Seq) (same bool) {
	if ack.After(r.got) {
		r.got = ack
	}
	same = true
	for r.state.followed() && r.state != stateFinSent && r.asm.Passed(ack) {
		next := r.asm.Next()
		s.passed(slot, r, ack.Diff(next))
		same = false
		var ok bool
		if slot, ok = s.table.Find(&s.tuple); !ok {
			break
		}
		if r = s.table.At(slot); r.asm.Next() == next {
			break
		}
	}
	return same
}

// answered begins a flow of which the server's SYN-ACK is the first packet captured,
// or counts the packet.
func (s *shard) answered(p *capture.Packet, v *packet.View) (uint32, bool) {
	iss := v.Ack.Add(-1)
	_, mapped := s.maps.find(s.tuple.Server, s.tuple.ServerPort)
	if e := s.known.find(&s.tuple); mapped && (e == nil || e.iss != iss) {
		c := claim{time: p.Time, iss: iss, iface: p.Iface}
		if slot, ok := s.meet(&c); ok {
			return slot, true
		}
	}
	s.strangeAnswer(v)
	return 0, false
}

// serverHandshake handles the server's packet of a flow in its handshake.
func (s *shard) serverHandshake(slot uint32, r *record, p *capture.Packet, v *packet.View) {
	switch {
	case v.Flags&packet.RST != 0:
		if v.Flags&packet.SYN == 0 {
			s.book.Flows.Declined++
			s.refuse(slot, r, report.NeverEstablished)
		}
	case !v.Flags.Has(packet.SYN|packet.ACK) || !v.Ack.After(r.iss):
	default:
		r.synAck = p.Stamp()
		r.answers(v.Seq)
		o := v.SYNOptions()
		if r.scaled && o.Scaled {
			r.scale = o.WindowScale
		}
		r.edge, r.windowed = v.Ack.Add(int(v.Window)), true
		if _, stored := r.asm.Gap(s.store); stored && v.Ack.After(r.iss.Add(1)) {
			s.open(slot, r, true) // the server has taken the data of the SYN, and may answer at once
		}
	}
}

// passed handles that the server has missing bytes which were not captured. One
// byte with nothing behind it is most likely the client's FIN. Of a server elsewhere
// they may still come: a mirror port's two directions go through different queues.
func (s *shard) passed(slot uint32, r *record, missing int) {
	_, stored := r.asm.Gap(s.store)
	data, afar := missing > 1 || stored || r.state == stateFinHeld, s.maps.afar(int(r.mapped))
	switch {
	case data && afar:
		if r.guess != guessHole {
			r.guess, r.doubt = guessHole, s.clock
		}
		r.rst = r.asm.Next().Add(missing)
	case data:
		s.hole(slot, r, missing)
	case r.serverClosed() && !afar:
		s.sendFin(slot, r)
	case r.guess == guessNone:
		r.guess, r.doubt = guessFin, s.clock
	}
}

// answer counts the bytes of an answer, each once.
func (s *shard) answer(r *record, v *packet.View) {
	end := v.Seq.Add(v.PayloadLen)
	if d := end.Diff(r.answerNxt); d > 0 && d <= maxWindow {
		r.answered += uint64(d)
		r.answerNxt = end
		s.book.Answers.Online.Add(d)
	}
}

// hole gives a flow up of which the server has bytes that were not captured: they
// will not be sent again. missing is how many it has. What can go on does so behind
// the hole.
func (s *shard) hole(slot uint32, r *record, missing int) {
	if gap, ok := r.asm.Gap(s.store); ok {
		missing = min(missing, gap)
	}
	if d := r.fin.Diff(r.asm.Next()); r.state == stateFinHeld {
		missing = max(d-s.discard(r, report.CaptureHole), 0)
	}
	if missing > windowSlack { // no hole: another connection has the tuple
		s.forsake(slot, r, report.CaptureHole)
		return
	}
	s.book.Client.Missing += uint64(missing)
	slot, r, ok := s.giveUp(slot, r, report.CaptureHole)
	if !ok {
		return
	}
	r.skips(r.asm.Next().Add(missing))
	s.release(slot, r)
}

// serverEnds handles the server's FIN or reset.
func (s *shard) serverEnds(slot uint32, r *record, v *packet.View) {
	if r.state == stateWaiting {
		s.leave(slot, r)
		return
	}
	if v.Flags&packet.RST != 0 {
		// The client's connection is gone without its doing: for the target that
		// looks most like a client that has gone away. But one that has closed goes
		// nowhere, and how the target ends the connection then is its own affair.
		r.ending = report.ServerReset
		if r.state.open() {
			if r.state != stateFinSent {
				s.control(slot, r, frame.TypeReset)
			}
			s.end(slot, r)
			return
		}
	} else if !r.serverClosed() {
		if r.state == stateCopying && r.guess == guessFin {
			s.sendFin(slot, r)
		}
		r.serverFin = v.Seq.Add(v.PayloadLen)
		r.ending = r.ending.ServerClosed()
		if r.state.open() && r.ending.Over() {
			s.end(slot, r)
			return
		}
	}
	s.over(slot, r)
}
