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
	if !ok {
		s.strangeAnswer()
		return
	}
	r := s.table.At(slot)
	s.book.Packets.ToClient++
	r.last = p.Time
	if v.Flags&packet.SYN != 0 {
		r.serverSyn(p, v)
		return
	}
	if r.state == stateSynSeen {
		if v.Flags&packet.RST != 0 {
			s.refuse(slot, r, report.NeverEstablished)
		}
		return
	}
	if v.PayloadLen > 0 {
		s.answer(r, v)
	}
	if (r.state == stateCopying || r.state == stateFinHeld) && v.Flags&packet.ACK != 0 && r.asm.Passed(v.Ack) {
		s.hole(slot, r, v.Ack.Diff(r.asm.Next()))
	}
	if v.Flags&(packet.FIN|packet.RST) != 0 {
		s.serverEnds(slot, r, v)
	}
}

// serverSyn notes the server's part of the handshake.
func (r *record) serverSyn(p *capture.Packet, v *packet.View) {
	fast := r.synAck == 0 && r.seen == 0 && r.answered == 0 // opened by data in the SYN
	if v.Flags&packet.ACK == 0 || !v.Ack.After(r.iss) || r.state != stateSynSeen && !fast {
		return
	}
	r.synAck = p.Time
	r.answers(v.Seq)
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
// will not be sent again. missing is how many it has.
func (s *shard) hole(slot uint32, r *record, missing int) {
	if gap, ok := r.asm.Gap(s.store); ok {
		missing = min(missing, gap)
	}
	s.book.Client.Missing += uint64(missing)
	s.giveUp(slot, r, report.CaptureHole)
}

// serverEnds handles the server's FIN or reset.
func (s *shard) serverEnds(slot uint32, r *record, v *packet.View) {
	if v.Flags&packet.RST != 0 {
		// The client's connection is gone without its doing: for the target that
		// looks most like a client that has gone away.
		if r.state.open() {
			r.ending = report.ServerReset
			s.control(slot, r, frame.TypeReset)
			s.end(r)
			return
		}
		r.ending = report.ServerReset
	} else if !r.serverClosed() {
		r.serverFin = v.Seq.Add(v.PayloadLen)
		r.ending = r.ending.ServerClosed()
		if r.state.open() && r.ending.Over() {
			s.end(r)
			return
		}
	}
	s.over(slot, r)
}

// strangeAnswer counts a server's packet of no flow in the table.
func (s *shard) strangeAnswer() {
	e := s.known.find(&s.tuple)
	switch {
	case e == nil:
		if _, ok := s.maps.find(s.tuple.Server, s.tuple.ServerPort); !ok {
			s.book.Packets.Unmapped++
			return
		}
		s.book.Packets.NoFlow++
	case e.drop == report.None:
		s.book.Packets.Late++
	default:
		s.book.Packets.Refused++
	}
}
