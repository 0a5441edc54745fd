package replay

// Chunk sizes: most sessions queue one small request for the time of a handshake,
// a few queue a large body.
const (
	smallChunk = 2 << 10
	largeChunk = 64 << 10
	// keepSmall and keepLarge bound what the pool keeps for reuse: 8 MiB.
	keepSmall = 2048
	keepLarge = 64
)

// A chunk holds queued bytes buf[r:w].
type chunk struct {
	buf  []byte
	r, w int
	next *chunk
}

// A pool lends chunks to the sessions of one shard, within a budget. What one
// session may hold shrinks with what is left, so that those of a target that does
// not read share most of the budget and leave the rest to others.
type pool struct {
	budget       int // bytes that may be lent
	lent         int
	small, large []*chunk
}

// A session may hold an 8th of what is free of the budget, of which a quarter is
// set apart; out of that it may hold up to 256 KiB, as long as it is a 64th of all
// that is free, and always a small chunk.
const (
	shareFree   = 8
	apart       = 4
	guaranteed  = 256 << 10
	shareOfLast = 64
)

// allows reports whether a session that holds so much may have size more.
func (p *pool) allows(held, size int) bool {
	free := p.budget - p.lent
	if size > free {
		return false
	}
	share := max((free-p.budget/apart)/shareFree, min(guaranteed, free/shareOfLast), smallChunk)
	return held+size <= share
}

// get returns an empty chunk for want more bytes to a session that holds so much,
// nil when its share is spent.
func (p *pool) get(held, want int) *chunk {
	size, free := smallChunk, &p.small
	if want > smallChunk {
		size, free = largeChunk, &p.large
	}
	if !p.allows(held, size) {
		return nil
	}
	p.lent += size
	if n := len(*free); n > 0 {
		c := (*free)[n-1]
		(*free)[n-1] = nil
		*free = (*free)[:n-1]
		return c
	}
	return &chunk{buf: make([]byte, size)}
}

// put takes c back.
func (p *pool) put(c *chunk) {
	p.lent -= len(c.buf)
	c.r, c.w, c.next = 0, 0, nil
	switch {
	case len(c.buf) == smallChunk && len(p.small) < keepSmall:
		p.small = append(p.small, c)
	case len(c.buf) == largeChunk && len(p.large) < keepLarge:
		p.large = append(p.large, c)
	}
}

// A queue is the bytes of one session that wait for the gate or for room, oldest
// first, in chunks of a pool.
type queue struct {
	head, tail *chunk
	memory     int // of the chunks held
}

// push copies b to the end. It reports false when the session's limit, or its share of
// the pool, is reached; some of b may be queued then, and the caller gives the session
// up.
func (q *queue) push(p *pool, limit int, b []byte) bool {
	for len(b) > 0 {
		if q.tail == nil || q.tail.w == len(q.tail.buf) {
			if !q.grow(p, limit, len(b)) {
				return false
			}
		}
		n := copy(q.tail.buf[q.tail.w:], b)
		q.tail.w += n
		b = b[n:]
	}
	return true
}

func (q *queue) grow(p *pool, limit, want int) bool {
	if q.tail != nil {
		want = largeChunk // a queue that grows is one that will grow more
	}
	if q.memory >= limit {
		return false
	}
	c := p.get(q.memory, want)
	if c == nil {
		return false
	}
	q.memory += len(c.buf)
	if q.tail == nil {
		q.head = c
	} else {
		q.tail.next = c
	}
	q.tail = c
	return true
}

// front returns the oldest bytes that lie together, lent until the next call.
func (q *queue) front() []byte {
	if q.head == nil {
		return nil
	}
	return q.head.buf[q.head.r:q.head.w]
}

// pop removes the n oldest bytes, at most what front returned.
func (q *queue) pop(p *pool, n int) {
	c := q.head
	c.r += n
	if c.r < c.w {
		return
	}
	q.head = c.next
	if q.head == nil {
		q.tail = nil
	}
	q.memory -= len(c.buf)
	p.put(c)
}

// prepend moves the bytes of o before those of q.
func (q *queue) prepend(o *queue) {
	if o.tail == nil {
		return
	}
	o.tail.next = q.head
	if q.tail == nil {
		q.tail = o.tail
	}
	q.head = o.head
	q.memory += o.memory
	*o = queue{}
}

// free gives all chunks back.
func (q *queue) free(p *pool) {
	for q.head != nil {
		c := q.head
		q.head = c.next
		p.put(c)
	}
	*q = queue{}
}
