package replay

import "time"

// The gate holds a client's turn back until the target has answered the turn
// before it, as the online server had when the client sent it.
//
// What the client had seen of the online answers is known for every segment, so
// the usual case needs no waiting: the target's answers are as long as the online
// server's, and the turn leaves when as many bytes have been absorbed. For
// answers of another length there are two ways out: the target has answered
// something since the last turn was written and has been quiet for the settle
// time, or max-hold has passed.
//
// The settle time is short on purpose. It is paid for every turn whose answer is
// shorter than online, and a connection carries at most 1/settle such turns a
// second; a pause inside an answer that is longer than it only makes the next
// request arrive pipelined, which every server copes with.
const (
	DefaultSettle  = 5 * time.Millisecond
	DefaultMaxHold = time.Second
)

// SeenUnknown says that it is not known what the client had seen.
const SeenUnknown = ^uint64(0)

// verdict is the gate's answer.
type verdict uint8

const (
	wait     verdict = iota
	answered         // as many bytes as online
	settled          // other than online, and quiet
	overdue          // max-hold has passed
)

// A gate keeps the turns of one session in step. Seen values are the online
// server's bytes, absorbed ones the target's: mark is where the two meet.
//
// A turn that leaves before its answer is complete leaves a debt, the bytes by
// which mark is ahead of absorbed: the target may only have paused, and what is
// late must not be taken for the answer of the next turn. Bytes that come pay the
// debt first. Answers that really are shorter show in one of three ways, and then
// no debts are made until an answer is as long as online: the target was quiet
// twice with the debt open; the debt was passed by bytes that lay together, where
// one answer's end and the next one's beginning would be apart; or it was met
// exactly by chance, and max-hold passed.
type gate struct {
	off        bool
	owed       bool  // mark was ahead of absorbed when the last turn left
	differs    bool  // answers are known to be shorter than online
	misses     uint8 // times that the target was quiet with the debt open
	surplus    surplus
	zero       uint64 // seen with absorbed 0, if this connection's answers are as long as online
	seen       uint64 // of the turn released last
	mark       uint64 // absorbed bytes that correspond to seen
	absorbed   uint64 // all answer bytes so far
	asked      uint64 // absorbed when everything released was written
	lastAnswer int64  // when absorbed last grew
	since      int64  // when the wait that is under way began
	slack      int64  // what all waits are longer by, see Session.SetRTT
}

// surplus is what is thought of bytes that the target sent beyond what a turn
// needed, before anything came for the turn that was written last: the rest of an
// answer that is longer than online, or the answer to come. It is the first, until
// a wait for more was in vain.
type surplus uint8

const (
	surplusNone   surplus = iota
	surplusLonger         // taken for the rest of a longer answer
	surplusAhead          // the target really is ahead: it pushes, or answers early
)

// forgive is how often the target is quiet with a debt open until it is forgiven.
const forgive = 2

// answer notes n absorbed bytes.
func (g *gate) answer(n int, now int64) {
	before := g.absorbed
	g.absorbed += uint64(n)
	g.lastAnswer = now
	if g.owed && before < g.mark && g.absorbed > g.mark {
		g.differs = true
	}
}

// need returns how many absorbed bytes answer a turn whose client had seen so
// many, and false when that is not known.
func (g *gate) need(seen uint64) (bytes uint64, known bool) {
	if seen == SeenUnknown {
		return 0, false
	}
	if seen <= g.seen { // others have left that waited for as much
		return min(g.mark, g.absorbed), true
	}
	return g.mark + (seen - g.seen), true
}

// begun reports whether the target has begun to answer what was released: bytes
// came, and not only those that were late.
func (g *gate) begun() bool {
	return g.absorbed > g.asked && (!g.owed || g.absorbed != g.mark)
}

// ask says whether what the client did after it had seen so much may leave now.
func (g *gate) ask(seen uint64, now int64, c *Config) verdict {
	need, known := g.need(seen)
	if known && seen > g.seen && g.absorbed > need && g.absorbed == g.asked && g.asked > 0 && g.surplus != surplusAhead {
		g.settle(g.absorbed)
		g.surplus = surplusLonger
		need, _ = g.need(seen)
	}
	switch {
	case g.off, known && g.absorbed >= need:
		if g.surplus == surplusLonger {
			g.surplus = surplusNone
		}
		return answered
	case g.begun() && now-g.lastAnswer >= int64(c.Settle)+g.slack:
		return settled
	case g.since != 0 && now-g.since >= int64(c.MaxHold)+g.slack:
		if g.surplus == surplusLonger && g.absorbed == g.asked {
			g.surplus = surplusAhead
		}
		return overdue
	}
	return wait
}

