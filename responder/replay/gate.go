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
type gate struct {
	off        bool
	seen       uint64 // of the turn released last
	mark       uint64 // absorbed bytes that correspond to seen
	absorbed   uint64 // all answer bytes so far
	asked      uint64 // absorbed when everything released was written
	lastAnswer int64  // when absorbed last grew
	since      int64  // when the wait that is under way began
}

// answer notes n absorbed bytes.
func (g *gate) answer(n int, now int64) {
	g.absorbed += uint64(n)
	g.lastAnswer = now
}

// need returns how many absorbed bytes answer a turn whose client had seen so
// many, and false when that is not known.
func (g *gate) need(seen uint64) (bytes uint64, known bool) {
	if seen == SeenUnknown {
		return 0, false
	}
	if seen <= g.seen {
		return g.mark, true
	}
	return g.mark + (seen - g.seen), true
}

// ask says whether what the client did after it had seen so much may leave now.
func (g *gate) ask(seen uint64, now int64, c *Config) verdict {
	need, known := g.need(seen)
	switch {
	case g.off, known && g.absorbed >= need:
		return answered
	case g.absorbed > g.asked && now-g.lastAnswer >= int64(c.Settle):
		return settled
	case g.since != 0 && now-g.since >= int64(c.MaxHold):
		return overdue
	}
	return wait
}

// wake returns when ask may answer otherwise without an answer of the target.
func (g *gate) wake(c *Config) int64 {
	at := g.since + int64(c.MaxHold)
	if g.absorbed > g.asked {
		at = min(at, g.lastAnswer+int64(c.Settle))
	}
	return at
}

// pass moves the gate on to the turn that was released. Where the answers differ
// in length from the online ones, mark is set anew whenever the target is known
// to be done, so that differences do not add up over the turns.
func (g *gate) pass(seen uint64, v verdict, now int64, c *Config) {
	need, known := g.need(seen)
	if v == answered && known && now-g.lastAnswer < int64(c.Settle) {
		g.mark = min(need, g.absorbed)
	} else {
		g.mark = g.absorbed
	}
	if seen != SeenUnknown {
		g.seen = max(g.seen, seen)
	}
	g.since = 0
}
