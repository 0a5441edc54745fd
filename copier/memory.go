package copier

import (
	"hash/maphash"

	"flowtwin/copier/report"
	"flowtwin/internal/flow"
	"flowtwin/internal/packet"
)

// memorySets and memoryWays bound what a shard remembers of connections that are
// not, or no longer, in its table: about 200 KB.
const (
	memorySets = 1024
	memoryWays = 4
)

// A memory knows the tuples of flows that were refused, so that the rest of
// their packets counts under the same reason and the flow once, and of flows that
// have ended, so that stragglers are not taken for connections that began before
// us. It forgets the oldest of a set when that is full; a flow that is forgotten
// and goes on is counted once more.
type memory struct {
	seed maphash.Seed
	sets [][memoryWays]memo
	tick uint32
}

// memo is what is remembered of one tuple.
type memo struct {
	tuple flow.Tuple
	iss   packet.Seq    // valid unless the reason is Midstream
	next  packet.Seq    // of an ended one: where its client's bytes ended
	age   uint32        // larger is younger; 0 is an empty place
	drop  report.Reason // None: it was followed to its end
}

// stragglers is how far before the end of a flow's bytes a segment may lie that
// is still taken for one of them sent again. A connection that took over the
// tuple unseen lies anywhere, and must not be lost in this.
const stragglers = 1 << 24

// was reports whether bytes that end at seq belong to the ended flow.
func (e *memo) was(end packet.Seq) bool {
	d := e.next.Diff(end)
	return e.drop == report.None && d >= 0 && d < stragglers
}

func newMemory() memory {
	return memory{seed: maphash.MakeSeed(), sets: make([][memoryWays]memo, memorySets)}
}

// find returns what is remembered of t, valid until the next put, or nil.
func (m *memory) find(t *flow.Tuple) *memo {
	set := m.set(t)
	for i := range set {
		if e := &set[i]; e.age != 0 && e.tuple == *t {
			return e
		}
	}
	return nil
}

// put remembers e in the place of what was known of its tuple, or of the oldest.
func (m *memory) put(e memo) {
	m.tick++
	e.age = m.tick
	set := m.set(&e.tuple)
	place := &set[0]
	for i := range set {
		if set[i].age != 0 && set[i].tuple == e.tuple {
			place = &set[i]
			break
		}
		if set[i].age < place.age {
			place = &set[i]
		}
	}
	*place = e
}

func (m *memory) set(t *flow.Tuple) *[memoryWays]memo {
	return &m.sets[maphash.Comparable(m.seed, *t)%memorySets]
}
