package replay

import (
	"bytes"
	"time"

	"flowtwin/tunnel/frame"
)

// A target may close connections that its clients go on with: its limits are
// lower than online, or it is started anew. Then the rest of the flow goes to
// another connection, which begins with a turn: half a request is none.
//
// A turn that was written just before the connection ended, and of whose answer not
// one byte has come, is written again, once: most likely the target closed while it
// was on its way. To that end its bytes are kept until the answer begins. One that
// the target has had for longer it was most likely at work on, and it would be done
// twice. What else was under way is lost, and so is what the client sends until its
// next turn.
//
// A client that nobody answers, neither here nor online, never begins a turn: logs,
// metrics. What it sends begins anew behind the end of a line, or behind a pause.
const (
	// keepBytes is how much of a turn is kept; longer ones are not written again.
	keepBytes = 64 << 10
	// keepFor is for how long: then the target is at work on it.
	keepFor = int64(time.Second)
	// keepShare is the part of the shard's memory that must be free for it.
	keepShare = 2
	// A target that has not answered on a connection, and not kept it for long, is
	// left alone for a while, which doubles each time. One that did not even accept it
	// is tried again when it has accepted another one.
	minPause = 100 * time.Millisecond
	maxPause = 30 * time.Second
	// oneWayPause is how long a client that nobody answers is quiet before something
	// new; no network pauses for so long in the middle of it.
	oneWayPause = int64(time.Second)
)

// A tally is a number of bytes, and of the segments that they came in.
type tally struct{ bytes, segments uint64 }

// add counts one segment of n bytes; without bytes it is none.
func (t *tally) add(n int) {
	if n > 0 {
		t.bytes += uint64(n)
		t.segments++
	}
}

func (t *tally) plus(o tally) {
	t.bytes += o.bytes
	t.segments += o.segments
}

// A comeback is what a session needs to go on with another connection.
type comeback struct {
	up    bool   // this connection was established
	since int64  // when that was known
	base  uint64 // stream offset that it began at
	heard uint64 // answer bytes by then

	whole bool   // kept is all that is written of the turn under way
	start uint64 // stream offset of that turn
	begun int64  // when it was written
	kept  queue
	again bool // kept is in the queue once more, and not written yet

	skipping  bool   // what comes is lost, until a turn begins
	fails     int    // connections without an answer, one after the other
	notBefore int64  // no connection until then
	shut      bool   // the last one was not accepted
	accepted  uint64 // by the target, of anybody, when that was known

	count  uint64 // connections established after the first
	resent uint64 // turns written again
	lost   tally  // since the last connection that was established
	gap    tally  // lost, and another connection followed
}

// mayComeBack reports whether there may be another connection.
func (s *Session) mayComeBack() bool {
	return s.shard.cfg.Reconnect && !s.bound && s.end <= endReset
}

// comesBack reports whether there is something for another connection: the client
// goes on, or has left a turn behind.
func (s *Session) comesBack() bool {
	return s.mayComeBack() && (s.end == endNone || s.turns.len() > 0 && (s.comeback.whole || s.waits()))
}

// misses reports whether the end that waits has to wait on, for another connection:
// the turn before it, which is kept, was answered online.
func (s *Session) misses(end *turn) bool {
	return s.comeback.whole && s.mayComeBack() && end.seen > s.lastSeen
}

// waits reports whether a turn with bytes waits.
func (s *Session) waits() bool {
	for i := range s.turns.len() {
		if s.turns.at(i).kind == turnData {
			return true
		}
	}
	return false
}

// keepTurn begins to keep the turn that is about to be written.
func (s *Session) keepTurn(now int64) {
	s.forgetTurn()
	c := &s.comeback
	c.whole, c.start, c.begun = s.mayComeBack(), s.written, now
}

// keep keeps b, which was just written, or counts that it was before.
func (s *Session) keep(b []byte, now int64) {
	if c := &s.comeback; c.again {
		c.again = false
		c.resent++
	}
	p := &s.shard.pool
	if s.comeback.whole && (s.keptLong(now) || p.lent > p.budget/keepShare || !s.comeback.kept.push(p, keepBytes, b)) {
		s.forgetTurn()
	}
}

// forgetTurn lets go of what is kept: it will not be written again.
func (s *Session) forgetTurn() {
	if s.comeback.whole {
		s.comeback.whole = false
		s.comeback.kept.free(&s.shard.pool)
	}
}

func (s *Session) keptLong(now int64) bool { return now-s.comeback.begun > keepFor+s.gate.slack }

// loses looks, as the connection comes to its end, whether the target has had the
// turn that is kept for long.
func (s *Session) loses(now int64) {
	if (s.state == sending || s.state == holding) && s.keptLong(now) {
		s.forgetTurn()
	}
}

