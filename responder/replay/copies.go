package replay

import (
	"time"

	"flowtwin/tunnel/frame"
)

// Copies are further sessions of one flow on a shard, which all get the frames that
// the flow's own session gets, in the same order. A frame is copied once, into a log
// that all read: a session takes the next one when it has written all that it was
// given before, so that a thousand copies hold no more than one that is slow. A
// session may also be late on purpose: each frame comes to it the same time after it
// has come to the log.
//
// The log counts against the shard's memory. When there is no more for it, the
// sessions end that are farthest behind, until there is.
type Copies struct {
	shard   *Shard
	begin   func(s *Session, now int64)
	members []*Session
	log     ring[entry]
	first   uint64 // number of the log's first entry
	held    int    // memory of the log
	ended   bool   // the client's end has come
}

// An entry is a frame of the flow.
type entry struct {
	at      int64 // when it came
	kind    frame.Type
	seen    uint64
	second  bool
	time    int64 // of capture
	payload []byte
	behind  int // sessions that have not been given it
}

// entryBytes is what an entry counts for beside its payload.
const entryBytes = 72

// copied is what a session of [Copies] has more than others.
type copied struct {
	of      *Copies
	index   int    // in members
	next    uint64 // number of the entry that it is given next
	delay   int64
	feedAt  int64 // the next entry's time, 0: it is not waited for
	abortBy int64 // the session must end then, once it has begun
	begun   bool
	hungry  bool // entries wait until the session wants them
	ripe    bool // in the shard's list
	left    bool
}

// NewCopies returns an empty set. begin is called when a session's connection is to
// be dialled: it calls Start or Refuse.
func (sh *Shard) NewCopies(begin func(s *Session, now int64)) *Copies {
	return &Copies{shard: sh, begin: begin}
}

// Add takes s in, before Open. All that comes to it comes so much later.
func (c *Copies) Add(s *Session, delay time.Duration) {
	*s = Session{
		Owner: s.Owner, shard: c.shard, place: notArmed,
		copied: &copied{of: c, index: len(c.members), delay: int64(delay)},
	}
	c.members = append(c.members, s)
}

// Open begins the sessions.
func (c *Copies) Open(now int64) { c.put(entry{at: now, kind: frame.TypeOpen}, now) }

// Data takes client bytes for all sessions that are not over, and returns how many
// these are. It borrows d until it returns.
func (c *Copies) Data(d *frame.Data, now int64) (sessions int) {
	sessions = len(c.members)
	c.put(entry{at: now, kind: frame.TypeData, seen: d.Seen, time: d.Time, payload: d.Payload}, now)
	return sessions
}

// End takes the client's end, a Fin, a Reset or an Abort.
func (c *Copies) End(kind frame.Type, seen uint64, second bool, now int64) {
	c.ended = true
	c.put(entry{at: now, kind: kind, seen: seen, second: second}, now)
}

func (c *Copies) end() uint64 { return c.first + uint64(c.log.len()) }

// put gives e to the sessions that can take it now, and keeps it for the others.
func (c *Copies) put(e entry, now int64) {
	end := c.end()
	for i := len(c.members) - 1; i >= 0; i-- { // one that ends is replaced by the last one
		s := c.members[i]
		k := s.copied
		switch {
		case k.next != end:
		case k.delay > 0:
			k.feedAt = e.at + k.delay
			s.arm(now)
		case k.begun && !s.wants():
			k.hungry = true
		default:
			k.next++
			s.give(&e, now)
			continue
		}
		e.behind++
	}
	if e.behind == 0 {
		c.first++ // nobody is behind: the log is empty
		return
	}
	if len(e.payload) > 0 {
		e.payload = append([]byte(nil), e.payload...)
	}
	c.push(e)
	for c.log.len() > 0 && !c.fits() {
		c.slowest().Cut(frame.ClosedBacklog, now)
	}
}

func (c *Copies) push(e entry) {
	c.log.push(e)
	c.lend(entryBytes + len(e.payload))
}

func (c *Copies) lend(n int) {
	c.held += n
	c.shard.pool.lent += n
}

// fits reports whether the log may be as large as it is.
func (c *Copies) fits() bool {
	p := c.shard.pool
	p.lent -= c.held
	return c.held <= c.shard.cfg.SessionBytes && p.allows(0, c.held)
}

