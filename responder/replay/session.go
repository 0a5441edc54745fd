package replay

import (
	"time"

	"flowtwin/tunnel/frame"
)

// A Session is the client's end of one connection to the target. Its methods are
// for the shard's goroutine.
//
// Conservation. Every byte and segment given to Data is in the account once, as
// delivered or as dropped: delivered is what the target's kernel acknowledged, on
// whichever connection, dropped is the rest.
type Session struct {
	// Owner is for whoever owns the session.
	Owner any

	shard *Shard
	conn  Conn // nil: none, or none any more
	state state
	end   clientEnd
	how   frame.CloseHow

	gate  gate
	queue queue
	in    []byte        // of the frame at hand: follows the queue, lent by Data
	turns ring[turn]    // not released yet, oldest first
	segs  ring[segment] // not known to be acknowledged, oldest first

	// Offsets in the stream of what may still go to the target. What is lost between
	// two connections is skipped, or never gets an offset.
	received uint64 // behind all that came
	written  uint64 // behind all that Conn took
	acked    uint64 // behind all that is acknowledged, or skipped
	unsent   int    // segments at the end of segs whose last byte is not written

	sniffer  sniffer
	free     bool     // the gate is off but for ends and pings
	frees    GateNews // why the gate is about to go off
	unheard  unheard
	pace     pace
	pinged   uint64 // answer bytes when the last ping left
	late     int    // turns that left by max-hold, one after the other
	bound    bool   // what was agreed on ends with the connection: there is no other
	lastSeen uint64
	oneWay   oneWay
	second   bool  // the client closed behind the online server
	again    int64 // when an end is looked at again that the gate lets out but waits for something else, 0: none has
	marked   bool  // lastSeen is what the client had seen at the end of its bytes so far

	// The account.
	came, delivered tally
	comeback        comeback
	turnCount       uint64
	heldMax         uint64
	settled         uint64 // turns released by the settle time

	arrived  uint64 // acked when the gate's wait began
	trickles bool   // that wait began anew, since not all had arrived
	progress int64  // when bytes last moved, either way
	abortBy  int64  // the session ends then, 0 never
	armed    int64  // when its timer is due
	place    int    // in the shard's timers, notArmed
	opened   bool   // the listener knows that the connection was established

	copied *copied // nil: the flow's own session
}

// clientEnd says how the client's side ended.
type clientEnd uint8

const (
	endNone    clientEnd = iota
	endFin               // FIN
	endReset             // RST
	endAborted           // the copier gave the flow up: as FIN, but not waited for
	endCut               // we gave it up
)

// A segment is one Data frame.
type segment struct {
	end  uint64 // stream offset behind its last byte
	time int64  // of capture
}

// A turn is something that waits for the target's answer to what is before it.
type turn struct {
	start uint64 // stream offset that it begins at
	seen  uint64 // what the client had seen by then
	kind  turnKind
	last  bool   // the gate goes off behind it
	datas uint32 // of a ping: DATA frames since the one before
}

type turnKind uint8

const (
	turnMark turnKind = iota // no bytes, only what the client had seen
	turnData
	turnPing // data of HTTP/2 that waits for some answer
	turnPace // data of HTTP/2 that waits until the target is not far behind
	turnFin
	turnReset
)

// Over reports whether the account is written.
func (s *Session) Over() bool { return s.state == over }

// State names what the session is doing, for logs and tests.
func (s *Session) State() string { return s.state.String() }

// Answered reports whether the target answered the SYN, and false with known when
// it never will.
func (s *Session) Answered() (yes, known bool) {
	switch {
	case s.opened || s.how == frame.ClosedRefused:
		return true, true
	case s.state == connecting:
		return false, false
	}
	return false, s.how == frame.ClosedTimeout
}

// SetRTT tells the session, after Start, how long a round trip to the target takes
// where that is not nothing. A longer answer comes in rounds of so much and a delayed
// acknowledgement, and a pause between two of them is not its end.
func (s *Session) SetRTT(d time.Duration) { s.gate.slack = 2 * int64(d) }

