package copier

import (
	"time"

	"flowtwin/copier/report"
)

// limits are the bounds of a shard.
type limits struct {
	// handshake is how long a SYN may go without anything of its flow following:
	// a little more than the longest pause between two SYNs of Linux, 64 s.
	handshake time.Duration
	// reorder is how long a segment may wait for what is before it, and blind the
	// same where the server's packets are not captured. What the server has and the
	// capture missed is found at once by the server's ACKs; what it has not either
	// the client sends again, after an RTO that doubles up to 2 minutes (RFC 6298).
	// Without the ACKs the two cannot be told apart.
	reorder, blind time.Duration
	// quiet is how long nothing may speak against a guess.
	quiet time.Duration
	// late is how long a client's bytes may come behind a server's ACK of them, where
	// the two come from a mirror.
	late time.Duration
	// idle is how long a flow may show nothing at all. Connections may be idle for
	// long and alive; the kernels' own keep-alive asks after 2 hours, and its
	// probes are captured like everything else.
	idle time.Duration
	// closed is the same once a side has closed, and for flows that are not copied
	// any more: no keep-alive holds the connection then, or it is not worth a slot.
	closed time.Duration
}

func defaultLimits() limits {
	return limits{handshake: 75 * time.Second, reorder: 130 * time.Second, blind: 2 * time.Second, quiet: 3 * time.Second, late: 300 * time.Millisecond, idle: 2*time.Hour + 10*time.Minute, closed: 3 * time.Minute}
}

// sweepLeast is how many slots a sweep looks at, at least; a tenth of all
// otherwise, so that each is looked at about once a second.
const sweepLeast = 256

// sweep looks at the next slots for what time has run out for, and for frames
// that the lane had no room for.
func (s *shard) sweep() {
	n := min(max(sweepLeast, s.used/10), s.used)
	for range n {
		if s.cursor >= s.used {
			s.cursor = 0
		}
		slot := uint32(s.cursor)
		s.cursor++
		s.inspect(slot, s.table.At(slot))
	}
}

func (s *shard) inspect(slot uint32, r *record) {
	if r.state == stateFree {
		return
	}
	if r.owed != 0 {
		s.control(slot, r, r.owed)
	}
	if since, ok := r.claim.asm.Oldest(s.store); ok && time.Duration(s.clock-since) > s.limit.handshake {
		s.unclaim(r)
	}
	still := time.Duration(s.clock - r.last)
	switch {
	case r.state == stateSynSeen:
		if still > s.limit.handshake {
			s.refuse(slot, r, report.NeverEstablished)
		}
	case r.state == stateObserved:
		if still > s.limit.idle {
			s.refuse(slot, r, report.Midstream)
		}
	case r.state.followed():
		s.inspectOpen(slot, r, still)
	case still <= s.idle(r):
	case r.state == stateSettled:
		s.retire(slot, r, report.Idle)
	case r.state == stateShunned:
		s.free(slot, r)
	}
}

// idle is how long nothing may be captured of the flow.
func (s *shard) idle(r *record) time.Duration {
	if r.ending != report.Alive || !r.state.followed() {
		return min(s.limit.closed, s.limit.idle)
	}
	return s.limit.idle
}

// inspectOpen looks at an open flow, or one that waits, of which nothing has come for so long.
func (s *shard) inspectOpen(slot uint32, r *record, still time.Duration) {
	wait := s.limit.reorder
	if !r.heard {
		wait = s.limit.blind
	}
	// What is waited for may be in the ring.
	since, waits := r.asm.Oldest(s.store)
	switch {
	case s.behind:
	case r.guess == guessHole && time.Duration(s.clock-r.doubt) > s.limit.late:
		s.resolve(slot, r)
	case r.guess != guessNone && time.Duration(s.clock-r.doubt) > s.limit.quiet:
		s.resolve(slot, r)
	case waits && time.Duration(s.clock-since) > wait:
		gap, _ := r.asm.Gap(s.store)
		s.hole(slot, r, gap)
	case still <= s.idle(r):
	case r.state == stateWaiting:
		s.leave(slot, r)
	default:
		s.giveUp(slot, r, report.Idle)
	}
}
