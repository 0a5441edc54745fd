package replay

import "flowtwin/tunnel/frame"

// do carries out a, which e caused, and returns the event that follows from it.
func (s *Session) do(a action, e event, now int64) event {
	switch a {
	case none:
	case pump:
		return s.write(now, true)
	case rest:
		return s.write(now, false)
	case hold:
		if s.gate.since == 0 {
			s.gate.since, s.arrived, s.trickles = now, s.acked, false
		}
	case check:
		if s.ask(now) != wait {
			return evReleased
		}
	case finish:
		return s.finish(now)
	case abort:
		s.how = s.howAborted(e)
		s.lookBack(now)
		s.conn.Abort()
		return s.letGo()
	case part:
		return s.part(now)
	case redial:
		return s.redial()
	case release:
		if e != evFinished {
			s.how = s.failed()
		}
		s.lookBack(now)
		return s.letGo()
	case account:
		s.account(now)
	}
	return evNone
}

// write gives the connection what may go out, in order: turn by turn, and within
// a turn as much as there is room for. Without mayRelease no new turn begins, and
// an end waits for nothing, since no answer will come.
func (s *Session) write(now int64, mayRelease bool) event {
	for {
		if s.turns.len() > 0 && s.turns.at(0).start == s.written {
			t := *s.turns.at(0)
			switch {
			case mayRelease:
				v := s.ask(now)
				if v == wait {
					return evHeld
				}
				s.pass(t, v, now)
			case t.kind == turnData || t.kind == turnPing || t.kind == turnPace:
				return evHeld
			case t.kind != turnMark && s.misses(&t):
				return evHeld
			}
			s.turns.pop()
			switch t.kind {
			case turnFin:
				return evFinDue
			case turnReset:
				return evResetDue
			case turnMark, turnData, turnPing, turnPace:
				continue
			}
		}
		limit := s.released() - s.written
		if limit == 0 {
			return evNone
		}
		if full, err := s.writeSome(limit, now); err != nil {
			return evFailed
		} else if full {
			return evNone
		}
	}
}

// released returns the stream offset up to which bytes may go out.
func (s *Session) released() uint64 {
	if s.turns.len() > 0 {
		return s.turns.at(0).start
	}
	return s.received
}

// ask says whether the first turn in line may leave. A reset also waits until what
// was written is acknowledged: it would throw away what is still on its way; and a
// FIN that was online the second one waits for the target's.
func (s *Session) ask(now int64) verdict {
	t := s.turns.at(0)
	if s.free && t.kind <= turnData {
		return answered
	}
	if t.kind == turnPace {
		return s.gate.keepsUp(t.seen, s.pace.slack(), now, s.gateConfig(t))
	}
	if t.kind == turnPing && s.fed(t) {
		return answered
	}
	s.extend(now)
	v := s.askGate(t, now)
	if t.kind == turnFin && s.second && v != wait {
		return s.yield(v, now)
	}
	if t.kind != turnReset || v == overdue || v == wait {
		return v
	}
	s.reap()
	if s.acked == s.written || s.overdue(now) {
		return v
	}
	s.again = now + int64(s.shard.cfg.Settle)
	return wait
}

// pass lets t out of the gate.
func (s *Session) pass(t turn, v verdict, now int64) {
	if t.kind == turnPace {
		s.pace.pass(s, t.seen, v)
		return
	}
	if t.kind == turnPing && s.fed(&t) {
		s.gate.since = 0 // what it is behind by stays owed
	} else if !s.free || t.kind > turnData {
		s.gate.pass(t.seen, v, now, &s.shard.cfg)
	}
	if t.last {
		s.setFree(s.frees)
	}
	if t.last || t.kind == turnPing {
		s.pinged = s.gate.absorbed
	}
	if t.kind != turnData {
		return
	}
	s.turnCount++
	s.keepTurn(now)
	s.timed(v, t.seen)
	switch v {
	case overdue:
		s.heldMax++
	case settled:
		s.settled++
	case wait, answered:
	}
}

// writeSome writes at most limit bytes that lie together, of the queue or, behind
// it, of the frame at hand. full says that there is no more room.
func (s *Session) writeSome(limit uint64, now int64) (full bool, err error) {
	b, queued := s.queue.front(), true
	if b == nil {
		b, queued = s.in, false
	}
	if uint64(len(b)) > limit {
		b = b[:limit]
	}
	n, err := s.conn.Write(b)
	if n > 0 {
		s.progress = now
		s.written += uint64(n)
		s.keep(b[:n], now)
		if queued {
			s.queue.pop(&s.shard.pool, n)
		} else {
			s.in = s.in[n:]
		}
		s.sent(now)
		if s.written == s.released() {
			s.gate.asked = s.gate.absorbed
		}
	}
	return n < len(b), err
}

// sent reports the segments that are written completely.
func (s *Session) sent(now int64) {
	for s.unsent > 0 {
		seg := s.segs.at(s.segs.len() - s.unsent)
		if seg.end > s.written {
			return
		}
		s.unsent--
		s.shard.listener.Wrote(s, seg.time, now)
	}
}

