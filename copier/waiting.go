package copier

import (
	"flowtwin/copier/report"
	"flowtwin/internal/flow"
	"flowtwin/internal/packet"
	"flowtwin/tunnel/frame"
)

// A flow waits when it has no session and can get one later: it began while there
// was no tunnel or no room, or lost its session by a hole in the capture or with the
// tunnel. Its client's bytes are put in order as always, and dropped, until a segment
// begins with which a session can begin: a request of HTTP/1, of other protocols
// the first bytes after an answer. What the client set up at its beginning is said
// before that, from its prologue.

// park makes a flow wait whose handshake is done and which cannot have a session.
func (s *shard) park(slot uint32, r *record, why report.Reason) {
	s.remove(&s.pending, slot)
	s.book.Park()
	r.late = true
	s.wait(slot, r, why)
}

// wait makes the flow in slot, which has no session, wait for one.
func (s *shard) wait(slot uint32, r *record, why report.Reason) {
	r.state = stateWaiting
	r.drop = why
	s.push(&s.waiting, slot)
}

// suspend makes an open flow that is given up wait instead, when that makes sense,
// and returns where it goes on: its slot is the number of its session, which has to
// be ended.
func (s *shard) suspend(slot uint32, r *record, why report.Reason) (uint32, *record, bool) {
	if !s.goesOnLater(r, why) || s.table.Len() == s.table.Max() {
		return slot, r, false
	}
	s.shorten(r, s.repeats(r))
	s.other = s.table.Tuple(slot)
	s.table.Unlink(slot)
	to, ok := s.table.Insert(&s.other)
	if !ok {
		panic("copier: no slot in a table with room")
	}
	s.used = max(s.used, int(to)+1)
	n := s.table.At(to)
	*n = *r
	n.asm.Rename(s.store, to)
	n.claim.asm.Rename(s.store, to)
	n.sent, n.owed = report.Count{}, 0
	s.book.Suspend(why)
	s.wait(to, n, why)

	r.asm, r.pro, r.claim, r.cut = flow.Assembler{}, prologue{}, claim{}, 0
	r.drop = why
	s.await(slot, r)
	s.control(slot, r, frame.TypeAbort)
	return to, n, true
}

// suspendHere is suspend for a flow whose session is gone: its number is free.
func (s *shard) suspendHere(slot uint32, r *record, why report.Reason) bool {
	if !s.goesOnLater(r, why) {
		return false
	}
	s.shorten(r, s.repeats(r))
	s.book.Suspend(why)
	r.sent = report.Count{}
	s.wait(slot, r, why)
	return true
}

// goesOnLater reports whether a flow that is given up may go on with another session.
// Bytes that were not captured may have changed what a connection is, where the
// protocol is not known; where nothing is known the next bytes tell. What was
// captured and not copied may too, but then all that the target has is lost, and a
// session that does not quite fit is better than none.
func (s *shard) goesOnLater(r *record, why report.Reason) bool {
	if s.phase != phaseRunning || r.state != stateCopying || r.ending != report.Alive {
		return false
	}
	switch why {
	case report.CaptureHole, report.Truncated, report.ReorderFull:
		return r.proto == protoHTTP1 || r.proto == protoRedis || r.proto == protoNew
	case report.TunnelLost, report.Overload, report.SessionOver, report.Paused:
	default:
		return false
	}
	all := r.pro.open && s.repeats(r) == int(r.pro.size)
	switch r.proto {
	case protoHTTP1, protoRedis:
		return true
	case protoSealed:
		return false
	case protoHTTP2:
		return all
	default:
		return all || !s.skip
	}
}

// skips goes on at next, without what is before it. That may have been the beginning
// of a turn that goes on there: only where a beginning can be told by its content it
// may be the next thing. What is missing acknowledged some of the answers, too: all
// that were captured, to be sure.
func (r *record) skips(next packet.Seq) {
	r.asm.Advance(next)
	r.pro.open = false
	switch r.proto {
	case protoHTTP1:
	case protoNew:
		r.born = false
	case protoRedis:
		r.told = r.seen
	default:
		r.told = max(r.seen, r.answered)
	}
}

// entrance is where in its client's stream a session may begin.
type entrance uint8

