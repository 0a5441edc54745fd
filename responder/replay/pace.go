package replay

// In HTTP/2 a client's bytes wait for no particular answer. But a target that is
// slower than the online server would be asked ever more at a time, where the client
// asked its next question when one was answered: servers refuse streams beyond a
// number (REFUSED_STREAM; 100 to 250 are usual). So bytes that the client sent when
// it had seen so many answers wait until the target has answered all of it but a
// slack. Where a target comes to rest with more than that missing, its answers are
// shorter than online, and the slack grows, until in the end nothing waits.
const (
	paceSlack = 4 << 10 // at first: frames of other sizes, acknowledgments of settings and pings
	paceStep  = 1 << 10 // of what the client has seen, between two turns that wait
	paceGrows = 4
)

// pace is a session's part of it.
type pace struct {
	seen  uint64 // of the turn noted last
	grown uint64 // 0: paceSlack
}

func (p *pace) slack() uint64 { return max(p.grown, paceSlack) }

// note has what begins with the next byte wait, if the client has seen enough since
// the last time.
func (p *pace) note(s *Session, seen uint64) {
	if seen == SeenUnknown || seen < p.seen+paceStep {
		return
	}
	p.seen = seen
	s.turns.push(turn{start: s.received, seen: seen, kind: turnPace})
}

// pass takes notice of how a turn left.
func (p *pace) pass(s *Session, seen uint64, v verdict) {
	g := &s.gate
	g.since = 0
	if v == answered || seen <= g.seen {
		return
	}
	p.grown = p.slack() * paceGrows
	g.settle(g.absorbed)
	g.seen = seen
}

// keepsUp says whether the target is close enough to what the client had seen.
func (g *gate) keepsUp(seen, slack uint64, now int64, c *Config) verdict {
	need, _ := g.need(seen)
	switch {
	case g.absorbed+slack >= need:
		return answered
	case g.begun() && now-g.lastAnswer >= int64(c.Settle)+g.slack:
		return settled
	case g.since != 0 && now-g.since >= int64(c.MaxHold)+g.slack:
		return overdue
	}
	return wait
}