// finish sends our FIN. What has not been written never will be, but for turns
// that go to another connection.
func (s *Session) finish(now int64) event {
	if s.state == lastAck && s.comesBack() {
		if !s.comeback.whole {
			s.discard(s.released())
			s.comeback.skipping = !s.waits()
		}
	} else {
		s.queue.free(&s.shard.pool)
		s.forgetTurn()
		s.turns = ring[turn]{}
	}
	s.how = frame.ClosedBoth
	if s.state == lastAck {
		s.how = frame.ClosedTargetFirst
	}
	s.progress = now
	if s.conn.CloseWrite() != nil {
		return evFailed
	}
	return evNone
}

// lookBack takes what the connection has to tell before it is let go of: one that
// ended early may have been established without that we had news of it.
func (s *Session) lookBack(now int64) {
	if s.conn == nil {
		return
	}
	if s.conn.Connect() != 0 {
		s.opens(now)
	}
	s.reap()
}

// letGo ends our interest in the connection, and the session if its client has
// ended too.
func (s *Session) letGo() event {
	if s.conn != nil {
		s.conn.Release()
		s.conn = nil
	}
	s.queue.free(&s.shard.pool)
	s.forgetTurn()
	s.turns = ring[turn]{}
	s.segs = ring[segment]{}
	s.unsent, s.abortBy = 0, 0
	if s.end != endNone {
		return evEnd
	}
	return evNone
}

// howAborted says what it was that made us send RST.
func (s *Session) howAborted(e event) frame.CloseHow {
	switch e {
	case evResetDue, evReset:
		return frame.ClosedClientReset
	case evOverrun:
		return frame.ClosedBacklog
	case evCut:
		return s.how
	default:
		return frame.ClosedTimeout
	}
}

// failed tells of a connection that the target refused, and says how it came to its
// end.
func (s *Session) failed() frame.CloseHow {
	how := s.howFailed()
	if how == frame.ClosedRefused {
		s.shard.listener.Reached(s, false)
	}
	return how
}

// howFailed says how the connection came to its end.
func (s *Session) howFailed() frame.CloseHow {
	if s.conn == nil {
		return frame.ClosedNoTuple
	}
	switch s.conn.State() {
	case ConnRefused:
		return frame.ClosedRefused
	case ConnTimedOut:
		return frame.ClosedTimeout
	default:
		return frame.ClosedTargetReset
	}
}

// account writes the account.
func (s *Session) account(now int64) {
	s.shard.timers.remove(s)
	if s.copied != nil {
		s.leave()
	}
	s.abortBy = 0
	how := s.how
	if s.end == endAborted && (how == frame.ClosedBoth || how == frame.ClosedTargetFirst || how == frame.ClosedTimeout) {
		how = frame.ClosedAborted
	}
	s.shard.listener.Closed(s, frame.Closed{
		How:               how,
		DeliveredBytes:    s.delivered.bytes,
		DroppedBytes:      s.came.bytes - s.delivered.bytes,
		DeliveredSegments: s.delivered.segments,
		DroppedSegments:   s.came.segments - s.delivered.segments,
		AnswerBytes:       s.gate.absorbed,
		Turns:             s.turnCount,
		HeldMax:           s.heldMax,
		Reconnects:        s.comeback.count,
		Resent:            s.comeback.resent,
		GapBytes:          s.comeback.gap.bytes,
		GapSegments:       s.comeback.gap.segments,
	}, now)
}

// tick is called when the session's timer is due. The time may have moved on
// since it was set: then it is only set again.
func (s *Session) tick(now int64) {
	if k := s.copied; k != nil && k.feedAt != 0 && now >= k.feedAt {
		k.feedAt = 0
		s.shard.ripen(s)
	}
	if s.abortBy != 0 && now >= s.abortBy {
		s.Cut(frame.ClosedAborted, now)
		return
	}
	if at := s.deadline(now); s.state != holding && (at == 0 || now < at) {
		s.arm(now)
		return
	}
	s.dispatch(evTick, now)
}

// deadline returns when the session must be looked at if nothing happens, 0 for
// never.
func (s *Session) deadline(now int64) int64 {
	cfg := &s.shard.cfg
	switch s.state {
	case holding:
		if s.again > now {
			return s.again
		}
		t := s.turns.at(0)
		if s.trails(t) {
			return s.gate.doneBy(&s.shard.ends)
		}
		return s.gate.wake(s.gateConfig(t))
	case targetClosed, lastAck:
		return s.progress + int64(cfg.Linger)
	case ending:
		return s.progress + int64(cfg.Patience)
	case sending:
		if s.end != endNone {
			return s.progress + int64(cfg.Patience)
		}
	case connecting, parted, discarding, over:
	}
	return 0
}

// arm sets the timer. One that is due earlier than needed is left alone: looking
// at the session once in vain is cheaper than moving its entry at every step.
func (s *Session) arm(now int64) {
	at := s.deadline(now)
	if s.abortBy != 0 && (at == 0 || s.abortBy < at) {
		at = s.abortBy
	}
	if k := s.copied; k != nil && k.feedAt != 0 && (at == 0 || k.feedAt < at) {
		at = k.feedAt
	}
	if at != 0 && (s.place == notArmed || at < s.armed) {
		s.shard.timers.set(s, at)
	}
}
