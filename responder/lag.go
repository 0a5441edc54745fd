package responder

import "math/bits"

// lag is a histogram of time differences in ns, log-linear around a reference:
// the clocks of the two hosts are not aligned, so that the differences are small
// only against their own minimum. Its error is 1/32 of the distance from there.
type lag struct {
	ref    int64 // the least value of the last window
	n      uint64
	lo, hi int64
	counts [2*lagSide + 1]uint32
}

const (
	lagBits = 5  // 32 steps per power of two
	lagTop  = 40 // 2^40 ns, 18 minutes: larger ones are counted as that
	lagSide = (lagTop-lagBits+1)<<lagBits - 1
)

// bucket returns the place of a distance from the reference.
func bucket(d uint64) int {
	d = min(d, 1<<lagTop-1)
	if d < 1<<lagBits {
		return int(d)
	}
	shift := bits.Len64(d) - lagBits - 1
	return (shift+1)<<lagBits + int(d>>shift) - 1<<lagBits
}

// distance is the lowest one of its bucket, the inverse of bucket.
func distance(b int) uint64 {
	if b < 1<<lagBits {
		return uint64(b)
	}
	shift := b>>lagBits - 1
	return uint64(b&(1<<lagBits-1)|1<<lagBits) << shift
}

// add counts v n times.
func (l *lag) add(v int64, n uint32) {
	if l.n == 0 {
		if l.ref == 0 {
			l.ref = v
		}
		l.lo, l.hi = v, v
	}
	l.lo, l.hi = min(l.lo, v), max(l.hi, v)
	l.n += uint64(n)
	if v >= l.ref {
		l.counts[lagSide+bucket(uint64(v-l.ref))] += n
	} else {
		l.counts[lagSide-bucket(uint64(l.ref-v))] += n
	}
}

// value is what bucket i of counts stands for.
func (l *lag) value(i int) int64 {
	if i >= lagSide {
		return l.ref + int64(distance(i-lagSide))
	}
	return l.ref - int64(distance(lagSide-i))
}

// quantile returns the value below which the part q of all values lies.
func (l *lag) quantile(q float64) int64 {
	rank := uint64(q * float64(l.n))
	for i, c := range l.counts {
		if rank < uint64(c) {
			return min(max(l.value(i), l.lo), l.hi)
		}
		rank -= uint64(c)
	}
	return l.hi
}

// moveTo adds all of l to o and empties l.
func (l *lag) moveTo(o *lag) {
	if l.n == 0 {
		return
	}
	lo, hi := l.lo, l.hi
	if o.n == 0 && o.ref == 0 {
		o.ref = lo
	}
	for i, c := range l.counts {
		if c > 0 {
			o.add(min(max(l.value(i), lo), hi), c)
		}
	}
	o.lo, o.hi = min(o.lo, lo), max(o.hi, hi)
	l.reset()
}

// reset begins a new window.
func (l *lag) reset() {
	if l.n > 0 {
		*l = lag{ref: l.lo}
	}
}
