package report

import (
	"math/bits"
	"time"

	"flowtwin/tunnel/frame"
)

// lagBuckets cover 1 ns to 2^40 ns (18 minutes), four to each power of two.
const lagBuckets = 41 * 4

// Lag is the distribution of the time from a segment's capture on the online
// server to its write to the target. The responder reports three points of it
// about once a second; between them the later one is assumed, so what is printed
// is an upper bound, in steps of a quarter.
type Lag struct {
	weight [lagBuckets]uint64 // in hundredths of a segment
	Max    time.Duration
}

// Progress enters one report of the responder, whose clock is offset ahead of ours.
func (l *Lag) Progress(p *frame.Progress, offset time.Duration) {
	if p.LagCount == 0 {
		return
	}
	// Half of the segments were no later than the median, and so on.
	l.weight[lagBucket(time.Duration(p.LagP50)-offset)] += 50 * p.LagCount
	l.weight[lagBucket(time.Duration(p.LagP99)-offset)] += 49 * p.LagCount
	l.weight[lagBucket(time.Duration(p.LagMax)-offset)] += p.LagCount
	l.Max = max(l.Max, time.Duration(p.LagMax)-offset)
}

// Add enters the lag of one segment.
func (l *Lag) Add(d time.Duration) {
	l.weight[lagBucket(d)] += 100
	l.Max = max(l.Max, d)
}

// lagBucket returns the bucket of d; negative ones (clocks are not that well
// aligned) count as none.
func lagBucket(d time.Duration) int {
	v := uint64(max(d, 4))
	shift := bits.Len64(v) - 3
	return min(shift*4+int(v>>shift)-4, lagBuckets-1)
}

// lagTop returns the largest duration of bucket i.
func lagTop(i int) time.Duration {
	return time.Duration(uint64(i%4+5)<<(i/4) - 1)
}

// Quantile returns the lag that the share q of segments did not exceed; ok is
// false as long as the responder has reported none.
func (l *Lag) Quantile(q float64) (d time.Duration, ok bool) {
	all := total(l.weight[:])
	var sum uint64
	for i, w := range l.weight {
		if sum += w; w > 0 && float64(sum) >= q*float64(all) {
			return min(lagTop(i), max(l.Max, 0)), true
		}
	}
	return 0, false
}

func (l *Lag) add(o *Lag) {
	for i := range l.weight {
		l.weight[i] += o.weight[i]
	}
	l.Max = max(l.Max, o.Max)
}
