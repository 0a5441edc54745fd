package copier

import (
	"flowtwin/copier/report"
	"flowtwin/internal/flow"
	"flowtwin/internal/http1"
	"flowtwin/tunnel/frame"
)

// seenUnknown tells the gate that a turn begins and not what was seen.
const seenUnknown = ^uint64(0)

// hold keeps b, the beginning of a head or more of it.
func (f *sieve) hold(c *cut, b []byte) bool {
	id, ok := f.heads.hold(c.hold, b)
	if ok {
		c.hold = id
		f.held.Bytes += uint64(len(b))
	}
	return ok
}

// overrun ends a head that there is no room for, and returns rest.
func (s *shard) overrun(c *cut, rest int) int {
	s.unhold(c, report.HTTPHeads)
	c.cursor, c.lost = http1.Cursor{}, true
	return rest
}

// head decides about the request with head b. own says that its bytes have to be
// copied, since they are lent for this call only.
func (s *shard) head(c *cut, b []byte, own bool) {
	f := s.sieve
	c.any = true
	c.keep = f.rules.Selects(&f.req)
	c.seen.begin(c.keep, f.req.Expects)
	if !c.keep {
		s.book.HTTP.LeftOut++
		s.leaveOut(len(b))
		return
	}
	s.book.HTTP.Selected++
	f.enter()
	if !f.rules.Rewrites() {
		f.put(b, own)
		return
	}
	f.gather()
	before := len(f.out)
	f.out = f.rules.Append(f.out, &f.req)
	if d := len(f.out) - before - len(b); d > 0 {
		s.book.Client.Rewritten.Added.Bytes += uint64(d)
	} else {
		s.book.Client.Rewritten.Removed.Bytes += uint64(-d)
	}
}

// part deals with bytes of the request at hand.
func (s *shard) part(c *cut, b []byte, own bool) {
	if c.keep {
		s.sieve.put(b, own)
	} else {
		s.leaveOut(len(b))
	}
}

func (s *shard) leaveOut(n int) {
	s.book.Client.Dropped[report.HTTPUnselected].Bytes += uint64(n)
	s.sieve.drop = report.HTTPUnselected
}

// deviates decides about what is no HTTP/1, from the next bytes on. It reports true
// when the flow goes on as if nothing were selected.
func (s *shard) deviates(r *record, c *cut, boundary bool) bool {
	f := s.sieve
	if c.bad {
		return false
	}
	c.bad = true
	s.book.HTTP.Unparsed++
	if !boundary {
		c.keep = c.keep && f.pass // the rest of a request shares its fate
		return false
	}
	c.keep = f.pass
	if c.keep && !c.any && c.hold == 0 && r.born {
		r.drop = report.TunnelDown
		if s.up {
			r.drop = report.Overload
		}
		s.unscreen(r, report.None)
		return true
	}
	f.enter()
	return false
}

// enter notes that a session can begin here.
func (f *sieve) enter() {
	if f.entry < 0 {
		f.entry = len(f.out) + len(f.run)
	}
}

// put adds bytes to what remains of the segment.
func (f *sieve) put(b []byte, own bool) {
	switch n := len(f.run); {
	case len(b) == 0:
	case own:
		f.gather()
		f.out = append(f.out, b...)
	case n > 0 && cap(f.run) > n && &f.run[:n+1][n] == &b[0]:
		f.run = f.run[:n+len(b)]
	default:
		f.gather()
		f.run = b
	}
}

// gather copies run behind out.
func (f *sieve) gather() {
	f.out = append(f.out, f.run...)
	f.run = nil
}

// bytes returns what remains of the segment.
func (f *sieve) bytes() []byte {
	if len(f.out) == 0 {
		return f.run
	}
	f.gather()
	return f.out
}

// emit sends what remains of a segment. It reports false when the flow was given up,
// or may be elsewhere.
func (s *shard) emit(slot uint32, r *record, c *cut) bool {
	f := s.sieve
	b, first := f.bytes(), f.entry
	if r.state == stateWaiting && len(b) > 0 {
		if first < 0 {
			first = len(b)
		}
		s.miss(r.drop, b[:first])
		if b = b[first:]; len(b) > 0 && !s.enterSession(slot, r, c) {
			s.miss(r.drop, b)
			b = nil
		}
		first = 0
	}
	frames, why := s.frames(slot, r, c, b, first == 0)
	s.settleUnits(c, frames)
	if why != report.None {
		s.giveUp(slot, r, why)
		return false
	}
	return true
}