// Settled returns how many turns left because the target was quiet, before as many
// bytes had come as online.
func (s *Session) Settled() uint64 { return s.settled }

// Data takes client bytes; it borrows d until it returns. A frame without bytes
// is no segment: it only tells what the client has seen.
func (s *Session) Data(d *frame.Data, now int64) {
	s.came.add(len(d.Payload))
	s.oneWay.not = s.oneWay.not || d.Seen > s.lastSeen
	lost := !s.carries() || s.comeback.skipping && !s.resumes(d, now)
	s.oneWay.pass(d, s.came.segments == 1)
	if lost {
		return
	}
	s.note(d)
	s.in = d.Payload
	s.dispatch(evData, now)
	if len(s.in) > 0 && s.carries() {
		if !s.queue.push(&s.shard.pool, s.shard.cfg.SessionBytes, s.in) || s.segs.len() > maxSegments {
			s.in = nil
			s.dispatch(evOverrun, now)
		}
	}
	s.in = nil
}

// carries reports whether client bytes can still reach the target.
func (s *Session) carries() bool {
	switch s.state {
	case connecting, sending, holding, targetClosed:
		return s.end == endNone
	case lastAck, parted:
		return s.end == endNone && s.mayComeBack()
	case ending, discarding, over:
	}
	return false
}

// note enters a frame's turn and segment in the books.
func (s *Session) note(d *frame.Data) {
	s.bound = s.bound || s.received == 0 && d.Seen > s.lastSeen && d.Seen != SeenUnknown // the server speaks first
	first := s.came.segments == 1 && s.received == 0
	paced := s.sniffer.http2 && s.free
	if !paced && d.Seen > s.lastSeen || first && s.turns.len() == 0 {
		t := turn{start: s.received, seen: d.Seen, last: s.frees == GateHTTP2}
		if s.received == 0 && t.seen == SeenUnknown {
			t.seen = s.lastSeen // whatever it was, nothing was asked here before
		}
		s.turns.push(t)
	}
	if paced && len(d.Payload) > 0 {
		s.pace.note(s, d.Seen)
	}
	if d.Seen != SeenUnknown {
		s.lastSeen = max(s.lastSeen, d.Seen)
	}
	s.marked = len(d.Payload) == 0
	if s.marked {
		return
	}
	n := s.turns.len()
	begins := n > 0 && s.turns.at(n-1).start == s.received
	if begins && s.turns.at(n-1).kind == turnMark {
		s.turns.at(n - 1).kind = turnData
	}
	s.learn(d, begins)
	s.received += uint64(len(d.Payload))
	if s.segs.len() >= 64 && s.segs.len()%64 == 0 {
		s.reap()
	}
	s.segs.push(segment{end: s.received, time: d.Time})
	s.unsent++
}

// Fin ends the client's side. seen is what the client had seen by then, or
// SeenUnknown; second: the online server had closed before, so that the target is
// given a while to close before we do.
func (s *Session) Fin(seen uint64, second bool, now int64) {
	s.second = second
	s.ended(endFin, seen, now)
}

// Reset ends the connection as its client did.
func (s *Session) Reset(seen uint64, now int64) { s.ended(endReset, seen, now) }

// Abort ends a flow that the copier gave up: what came is delivered and the
// connection closed in order, but not for long.
func (s *Session) Abort(now int64) {
	if s.conn != nil && s.abortBy == 0 {
		s.abortBy = now + int64(s.shard.cfg.AbortLinger)
	}
	s.ended(endAborted, SeenUnknown, now)
}

// Hurry tells the session that its copier waits for the account and that nothing
// more will come.
func (s *Session) Hurry(now int64) {
	if s.copied != nil {
		s.hurry(now)
		return
	}
	if s.end == endNone {
		s.Abort(now)
		return
	}
	if s.conn != nil && s.abortBy == 0 {
		s.abortBy = now + int64(s.shard.cfg.AbortLinger)
	}
	s.arm(now)
}

