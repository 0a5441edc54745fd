package replay

// A request that leaves before the answer to the one before it arrives pipelined, which
// every server copes with. A client's end that leaves too early makes servers give up
// what they do for a client that is gone, which no client did: so it waits longer.

func (s *Session) askGate(t *turn, now int64) verdict {
	v := s.gate.ask(t.seen, now, s.gateConfig(t))
	if v != wait && s.trails(t) && !s.gate.done(t.seen, now, &s.shard.ends) {
		return wait
	}
	return v
}

// trails reports whether t is the end behind turns that left before their answers: the
// target is slow. One that answers nothing at all looks the same until the end has waited.
func (s *Session) trails(t *turn) bool {
	return t.kind >= turnFin && t.seen != SeenUnknown && (s.unheard.is || s.heldMax > 0)
}

// yield lets the client's FIN, which may leave by verdict v, do so when the target
// has had a while to close first.
func (s *Session) yield(v verdict, now int64) verdict {
	if s.again == 0 {
		s.again = now + int64(s.shard.ends.Settle) + s.gate.slack
	}
	if now < s.again {
		return wait
	}
	return v
}

// gateConfig returns what the gate goes by for t. An end, or a ping, waits longer for
// a quiet target than other bytes do: servers give up what they do for a client that
// is gone, and one that pings too early. An end also waits longer for the answer to
// begin, unless the gate is off; see trails, too.
func (s *Session) gateConfig(t *turn) *Config {
	switch {
	case t.kind <= turnData || t.seen == SeenUnknown:
		return &s.shard.cfg
	case t.kind >= turnFin && !s.free:
		return &s.shard.ends
	}
	return &s.shard.quiet
}
