package responder

import (
	"sync"
	"time"

	"flowtwin/tunnel"
)

const (
	// rateBurst is how much may come at once after a quiet time, and rateDebt how far
	// ahead flows that were admitted may get: a long upload keeps others out for so
	// long at most.
	rateBurst = time.Second
	rateDebt  = 10 * time.Second
)

// A rate is a bucket that fills by so much a second. Whole flows are admitted as
// long as there is anything in it; what they take then may leave it in debt. The zero
// value is no limit. Any goroutine.
type rate struct {
	mu    sync.Mutex
	per   float64 // second; 0 without a limit
	level float64
	at    time.Time // when level was right
}

// set changes the rate. One that stays keeps what is owed.
func (r *rate) set(per float64, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if per == r.per {
		return
	}
	r.per, r.at = per, now
	r.level = r.most()
}

// get returns the rate.
func (r *rate) get() float64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.per
}

// most is what the bucket holds.
func (r *rate) most() float64 { return max(r.per*rateBurst.Seconds(), 1) }

func (r *rate) fill(now time.Time) {
	if d := now.Sub(r.at); d > 0 {
		r.level = min(r.level+r.per*d.Seconds(), r.most())
		r.at = now
	}
}

// open reports whether anything may be taken, and takes n if so.
func (r *rate) open(n float64, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.per == 0 {
		return true
	}
	if r.fill(now); r.level < 1 {
		return false
	}
	r.level -= n
	return true
}

// back gives back what was taken, for a flow that is refused all the same.
func (r *rate) back(n float64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.level = min(r.level+n, r.most())
}

// spend takes n in any case.
func (r *rate) spend(n float64, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.per == 0 {
		return
	}
	r.fill(now)
	r.level = max(r.level-n, -r.per*rateDebt.Seconds())
}

// limits are what may be taken of new flows in a second: of all copiers' flows, or of
// one's. Any goroutine.
type limits struct{ connections, bytes rate }

func (l *limits) set(r tunnel.Rates, now time.Time) {
	l.connections.set(r.Connections, now)
	l.bytes.set(r.Bytes, now)
}

func (l *limits) get() tunnel.Rates {
	return tunnel.Rates{Connections: l.connections.get(), Bytes: l.bytes.get()}
}

// open reports whether a flow of so many sessions may be taken, and takes them.
func (l *limits) open(sessions int, now time.Time) bool {
	return l.bytes.open(0, now) && l.connections.open(float64(sessions), now)
}