func (s *Session) ended(end clientEnd, seen uint64, now int64) {
	kind, e := turnFin, evEnd
	if end == endReset {
		kind, e = turnReset, evReset
	}
	n := s.turns.len()
	switch {
	case s.end == endNone:
		if seen == SeenUnknown && (s.marked || s.received == 0) {
			seen = s.lastSeen
		}
		s.turns.push(turn{start: s.received, seen: seen, kind: kind})
	case n > 0 && s.turns.at(n-1).kind == turnFin:
		s.turns.at(n - 1).kind = kind // a reset overtakes the FIN that waits
	}
	if s.end != endReset {
		s.end = end
	}
	s.dispatch(e, now)
}

// Cut ends the session now.
func (s *Session) Cut(how frame.CloseHow, now int64) {
	if s.copied != nil && !s.copied.begun {
		s.forgo(how)
	}
	if s.conn != nil {
		s.how = how
	}
	s.end = endCut
	s.dispatch(evCut, now)
}

// News looks at what the connection has to tell.
func (s *Session) News(now int64) {
	c := s.conn
	if c == nil {
		return
	}
	st := c.State()
	switch st {
	case ConnConnecting:
		return
	case ConnRefused, ConnTimedOut:
		s.dispatch(evFailed, now)
		return
	case ConnReset:
		s.absorb(now)
		s.dispatch(evFailed, now)
		return
	case ConnEstablished, ConnFinished:
	}
	if s.state == connecting {
		s.opens(now)
		s.dispatch(evConnected, now)
	}
	if s.conn == c && s.absorb(now) {
		s.dispatch(evTargetFin, now)
	}
	if s.conn != c {
		return
	}
	if s.segs.len() > 0 {
		if s.reap() {
			s.progress = now
		}
	}
	if st == ConnFinished {
		s.dispatch(evFinished, now)
	} else if s.waitsForRoom() {
		s.dispatch(evWritable, now)
	}
}

// opens notes that the connection was established. The listener is told of the
// first one.
func (s *Session) opens(now int64) {
	if s.comeback.up {
		return
	}
	s.comeback.up, s.comeback.since, s.progress = true, now, now
	s.shard.listener.Reached(s, true)
	if s.opened {
		s.comeback.count++
	} else {
		s.opened = true
		s.shard.listener.Established(s, now)
	}
	s.comeback.gap.plus(s.comeback.lost)
	s.comeback.lost = tally{}
}

// absorb takes the target's answers and reports whether its FIN was read.
func (s *Session) absorb(now int64) (eof bool) {
	if s.conn == nil {
		return false
	}
	n, eof, err := s.conn.Absorb()
	if n > 0 {
		s.gate.answer(n, now)
		s.progress = now
		s.forgetTurn()
		s.shard.listener.Moved(s, 0, uint64(n))
		s.dispatch(evAnswered, now)
	}
	return eof && err == nil
}

// waitsForRoom reports whether there are bytes, or an end, behind a full send
// buffer.
func (s *Session) waitsForRoom() bool { return s.written < s.received || s.turns.len() > 0 }

// reap takes acknowledged segments out of the books and reports whether there was
// progress.
func (s *Session) reap() bool {
	acked := min(s.comeback.base+s.conn.Acked(), s.written)
	if acked <= s.acked {
		return false
	}
	s.shard.listener.Moved(s, acked-s.acked, 0)
	s.delivered.bytes += acked - s.acked
	s.acked = acked
	for s.segs.len() > 0 && s.segs.at(0).end <= acked {
		s.segs.pop()
		s.delivered.segments++
	}
	return true
}

// dispatch feeds e, and what follows from it, to the state machine.
func (s *Session) dispatch(e event, now int64) {
	for e != evNone {
		if e == evFailed || e == evTargetFin {
			s.loses(now)
		}
		if (e == evFailed || e == evFinished || e == evTick && s.state == lastAck) && s.comesBack() {
			e = evLost
		}
		var a action
		s.state, a = transition(s.state, e)
		e = s.do(a, e, now)
	}
	if s.copied != nil && s.copied.hungry && s.wants() {
		s.copied.hungry = false
		s.shard.ripen(s)
	}
	s.arm(now)
}
