package flow

import (
	"fmt"
	"math/bits"
	"math/rand/v2"

	"flowtwin/internal/packet"
)

// A Store keeps the early segments of one shard's flows: those that arrived
// ahead of a gap. Each flow has its own queue in it, reached through the flow's
// [Assembler].
//
// Memory. Segments, their bookkeeping and the buffers kept for reuse stay within
// the budget; beside it there is one segment of working space. One flow may take
// a quarter of what segments may, so that no single client can starve the others.
//
// A Store is not safe for concurrent use.
type Store struct {
	limit    int // bytes that segments may cost, buffer and node
	cost     int
	keep     int // bytes of buffers kept for reuse
	kept     int
	spare    [2*maxSizeBits + 1][][]byte // kept buffers by size class
	nodes    []node                      // 0 is no node
	freeNode uint32                      // chained by next[0]
	queues   []queue                     // 0 is no queue, and empty
	freeQ    uint32                      // chained by first[0]
	head     uint32                      // of the queues in use, the one that has waited longest
	tail     uint32
	scratch  []byte // a segment put together from several
	rnd      *rand.PCG

	segments, bytes int
	tally           Tally
}

// Tally counts bytes and segments that turned out to be known already. With it
// the account of every Add is complete: a byte offered and not refused was
// returned, is stored, was dropped, or is an old byte; a segment offered and not
// refused came back as one result, is stored, was dropped, or is an old segment.
type Tally struct {
	OldBytes    uint64
	OldSegments uint64 // that added nothing, or whose bytes were overtaken by another segment while stored
	Conflicts   uint64 // overlaps whose two contents differed; the first one stands
}

const (
	minSizeBits = 6  // the smallest buffer has 64 bytes
	maxSizeBits = 19 // the largest has 512 KiB, as large as super-packets get

	nodeCost = 128 // bytes charged for a node and its share of queues

	// levels of the skip list; with one node in 4 on the next level they do for
	// more than maxSegments.
	levels = 6

	// maxSegments is how many segments one flow may store. It bounds the walk over
	// them that a hostile client can cause with one packet.
	maxSegments = 8192

	shareOfFlow  = 4 // one flow may use 1/4 of the limit
	shareOfSpare = 8 // 1/8 of the budget is for buffers kept for reuse
)

// A queue holds one flow's segments in order: a skip list of nodes that never
// overlap, so that neither order of arrival makes insertion slow.
type queue struct {
	first    [levels]uint32
	segments int
	cost     int
	since    int64 // no stored segment is known to be older

	flow       uint32
	prev, next uint32 // in the order in which they began to wait
}

type node struct {
	next [levels]uint32
	seq  packet.Seq
	data []byte
	meta Meta
}

func (n *node) end() packet.Seq { return n.seq.Add(len(n.data)) }

// NewStore returns a store that holds at most budget bytes. Segments as large as
// a flow's share of it, about a fifth, are always refused.
func NewStore(budget int) *Store {
	if budget < 0 {
		panic(fmt.Sprintf("flow: store of %d bytes", budget))
	}
	keep := budget / shareOfSpare
	return &Store{
		limit: budget - keep, keep: keep,
		nodes: make([]node, 1), queues: make([]queue, 1),
		// Unpredictable levels: a client that knew them could flatten the list.
		rnd: rand.NewPCG(rand.Uint64(), rand.Uint64()),
	}
}

// Len returns the number of segments stored.
func (st *Store) Len() int { return st.segments }

// Bytes returns the number of payload bytes stored.
func (st *Store) Bytes() int { return st.bytes }

// Tally returns the counts since NewStore.
func (st *Store) Tally() Tally { return st.tally }

// sizeClass returns the smallest buffer size for n bytes and its class. Sizes
// are 2^k and 3·2^(k-1), so that at most a third is wasted.
func sizeClass(n int) (class, size int) {
	k := max(bits.Len(uint(n-1)), minSizeBits)
	if half := 3 << (k - 2); n <= half && k > minSizeBits {
		return 2*k - 1, half
	}
	return 2 * k, 1 << k
}

// room reports whether q may store another segment of n bytes.
func (st *Store) room(q *queue, n int) bool {
	if n > 1<<maxSizeBits || q.segments == maxSegments {
		return false
	}
	_, size := sizeClass(n)
	cost := size + nodeCost
	return st.cost+cost <= st.limit && q.cost+cost <= st.limit/shareOfFlow
}

