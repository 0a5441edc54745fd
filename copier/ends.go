package copier

import (
	"time"

	"flowtwin/copier/report"
	"flowtwin/internal/packet"
	"flowtwin/tunnel/frame"
)

// end ends a flow that is over online and of which the responder knows all it is
// going to; its account is awaited.
func (s *shard) end(slot uint32, r *record) {
	s.discard(r, report.CaptureHole)
	s.unscreen(r, report.HTTPUnparsed)
	s.book.Flows.Live--
	s.book.Flows.Ended[r.ending]++
	s.await(slot, r)
}

// await makes a flow wait for its account, of which nothing else is to come.
func (s *shard) await(slot uint32, r *record) {
	r.state = stateEnded
	if r.drop == report.None && r.ending != report.ClientReset && r.ending != report.ServerReset {
		r.parting = true // the others do not wait for the target
		s.push(&s.parting, slot)
	}
}

// hurry makes the responder end the session that has been waited for longest: its
// slot is needed.
func (s *shard) hurry() {
	slot := s.parting.first - 1
	r := s.table.At(slot)
	if r.owed != 0 || !s.lane.Abort(slot, frame.AbortOverload) {
		return
	}
	s.remove(&s.parting, slot)
	r.parting = false
	s.book.Flows.Hurried++
}

// giveUp ends the session of an open flow that lives on. A flow that can go on with
// another one waits for it, and is returned; how the client of any other may end it
// is no longer of interest.
func (s *shard) giveUp(slot uint32, r *record, why report.Reason) (uint32, *record, bool) {
	if r.state == stateWaiting {
		return slot, r, true
	}
	if slot, r, ok := s.suspend(slot, r, why); ok {
		return slot, r, true
	}
	s.forsake(slot, r, why)
	return slot, r, false
}

// forsake gives up a flow for good.
func (s *shard) forsake(slot uint32, r *record, why report.Reason) {
	if r.state == stateWaiting {
		s.leave(slot, r)
		return
	}
	s.abandon(r, why)
	r.state = stateGivenUp
	s.control(slot, r, frame.TypeAbort)
	s.over(slot, r)
}

// abandon is what all ways to give an open flow up have in common.
func (s *shard) abandon(r *record, why report.Reason) {
	s.discard(r, why)
	s.unscreen(r, why)
	s.book.Flows.Live--
	s.book.Flows.GivenUp[why]++
	r.drop = why
	if r.state == stateFinHeld {
		r.ending = r.ending.ClientClosed() // it will not be sent, but it was seen
	}
}

// over moves a flow on that nothing is sent of any more, once it is over online.
func (s *shard) over(slot uint32, r *record) {
	if !r.ending.Over() {
		return
	}
	switch r.state {
	case stateGivenUp:
		s.await(slot, r)
	case stateSettled:
		s.book.Flows.Live--
		s.book.Flows.Ended[r.ending]++
		s.compare(r)
		s.hears(r)
		s.free(slot, r)
	case stateShunned:
		s.free(slot, r)
	default:
	}
}

// compare enters whether the target's answers were as long as the online
// server's. Only connections that both sides have closed online can be compared.
func (s *shard) compare(r *record) {
	switch {
	case s.vague(r):
	case r.ending != report.ClientFirst && r.ending != report.ServerFirst:
	case !r.met && r.absorbed == 0 && int64(r.answered) == r.less:
		// Nothing was to be answered, and nobody there to answer nothing.
	case int64(r.absorbed) == int64(r.answered)-r.less:
		s.book.Answers.Same++
	default:
		s.book.Answers.Different++
	}
}

