package responder

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"
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

// set changes the rate.
func (r *rate) set(per float64, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
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

// ParseRate reads a number by the second, such as 500, 0.5/s, 10M or 64KiB/s.
func ParseRate(text string) (float64, error) {
	number := strings.TrimSuffix(text, "/s")
	number = strings.TrimSuffix(number, "B")
	factor := 1.0
	for _, u := range []struct {
		suffix string
		factor float64
	}{{"Ki", 1 << 10}, {"Mi", 1 << 20}, {"Gi", 1 << 30}, {"k", 1e3}, {"K", 1e3}, {"M", 1e6}, {"G", 1e9}} {
		if n, ok := strings.CutSuffix(number, u.suffix); ok {
			number, factor = n, u.factor
			break
		}
	}
	n, err := strconv.ParseFloat(number, 64)
	if err != nil || !(n > 0 && n*factor <= 1e15) {
		return 0, fmt.Errorf("%q is not a positive number by the second, such as 500, 10M or 64KiB/s", text)
	}
	return n * factor, nil
}