// slowest returns the session that is farthest behind.
func (c *Copies) slowest() *Session {
	last := c.members[0]
	for _, s := range c.members[1:] {
		if s.copied.next < last.copied.next {
			last = s
		}
	}
	return last
}

// trim forgets the entries that no session is behind of.
func (c *Copies) trim() {
	for c.log.len() > 0 && c.log.at(0).behind == 0 {
		c.lend(-entryBytes - len(c.log.at(0).payload))
		c.log.at(0).payload = nil
		c.log.pop()
		c.first++
	}
}

// Feed gives the sessions what they have come to want, or what is due, since the
// last call.
func (sh *Shard) Feed(now int64) {
	for len(sh.ripe) > 0 {
		n := len(sh.ripe) - 1
		s := sh.ripe[n]
		sh.ripe[n] = nil
		sh.ripe = sh.ripe[:n]
		s.copied.ripe = false
		s.feed(now)
	}
}

// ripen has Feed look at s.
func (sh *Shard) ripen(s *Session) {
	if !s.copied.ripe {
		s.copied.ripe = true
		sh.ripe = append(sh.ripe, s)
	}
}

// feed gives s the entries that it wants and whose time has come.
func (s *Session) feed(now int64) {
	k := s.copied
	c := k.of
	for !k.left && k.next < c.end() {
		e := c.log.at(int(k.next - c.first))
		switch {
		case e.at+k.delay > now:
			k.feedAt = e.at + k.delay
			s.arm(now)
			return
		case k.begun && !s.wants():
			k.hungry = true
			return
		}
		k.next++
		s.give(e, now)
		e.behind--
		c.trim()
	}
}

// give hands e to s.
func (s *Session) give(e *entry, now int64) {
	switch e.kind {
	case frame.TypeOpen:
		s.shard.timers.remove(s)
		s.copied.begun = true
		s.copied.of.begin(s, now)
		s.hurried(now)
	case frame.TypeData:
		s.Data(&frame.Data{Seen: e.seen, Time: e.time, Payload: e.payload}, now)
	case frame.TypeFin:
		s.Fin(e.seen, e.second, now)
	case frame.TypeReset:
		s.Reset(e.seen, now)
	case frame.TypeAbort:
		s.Abort(now)
	default: // the log has no others
	}
}

// wants reports whether a copy's next frame may come: all before it is written, or
// nothing can be written any more.
func (s *Session) wants() bool {
	if s.state == connecting {
		return false
	}
	return !s.carries() || s.written == s.received && s.turns.len() == 0
}

// leave takes s out of its copies. What it has not been given is dropped.
func (s *Session) leave() {
	k := s.copied
	c := k.of
	for n := k.next; n < c.end(); n++ {
		e := c.log.at(int(n - c.first))
		e.behind--
		s.came.add(len(e.payload))
	}
	last := len(c.members) - 1
	c.members[k.index] = c.members[last]
	c.members[k.index].copied.index = k.index
	c.members[last] = nil
	c.members = c.members[:last]
	k.left, k.hungry, k.feedAt = true, false, 0
	c.trim()
}

// forgo ends the wait of a copy that has not begun, for an end of that kind.
func (s *Session) forgo(how frame.CloseHow) {
	s.shard.timers.remove(s)
	s.copied.begun = true
	s.shard.Refuse(s, how)
}

// hurry is Hurry for a copy: it is late no longer, and if its client has not ended,
// it ends behind all that came.
func (s *Session) hurry(now int64) {
	k := s.copied
	c := k.of
	if !c.ended {
		c.ended = true
		c.push(entry{at: now, kind: frame.TypeAbort, behind: len(c.members)})
	}
	k.delay = 0
	if k.abortBy == 0 {
		k.abortBy = now + int64(s.shard.cfg.AbortLinger)
	}
	s.hurried(now)
	s.shard.ripen(s)
}

// hurried sets the time by which a copy must end, once it has begun.
func (s *Session) hurried(now int64) {
	if k := s.copied; k.begun && k.abortBy != 0 && s.abortBy == 0 && s.conn != nil {
		s.abortBy = k.abortBy
		s.arm(now)
	}
}