// part lets go of the connection, and sees what is left for another one.
func (s *Session) part(now int64) event {
	c := &s.comeback
	stuck := s.conn != nil && s.conn.State() == ConnEstablished // no news of our FIN
	if stuck {
		s.how = frame.ClosedTimeout
	} else if s.conn == nil || s.conn.State() != ConnFinished {
		s.how = s.failed()
	}
	s.lookBack(now)
	if s.conn != nil {
		if stuck {
			s.conn.Abort()
		}
		s.conn.Release()
		s.conn = nil
	}
	s.shard.listener.Parted(s, s.how)
	c.shut, c.accepted = !c.up && s.how != frame.ClosedNoTuple, s.shard.listener.Accepted(s)
	c.fails++
	if s.gate.absorbed > c.heard || c.up && now-c.since >= int64(maxPause) {
		c.fails = 0
	}
	c.notBefore = now + pause(c.fails)
	c.again = c.whole && c.kept.head != nil
	if c.whole {
		c.whole = false
		s.queue.prepend(&c.kept)
		s.written = c.start
		s.skip(c.start) // what max-hold let out before it and nobody has acknowledged
		return evTurnDue
	}
	s.skip(s.released())
	if c.fails == 0 && s.waits() {
		return evTurnDue
	}
	s.skip(s.received)
	s.turns = ring[turn]{}
	c.skipping = true
	if s.end != endNone {
		return evEnd
	}
	return evNone
}

// pause returns how long the target is left alone after so many fails.
func pause(fails int) int64 {
	if fails == 0 {
		return 0
	}
	return int64(min(minPause<<min(fails-1, 10), maxPause))
}

// isBack reports whether a target that did not accept the last connection has
// accepted another one since. One that accepts and does not answer is not back.
func (s *Session) isBack() bool {
	c := &s.comeback
	return c.shut && s.shard.listener.Accepted(s) != c.accepted
}

// redial makes another connection, for the turn that is next.
func (s *Session) redial() event {
	c := &s.comeback
	c.base, c.heard, c.up, s.again = s.written, s.gate.absorbed, false, 0
	seen := s.gate.seen
	for i := 0; i < s.turns.len() && s.turns.at(i).start == s.written; i++ {
		t := s.turns.at(i)
		if t.seen == SeenUnknown { // whatever it was, nothing is to be answered here
			t.seen = seen
		}
		seen = max(seen, t.seen)
	}
	s.gate.restart(seen)
	s.gate.zero = seen - s.gate.absorbed
	if s.conn = s.shard.listener.Redial(s); s.conn == nil {
		return evFailed
	}
	return evNone
}

// resumes reports whether d, which comes while the session skips, is the beginning
// of a turn that may go to another connection. If not, it is lost.
func (s *Session) resumes(d *frame.Data, now int64) bool {
	c := &s.comeback
	grew := d.Seen > s.lastSeen
	begins := grew || s.marked || s.came.segments == 1 || s.oneWay.begins(d) && s.gate.absorbed == 0
	s.marked = begins && len(d.Payload) == 0
	if begins && !s.marked && (now >= c.notBefore || s.isBack()) {
		if c.skipping = false; !grew { // else it is noted as one
			s.turns.push(turn{start: s.received, seen: d.Seen})
		}
		return true
	}
	if d.Seen != SeenUnknown {
		s.lastSeen = max(s.lastSeen, d.Seen)
	}
	c.lost.add(len(d.Payload))
	return false
}

// A oneWay is a client that nobody answers, as far as is known.
type oneWay struct {
	not  bool  // it has seen answers, or asked for one
	line bool  // what came last ended a line
	last int64 // when that was captured
}

// begins reports whether d, with bytes, most likely begins something.
func (o *oneWay) begins(d *frame.Data) bool {
	return !o.not && len(d.Payload) > 0 && (o.line || d.Time-o.last >= oneWayPause)
}

// pass takes note of d. first says that nothing came before it.
func (o *oneWay) pass(d *frame.Data, first bool) {
	if n := len(d.Payload); n > 0 && !o.not {
		o.line, o.last = d.Payload[n-1] == '\n', d.Time
		o.not = first && asks(d.Payload)
	}
}

// asks reports whether p is the beginning of an HTTP/1 request, whose body may be
// many lines.
func asks(p []byte) bool {
	line, _, whole := bytes.Cut(p, []byte{'\n'})
	return isRequest(p) && (!whole || bytes.Contains(line, []byte(" HTTP/1.")))
}

// discard throws away what is not written before the offset at.
func (s *Session) discard(at uint64) {
	for s.written < at {
		left := at - s.written
		if b := s.queue.front(); b != nil {
			n := min(uint64(len(b)), left)
			s.queue.pop(&s.shard.pool, int(n))
			s.written += n
			continue
		}
		s.in = s.in[left:]
		s.written = at
	}
}

// skip gives up what is not delivered before the offset at.
func (s *Session) skip(at uint64) {
	s.discard(at)
	if at > s.acked {
		s.comeback.lost.bytes += at - s.acked
		s.acked = at
	}
	for s.segs.len() > 0 && s.segs.at(0).end <= at {
		s.segs.pop()
		s.comeback.lost.segments++
	}
	s.unsent = min(s.unsent, s.segs.len())
}