// hears enters whether the target has answered a connection at all that the online
// server has answered. Not judged are: one whose server's packets are not captured;
// one of which requests were left out and whose answers cannot be told apart; a session
// that began in the middle of a connection whose protocol is not known, so that the
// target may not have understood it; one that was given up with bytes missing; one
// without an answer that its client or we have cut soon: the target may have been about
// to answer. Copies beyond the first have no accounts of their own.
func (s *shard) hears(r *record) {
	switch r.drop {
	case report.None, report.Idle, report.Replaced, report.Draining, report.MapRemoved:
	default:
		return
	}
	switch {
	case !r.ran || r.answered == 0 || int64(r.answered) <= r.less || s.vague(r):
	case r.within && r.proto != protoHTTP1 && r.proto != protoRedis:
	case r.absorbed > 0:
		s.book.Answers.Answered++
	default:
		s.book.Answers.Unanswered++
	}
}

// replace makes way for a new connection on the tuple of the flow in slot.
func (s *shard) replace(slot uint32) {
	r := s.table.At(slot)
	switch r.state {
	case stateSynSeen:
		s.refuse(slot, r, report.NeverEstablished)
		return
	case stateObserved:
		s.refuse(slot, r, report.Midstream)
		return
	case stateWaiting:
		s.leave(slot, r)
		return
	case stateCopying, stateFinHeld, stateFinSent:
		s.giveUp(slot, r, report.Replaced)
	case stateSettled:
		s.retire(slot, r, report.Replaced)
		return
	case stateShunned:
		s.free(slot, r)
		return
	default:
	}
	if r.state != stateEnded {
		s.await(slot, r)
	}
	s.table.Unlink(slot)
}

// succeeded reports whether a client's segment is of another connection on the tuple
// of a flow that is over: one that was not seen to begin, such as before the sample
// grew, and is none of the flow's bytes.
func (r *record) succeeded(v *packet.View) bool {
	if r.state != stateEnded || v.PayloadLen == 0 || v.Flags&(packet.SYN|packet.RST|packet.ACK) != packet.ACK {
		return false
	}
	d := r.asm.Next().Diff(v.Seq.Add(v.PayloadLen))
	return d < -windowSlack || d >= stragglers
}

// free forgets a flow of which nothing is to come.
func (s *shard) free(slot uint32, r *record) {
	switch {
	case r.state == stateShunned:
		s.remove(&s.shunned, slot)
	case r.parting:
		s.remove(&s.parting, slot)
	}
	s.unclaim(r)
	tuple := s.table.Tuple(slot)
	if at, ok := s.table.Find(&tuple); ok && at == slot {
		// What may still come of a flow that was given up is dropped for that reason.
		s.known.put(memo{tuple: tuple, iss: r.iss, next: r.asm.Next(), drop: r.drop}, s.clock)
	}
	s.prologues.drop(&r.pro)
	s.unscreen(r, r.drop)
	r.state = stateFree
	s.table.Free(slot)
}

// discard drops what of the flow is stored and still waits, and returns how much.
func (s *shard) discard(r *record, why report.Reason) (bytes int) {
	segments, bytes := r.asm.Drop(s.store)
	if segments > 0 {
		s.book.Client.Dropped[why].Plus(report.Count{Segments: uint64(segments), Bytes: uint64(bytes)})
	}
	return bytes
}

// control sends a frame that ends a flow. When the lane has no room the record
// owes it, and the sweep tries again: the responder must learn of every end.
func (s *shard) control(slot uint32, r *record, t frame.Type) {
	if r.owed != 0 {
		s.owed--
	}
	r.owed = 0
	var ok bool
	switch t {
	case frame.TypeFin:
		ok = s.lane.Fin(slot, s.finSeen(r), r.ending == report.ServerFirst)
	case frame.TypeReset:
		ok = s.lane.Reset(slot, s.finSeen(r))
	default:
		ok = s.lane.Abort(slot, abortReason(r.drop))
	}
	if !ok {
		r.owed = t
		s.owed++
	}
}

// abortReason is what the responder is told.
func abortReason(r report.Reason) frame.AbortReason {
	switch r {
	case report.Idle:
		return frame.AbortIdle
	case report.Replaced:
		return frame.AbortReplaced
	case report.Draining, report.Paused, report.MapRemoved:
		return frame.AbortDrain
	case report.Overload, report.ReorderFull:
		return frame.AbortOverload
	default:
		return frame.AbortCaptureHole
	}
}