// node takes an unused node with a buffer of n bytes for q. There must be room.
func (st *Store) node(q *queue, n int) uint32 {
	id := st.freeNode
	if id == 0 {
		st.nodes = append(st.nodes, node{})
		id = uint32(len(st.nodes) - 1)
	} else {
		st.freeNode = st.nodes[id].next[0]
	}
	class, size := sizeClass(n)
	var buf []byte
	if s := st.spare[class]; len(s) > 0 {
		buf = s[len(s)-1]
		st.spare[class] = s[:len(s)-1]
		st.kept -= size
	} else {
		buf = make([]byte, size)
	}
	st.nodes[id] = node{data: buf[:n]}
	st.cost += size + nodeCost
	q.cost += size + nodeCost
	q.segments++
	st.segments++
	st.bytes += n
	return id
}

// release gives back node id of q, which is in no list any more. Its buffer
// keeps its content until the next node is taken.
func (st *Store) release(q *queue, id uint32) {
	n := &st.nodes[id]
	class, size := sizeClass(cap(n.data))
	st.cost -= size + nodeCost
	q.cost -= size + nodeCost
	q.segments--
	st.segments--
	st.bytes -= len(n.data)
	if st.kept+size <= st.keep {
		st.spare[class] = append(st.spare[class], n.data[:size])
		st.kept += size
	}
	*n = node{next: [levels]uint32{st.freeNode}}
	st.freeNode = id
}

// queue takes an unused queue for the flow.
func (st *Store) queue(flow uint32) uint32 {
	id := st.freeQ
	if id == 0 {
		st.queues = append(st.queues, queue{})
		id = uint32(len(st.queues) - 1)
	} else {
		st.freeQ = st.queues[id].first[0]
	}
	st.queues[id] = queue{flow: flow}
	st.enqueue(id)
	return id
}

func (st *Store) releaseQueue(id uint32) {
	st.dequeue(id)
	st.queues[id].first[0] = st.freeQ
	st.freeQ = id
}

// enqueue puts queue id behind all that wait.
func (st *Store) enqueue(id uint32) {
	q := &st.queues[id]
	q.prev, q.next = st.tail, 0
	if st.tail != 0 {
		st.queues[st.tail].next = id
	} else {
		st.head = id
	}
	st.tail = id
}

func (st *Store) dequeue(id uint32) {
	q := &st.queues[id]
	if q.prev != 0 {
		st.queues[q.prev].next = q.next
	} else {
		st.head = q.next
	}
	if q.next != 0 {
		st.queues[q.next].prev = q.prev
	} else {
		st.tail = q.prev
	}
}

// requeue puts queue id behind all that wait, again.
func (st *Store) requeue(id uint32) {
	if st.tail != id {
		st.dequeue(id)
		st.enqueue(id)
	}
}

// Waiting returns the flow that has waited longest without any of its stored
// segments getting in order; ok is false when none is stored.
func (st *Store) Waiting() (flow uint32, ok bool) {
	return st.queues[st.head].flow, st.head != 0
}

// Crowded reports whether there is no room for n bytes that a flow within its
// share would find if others had less.
func (st *Store) Crowded(n int) bool {
	if n > 1<<maxSizeBits {
		return false
	}
	_, size := sizeClass(n)
	return st.cost+size+nodeCost > st.limit && size+nodeCost <= st.limit/shareOfFlow
}

// A path holds, for every level, the link to the first node behind a place.
type path [levels]*uint32

// seek finds the place of s in q: the last node that begins at or before s (0 if
// none), and the links to what lies behind.
func (st *Store) seek(q *queue, s packet.Seq) (p path, before uint32) {
	links := &q.first
	for i := levels - 1; i >= 0; i-- {
		for {
			id := links[i]
			if id == 0 || st.nodes[id].seq.After(s) {
				break
			}
			before, links = id, &st.nodes[id].next
		}
		p[i] = &links[i]
	}
	return p, before
}

// link puts node id in at p.
func (st *Store) link(p *path, id uint32) {
	height := min(1+bits.TrailingZeros64(st.rnd.Uint64()|1<<63)/2, levels)
	for i := range height {
		st.nodes[id].next[i] = *p[i]
		*p[i] = id
	}
}

// unlink takes out the first node at p.
func (st *Store) unlink(p *path) (id uint32) {
	id = *p[0]
	for i := range p {
		if *p[i] == id {
			*p[i] = st.nodes[id].next[i]
		}
	}
	return id
}

// popFront removes the first node of q.
func (st *Store) popFront(q *queue) {
	var p path
	for i := range p {
		p[i] = &q.first[i]
	}
	st.release(q, st.unlink(&p))
}