// miss drops what was selected.
func (s *shard) miss(why report.Reason, b []byte) {
	if len(b) > 0 {
		s.book.Client.Dropped[why].Bytes += uint64(len(b))
		s.sieve.drop = why
	}
}

// frames sends b, which begins with a request if whole says so, and returns in how
// many frames, and why not all of it.
func (s *shard) frames(slot uint32, r *record, c *cut, b []byte, whole bool) (n uint64, why report.Reason) {
	f := s.sieve
	for len(b) > 0 {
		part := b[:min(len(b), frame.MaxPayload)]
		seen := r.since(c.seen.mark)
		if whole && n == 0 && c.seen.turn() {
			if !c.seen.counts {
				seen = seenUnknown
			}
			c.seen.turns(s.answeredBy(r))
		}
		if !s.lane.Data(slot, seen, c.time, part) {
			why = report.Overload
			if !s.lane.Up() {
				why = report.TunnelLost
			}
			s.miss(why, b)
			return n, why
		}
		c.seen.counts = false
		n++
		r.sent.Add(len(part))
		s.book.Client.Sent.Add(len(part))
		s.book.Sent.InFlight.Add(len(part))
		b = b[len(part):]
	}
	c.seen.asked = c.seen.asked || f.done && n > 0
	return n, report.None
}

// settleUnits says what became of the segments at hand.
func (s *shard) settleUnits(c *cut, frames uint64) {
	f, w := s.sieve, &s.book.Client.Rewritten
	switch {
	case frames > f.units:
		w.Added.Segments += frames - f.units
	case frames > 0:
		w.Removed.Segments += f.units - frames
	case f.drop != report.None:
		s.book.Client.Dropped[f.drop].Segments += f.units
	default:
		c.segs += uint32(f.units)
		f.held.Segments += f.units
	}
	f.units = 0
}

// enterSession opens the session of a flow that waits, of which a request is
// selected. It reports false when that cannot be now.
func (s *shard) enterSession(slot uint32, r *record, c *cut) bool {
	iss := r.iss
	if !r.late {
		iss = r.asm.Next().Add(-1) // not what its last session had
	}
	s.tuple = s.table.Tuple(slot) // the sweep comes without a packet
	s.opening = frame.Open{
		Key: flow.Key{Tuple: s.tuple, ISS: iss}, Map: r.mapped, Time: c.time, MSS: r.mss, RTT: r.rtt,
	}
	s.amplify()
	switch {
	case s.phase != phaseRunning:
		r.drop = report.Draining
		return false
	case s.orders.paused:
		r.drop = report.Paused
		return false
	case !s.up:
		r.drop = report.TunnelDown
		return false
	case s.lane.Room() < s.lane.Size()/2 || !s.lane.Open(slot, &s.opening):
		r.drop = report.Overload
		return false
	}
	s.book.Copies.Ask(s.opening.Copies)
	s.remove(&s.waiting, slot)
	if r.late {
		r.late = false
		s.book.OpenSelected(!r.born)
	} else {
		s.book.Resume(r.drop)
	}
	r.state, r.drop = stateCopying, report.None
	r.from = c.time
	if c.any {
		r.less = int64(c.seen.mark)
	}
	c.seen.turns(s.answeredBy(r)) // what the last session was asked this one was not
	return true
}

// cease ends a flow that cannot be cut any further.
func (s *shard) cease(slot uint32, r *record, why report.Reason) {
	if r.state == stateWaiting {
		r.drop = why
	}
	s.forsake(slot, r, why)
}

// finish deals with a head that its client did not complete before its FIN.
func (s *shard) finish(slot uint32, r *record) {
	if r.cut == 0 {
		return
	}
	f, c := s.sieve, s.sieve.of(r)
	r.less += c.seen.hear(c, r.seen)
	if c.hold == 0 {
		return
	}
	// Empty lines behind a request belong to it.
	b := f.heads.held(c.hold)
	if blank := http1.Blank(b); !blank && !f.pass || blank && !c.keep {
		s.unhold(c, report.HTTPUnparsed)
		return
	}
	f.take(c.next)
	f.units = uint64(c.segs)
	f.put(b, true)
	f.release(c)
	s.emit(slot, r, c)
}

// vague reports whether answers to requests that were left out cannot be told from
// others.
func (s *shard) vague(r *record) bool {
	return r.blurred || r.cut != 0 && s.sieve.of(r).seen.vague
}

// finSeen returns what the gate is told with the client's end.
func (s *shard) finSeen(r *record) uint64 {
	if r.cut == 0 {
		return r.since(r.seen)
	}
	a := &s.sieve.of(r).seen
	if a.turn() && !a.counts {
		return seenUnknown
	}
	return r.since(a.mark)
}
