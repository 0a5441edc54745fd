package copier

import (
	"math"
	"time"
)

// The order to admit no more flows takes effect by the packets' time. What was
// captured before it may lie in the ring for long where the host is busy, and the
// kernel is filling a block that it has not handed over: connections that began before
// the order are copied, and those that began behind it are not. The shard goes on as
// before until it has seen all packets from before the order.

const (
	// openBlock is how long after the order packets from before it may yet come into an
	// empty ring: the kernel hands over a block within twice retire, and old kernels
	// round that up to ticks of 10 ms. Packets of several CPUs are out of order by less.
	openBlock = 25 * time.Millisecond
	// catchUpMost bounds the catching up: when the clock is set back, packets bear times
	// from before the order for as long.
	catchUpMost = time.Second
	// handshakeMost is how long handshakes that were under way have, where nothing else
	// lives: a SYN that was lost is sent again after that (RFC 6298).
	handshakeMost = time.Second
)

// A stop is the order to stop as a shard carries it out.
type stop struct {
	at    int64 // the order's moment, in the packets' time
	told  bool
	heard int64 // shard.worked when the shard was told
	empty bool  // the ring has been, when all from before the order was handed over
}

func noStop() stop { return stop{at: math.MaxInt64} }

// stopAt tells the shard to admit no flow that began at a time or later. Any goroutine.
func (s *shard) stopAt(at int64) {
	s.ordered.Store(at)
	s.ask(phaseDraining)
}

// caughtUp reports whether the shard, which is told to stop, has seen what was
// captured before the order. An order without a moment takes effect at once.
func (s *shard) caughtUp() bool {
	t := &s.stop
	if !t.told {
		t.told, t.heard, t.at = true, s.worked, s.ordered.Load()
	}
	if t.at == 0 {
		t.at = math.MinInt64
	}
	return t.at == math.MinInt64 || t.empty || s.at >= t.at+int64(openBlock) || s.worked-t.heard >= int64(catchUpMost)
}

// patience is how long the shard, which has just found its ring empty, may wait for
// packets: 0 when it has caught up by that.
func (s *shard) patience() time.Duration {
	if !s.stop.told || s.phase != phaseRunning {
		return tick
	}
	left := openBlock - time.Duration(s.worked-s.stop.heard)
	s.stop.empty = left <= 0
	return max(left, 0)
}

// stopped reports whether a flow that began at a time is not to be admitted.
func (s *shard) stopped(began int64) bool { return s.phase != phaseRunning || began >= s.stop.at }

// hadTime reports whether a handshake that is still under way could have been done, so
// that it is not the order that keeps the connection from the target.
func (s *shard) hadTime(r *record) bool {
	waited := s.stop.told && s.worked-s.stop.heard >= int64(handshakeMost)
	return r.from < s.stop.at && (waited || s.clock-r.last >= int64(handshakeMost))
}

// drained reports whether nothing is left to wait for.
func (s *shard) drained() bool {
	b := &s.book
	if s.phase < phaseDraining || b.Flows.Live > 0 || b.Sessions.Open > 0 || b.Copies.Open > 0 {
		return false
	}
	return b.Flows.Pending == 0 || s.player != nil || s.worked-s.stop.heard >= int64(handshakeMost)
}
