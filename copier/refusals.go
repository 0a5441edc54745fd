package copier

import (
	"log/slog"
	"sync"

	"flowtwin/tunnel/frame"
)

// A taking is what has come back of whether the responder takes connections: when
// the newest session began, in the packets' time, that was established, or refused
// since the responder was paused or stopped, or since it was shutting down. Accounts
// may come hours later, when the client ends, and in any order.
type taking struct{ established, paused, drained int64 }

// add makes t tell of what o does, too.
func (t *taking) add(o taking) {
	t.established = max(t.established, o.established)
	t.paused = max(t.paused, o.paused)
	t.drained = max(t.drained, o.drained)
}

// refusedBy notes what the account of a flow's session tells of that.
func (s *shard) refusedBy(r *record, how frame.CloseHow) {
	at := r.from
	if r.state == stateCopying || r.state == stateFinHeld {
		at = max(at, s.at) // it did not wait for its client's end: it was cut
	}
	switch how {
	case frame.ClosedPaused:
		s.taking.paused = max(s.taking.paused, at)
	case frame.ClosedDrain:
		s.taking.drained = max(s.taking.drained, at)
	default:
	}
}

// heard returns what has come back as of the last tick. Any goroutine.
func (s *shard) heard() taking {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.shownTaking
}

// refusals says that the responder takes no connections since somebody has told it so,
// once, and once that it takes them again.
type refusals struct {
	log *slog.Logger

	mu    sync.Mutex
	heard taking // the newest so far
	said  bool
}

// look says what has changed. Several goroutines look, and what one has heard may be
// older than what another has told before it.
func (r *refusals) look(t taking, responder string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.heard.add(t)
	t = r.heard
	refuses := max(t.paused, t.drained) > t.established
	if refuses == r.said {
		return
	}
	r.said = refuses
	log := r.log.With("responder", responder)
	switch {
	case !refuses:
		log.Info("the responder takes connections again")
	case t.paused >= t.drained:
		log.Warn("the responder takes no connections: somebody has paused or stopped it, until \"responder ctl resume\"")
	default:
		log.Warn("the responder takes no connections: it is shutting down")
	}
}