// answerTime is how long after a connection's last packet a target that hangs and one
// that is slow are told from each other.
const answerTime = 4 * time.Second

// settle enters a session's account. Where the flow still lives nothing more can
// be copied of it: the session is over.
func (s *shard) settle(slot uint32, r *record, c *frame.Closed) {
	s.book.Settle(c, r.sent)
	s.refusedBy(r, c.How)
	s.payOff(r)
	r.absorbed = c.AnswerBytes
	r.met = c.How == frame.ClosedBoth || c.How == frame.ClosedTargetFirst
	r.ran = c.DeliveredBytes > 0 && (c.AnswerBytes > 0 || report.EndedThere(c.How) || s.clock-r.last >= int64(answerTime))
	switch r.state {
	case stateCopying, stateFinHeld:
		// A responder that stops ends its sessions in order; another will be there.
		if c.How != frame.ClosedDrain || !s.suspendHere(slot, r, report.SessionOver) {
			s.abandon(r, report.SessionOver)
			s.shun(slot, r)
		}
	case stateFinSent:
		r.state = stateSettled
	case stateGivenUp:
		s.hears(r)
		s.shun(slot, r)
	default:
		if r.drop == report.None {
			s.compare(r)
		}
		s.hears(r)
		s.free(slot, r)
	}
}

// payOff forgets what the record owes the lane: the session is gone.
func (s *shard) payOff(r *record) {
	if r.owed != 0 {
		r.owed = 0
		s.owed--
	}
}

// loseAll gives up all sessions: they ended with the connection to the responder.
func (s *shard) loseAll() {
	s.book.Copies.Lose()
	s.copies = frame.Copies{}
	for slot, r := range s.table.All() {
		if !r.state.awaits() {
			continue
		}
		s.book.Lose(r.sent)
		s.payOff(r)
		switch {
		case r.state == stateEnded:
			s.free(slot, r)
			continue
		case r.state.open():
			if s.suspendHere(slot, r, report.TunnelLost) {
				continue
			}
			s.abandon(r, report.TunnelLost)
		}
		s.shun(slot, r)
	}
	s.book.Broke()
}

// shun keeps a flow that was given up and settled, to know its packets by, for as
// long as it lives online. One whose map was removed is forgotten: the map may be
// there again, and then it is a connection found open, as all others of it.
func (s *shard) shun(slot uint32, r *record) {
	if r.drop == report.MapRemoved {
		s.free(slot, r)
		return
	}
	r.state = stateShunned
	s.push(&s.shunned, slot)
	s.over(slot, r)
}

// giveUpAll gives up every flow that lives: the copier is about to end.
func (s *shard) giveUpAll() {
	for slot, r := range s.table.All() {
		switch {
		case r.state == stateSynSeen && s.hadTime(r):
			s.refuse(slot, r, report.NeverEstablished)
		case r.state == stateSynSeen:
			s.refuse(slot, r, report.Draining)
		case r.state == stateObserved:
			s.refuse(slot, r, report.Midstream)
		case r.state == stateWaiting:
			s.leave(slot, r)
		case r.state.open():
			s.giveUp(slot, r, report.Draining)
		case r.state == stateSettled:
			s.retire(slot, r, report.Draining)
		}
	}
}

// retire ends a settled flow that is not over online.
func (s *shard) retire(slot uint32, r *record, why report.Reason) {
	s.book.Flows.Live--
	s.book.Flows.GivenUp[why]++
	s.hears(r)
	s.free(slot, r)
}

// missed counts the n bytes that were not captured before the client's end or reset.
// Where the server's window is not known, one that is far ahead says nothing: it may
// be another connection's, or forged.
func (s *shard) missed(r *record, n int) {
	if r.windowed || n <= windowSlack {
		s.book.Client.Missing += uint64(max(n, 0))
	}
}