// wake returns when ask may answer otherwise without an answer of the target.
func (g *gate) wake(c *Config) int64 {
	at := g.since + int64(c.MaxHold) + g.slack
	if g.begun() {
		at = min(at, g.lastAnswer+int64(c.Settle)+g.slack)
	}
	return at
}

// pass moves the gate on to the turn that was released. Where the answers differ
// in length from the online ones, mark is set anew whenever the target is known
// to be done, so that differences do not add up over the turns.
func (g *gate) pass(seen uint64, v verdict, now int64, c *Config) {
	g.since = 0
	need, known := g.need(seen)
	switch {
	case g.off || !known:
		g.settle(g.absorbed)
	case seen <= g.seen && g.mark > g.absorbed:
		return // the debt is that of the turns before it
	case v == answered && now-g.lastAnswer < int64(c.Settle)+g.slack:
		g.differs = g.differs && seen <= g.seen
		g.settle(min(need, g.absorbed))
	case v == answered:
		g.differs = g.differs && seen <= g.seen
		g.settle(g.absorbed)
	default:
		g.owe(need)
	}
	if known {
		g.seen = max(g.seen, seen)
	}
}

// done reports whether there are as many answers as online to turns that left before
// them, since the target is slow, or no more of them come.
func (g *gate) done(seen uint64, now int64, c *Config) bool {
	return g.absorbed >= seen-g.zero || g.since != 0 && now >= g.doneBy(c)
}

// doneBy returns when done may answer otherwise without an answer of the target.
func (g *gate) doneBy(c *Config) int64 {
	return max(g.since, g.lastAnswer) + int64(c.MaxHold) + g.slack
}

// restart begins anew on another connection, with a turn whose client had seen so
// much.
func (g *gate) restart(seen uint64) {
	g.settle(g.absorbed)
	g.asked, g.since, g.surplus = g.absorbed, 0, surplusNone
	if seen != SeenUnknown {
		g.seen = max(g.seen, seen)
	}
}

// overdue reports whether the wait that is under way has lasted for max-hold.
func (s *Session) overdue(now int64) bool {
	return s.gate.since != 0 && now-s.gate.since >= int64(s.shard.cfg.MaxHold)+s.gate.slack
}

// extend begins the wait anew, when max-hold has passed, where what was written is still
// on its way: the target has acknowledged some of it meanwhile, and not all, or the rest
// of it only now. It cannot answer what it has not got, and may take an end for a client
// that gave up. The gate must not hear of max-hold then: it learns from it.
func (s *Session) extend(now int64) {
	if !s.overdue(now) {
		return
	}
	s.reap()
	more := s.acked < s.written
	if s.acked == s.arrived || !more && !s.trickles {
		return
	}
	s.gate.since, s.arrived, s.trickles = now, s.acked, more
}

// An unheard is what is known of a session whose gate is off only because the target
// does not answer its turns, or those of most others. It may only have been slow for
// a while: the gate is on again when it has sent something between each two of many
// turns. Some protocols look like that now and then, so that it takes twice as many
// the next time.
type unheard struct {
	is    bool
	turns int   // before which something came, one after the other
	times uint8 // that the gate was on again
}

// heardTurns are so many that the gate is on again.
const heardTurns = 8

// regate looks, as a turn leaves whose client had seen so much, whether the gate is to
// be on from the next one on.
func (s *Session) regate(seen uint64) {
	u := &s.unheard
	switch {
	case !u.is || s.sniffer.http2:
		return
	case s.gate.absorbed == s.gate.asked:
		u.turns = 0
		return
	}
	if u.turns++; u.turns < heardTurns<<u.times {
		return
	}
	*u = unheard{times: min(u.times+1, 16)}
	s.free, s.late = false, 0
	if seen == SeenUnknown {
		seen = s.lastSeen
	}
	s.gate.restart(seen)
}

// settle sets mark where nothing is owed.
func (g *gate) settle(mark uint64) {
	g.mark, g.owed, g.misses = mark, false, 0
}

// owe sets mark where a turn left before the bytes that it needs had come.
func (g *gate) owe(need uint64) {
	switch {
	case g.owed && g.absorbed == g.mark: // max-hold passed behind it
		g.differs = true
	case g.owed && g.absorbed < g.mark:
		g.misses++
		g.differs = g.differs || g.misses >= forgive
	default:
		g.misses = 0
	}
	if g.differs {
		g.settle(g.absorbed)
		return
	}
	g.mark, g.owed = need, true
}