const (
	closed entrance = iota
	whole           // all before it can be said again
	turn            // the client has read an answer to what was before it
)

// enters says whether a session may begin with payload, which is in order.
func (s *shard) enters(r *record, seen uint64, payload []byte) entrance {
	begun := seen > r.told
	at := r.asm.Next().Add(-len(payload))
	switch {
	case r.proto == protoOther && r.drop == report.CaptureHole:
	case r.pro.open && (r.pro.size > 0 || at == r.iss.Add(1)):
		return whole
	case !begun || !r.proto.begins(payload):
	case r.proto == protoHTTP1:
		return turn
	case seen < r.answered || seen > r.answered+windowSlack || r.got != at || !s.exact || s.skip && r.proto == protoOther:
		// Not all of the answer was read, something else is on its way, or it may be a
		// part of something.
	default:
		return turn
	}
	return closed
}

// resume opens a session for a flow that waits, when it can begin with payload, and
// reports whether it has.
func (s *shard) resume(slot uint32, r *record, seen uint64, time int64, payload []byte) bool {
	from := s.enters(r, seen, payload)
	if from == closed || s.phase != phaseRunning || !s.up || s.orders.paused || s.lane.Room() < s.lane.Size()/2 {
		return false
	}
	said, n := seen, r.pro.size // what the client had seen of the answers to its prologue
	if from == turn {
		said, n = r.pro.seen, r.pro.whole
	}
	if n == 0 {
		said = s.greeting(r)
	}
	s.tuple = s.table.Tuple(slot) // the sweep comes without a packet
	s.opening = frame.Open{
		Key: flow.Key{Tuple: s.tuple, ISS: r.iss}, Map: r.mapped, Time: time, MSS: r.mss, RTT: r.rtt,
	}
	if n == 0 {
		s.opening.Key.ISS = r.asm.Next().Add(-len(payload) - 1)
	}
	s.amplify()
	if !s.lane.Open(slot, &s.opening) {
		return false
	}
	s.book.Copies.Ask(s.opening.Copies)
	s.remove(&s.waiting, slot)
	if r.late {
		r.late = false
		s.book.OpenLate()
	} else {
		s.book.Resume(r.drop)
	}
	r.state, r.drop = stateCopying, report.None
	r.from = time
	r.less = int64(seen - said)
	r.within = from == turn
	s.prologue(slot, r, int(n), time)
	return true
}

// prologue sends the first n bytes of the flow's. The lane has room, or is down: then
// the session is gone in a moment.
func (s *shard) prologue(slot uint32, r *record, n int, time int64) {
	for id := r.pro.first; n > 0; id = s.prologues.at(id).next {
		c := s.prologues.at(id)
		b := c.data[:min(int(c.n), n)]
		n -= len(b)
		if !s.lane.Data(slot, c.seen, time, b) {
			return
		}
		r.sent.Add(len(b))
		s.book.Client.Prologue.Add(len(b))
		s.book.Sent.InFlight.Add(len(b))
	}
}

// greeting returns how many bytes servers of the flow's map say before their client
// does: the first thing that a session sends waits for them.
func (s *shard) greeting(r *record) uint64 { return uint64(s.greetings[r.mapped]) }

// meets learns from the first bytes of a client: what it speaks, and whether its
// server greets.
func (s *shard) meets(r *record, seen uint64, payload []byte) {
	r.proto = recognise(payload)
	if r.proto == protoOther {
		s.looks(r, payload)
	}
	switch {
	case r.born:
		s.greetings[r.mapped] = uint32(min(seen, maxGreeting))
	case r.proto != protoHTTP1:
		r.told = seen // what was missed may have begun the turn
	}
}

// maxGreeting is more than any greeting has.
const maxGreeting = 1 << 16

// leave forgets a flow that waits and is over online, or has to make way.
func (s *shard) leave(slot uint32, r *record) {
	s.discard(r, r.drop)
	s.unscreen(r, r.drop)
	s.remove(&s.waiting, slot)
	if r.late {
		s.book.Flows.Waiting--
		s.book.Flows.Refused[r.drop]++
	} else {
		s.book.Flows.Suspended--
	}
	s.free(slot, r)
}
