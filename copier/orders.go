package copier

import (
	"slices"

	"flowtwin/copier/capture"
	"flowtwin/copier/report"
	"flowtwin/internal/flow"
)

// orders are what a shard is told from outside while it runs. They are replaced
// as a whole, never changed, and taken over between two blocks.
type orders struct {
	admit flow.Choice // of connections that begin from now on
	adopt flow.Choice // of those found open
	need  chan<- uint64

	amount amount // of sessions, for connections that begin from now on
	paused bool   // no connection has a session
	maps   *mapList
	taken  []capture.Match // servers whose packets another target's copier records
}

// tell gives the shard other orders. Any goroutine.
func (s *shard) tell(o *orders) {
	s.told.Store(o)
	s.ring.Wake()
}

// obey takes over orders.
func (s *shard) obey(o *orders) {
	before := s.orders
	s.orders = o
	if !slices.Equal(o.adopt, before.adopt) {
		s.forgo()
	}
	if o.paused && !before.paused {
		s.pause()
	}
	if o.maps != nil && o.maps != before.maps {
		s.unmap()
	}
	if o.need != nil {
		o.need <- s.needs()
	}
}

// forgo refuses observed connections that are not to be adopted any more.
func (s *shard) forgo() {
	for slot, r := range s.table.All() {
		if t := s.table.Tuple(slot); r.state == stateObserved && !s.orders.adopt.Takes(&t.Client, t.ClientPort) {
			s.refuse(slot, r, report.SampledOut)
		}
	}
}

// pause ends all sessions. Their flows wait for others.
func (s *shard) pause() {
	for slot, r := range s.table.All() {
		if r.state.open() {
			s.giveUp(slot, r, report.Paused)
		}
	}
}

// unmap gives up what is copied by maps that are removed.
func (s *shard) unmap() {
	for slot, r := range s.table.All() {
		switch {
		case r.state == stateFree || !s.orders.maps.gone[r.mapped]:
		case r.state == stateSynSeen || r.state == stateObserved:
			s.refuse(slot, r, report.MapRemoved)
		case r.state == stateSettled:
			s.retire(slot, r, report.MapRemoved)
		case r.state.followed():
			s.forsake(slot, r, report.MapRemoved)
		}
	}
}

// unwanted returns why a connection that began with s.tuple at a time is not to be
// copied, or None.
func (s *shard) unwanted(began int64) report.Reason {
	switch {
	case s.stopped(began):
		return report.Draining
	case !s.orders.admit.Takes(&s.tuple.Client, s.tuple.ClientPort):
		return report.SampledOut
	}
	return report.None
}

// needs returns how much of all connections the filter must take for the shard to
// lose none that it follows: [flow.Share.To] of a sample.
func (s *shard) needs() (to uint64) {
	share := flow.Sampled(100)
	for slot, r := range s.table.All() {
		if r.state.follows() {
			t := s.table.Tuple(slot)
			to = max(to, uint64(share.Hash(&t.Client, t.ClientPort))+1)
		}
	}
	return to
}
