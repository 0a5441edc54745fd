package replay

// A ring is a first-in first-out list that reuses its memory.
type ring[T any] struct {
	buf  []T
	head int
	n    int
}

// keepRing is how many places an empty ring keeps: enough for a session that
// sends a request at a time, little enough for 100,000 idle ones.
const keepRing = 4

func (r *ring[T]) len() int { return r.n }

// at returns element i, counted from the oldest.
func (r *ring[T]) at(i int) *T { return &r.buf[(r.head+i)%len(r.buf)] }

func (r *ring[T]) push(v T) {
	if r.n == len(r.buf) {
		grown := make([]T, max(keepRing, 2*r.n))
		for i := range r.n {
			grown[i] = *r.at(i)
		}
		r.buf, r.head = grown, 0
	}
	r.n++
	*r.at(r.n - 1) = v
}

func (r *ring[T]) pop() T {
	v := *r.at(0)
	r.head = (r.head + 1) % len(r.buf)
	r.n--
	if r.n == 0 && len(r.buf) > keepRing {
		r.buf, r.head = nil, 0
	}
	return v
}
