package copier

import (
	"hash/maphash"
	"time"

	"flowtwin/copier/report"
	"flowtwin/internal/flow"
	"flowtwin/internal/packet"
)

// Bounds of a memory, in sets: 200 KB at first, then as much as it needs, up to
// memoryShare tuples for each that the table may hold (52 bytes each).
const (
	memoryFirst = 1024
	memoryWays  = 4
	memoryShare = 2

	// memoryCrowded: more than one memo in so many sets makes way, and the memory grows
	// though there is room elsewhere. Connections that all have their place in one set
	// and go on would push each other out again and again, and each time be counted.
	memoryCrowded = 1024
)

// memoryBrief is how long a connection is remembered that was followed to its end,
// or never established: what comes of it still comes soon. Then it makes way
// before the memory grows.
const memoryBrief = time.Minute

// A memory knows the tuples of flows that were refused, so that the rest of
// their packets counts under the same reason and the flow once, and of flows that
// have ended, so that stragglers are not taken for connections that began before
// us. When it may not grow any more it forgets the oldest of a set; a flow that is
// forgotten and goes on is counted once more.
type memory struct {
	seed maphash.Seed
	sets [][memoryWays]memo
	max  int // sets, a power of two

	crowded int // since it grew: memos that made way though it was not filled
}

// memo is what is remembered of one tuple.
type memo struct {
	tuple flow.Tuple
	iss   packet.Seq    // 0 if it was not seen to begin
	next  packet.Seq    // of an ended one: where its client's bytes ended
	age   uint32        // when it was put, in units of ageUnit, from 1 on; 0 is an empty place
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

// ageUnit makes 32 bits last for years.
const ageUnit = 1 << 26 // ns

// newMemory returns the memory of a table of n tuples.
func newMemory(n int) memory {
	most := memoryFirst
	for most*memoryWays < n*memoryShare {
		most *= 2
	}
	return memory{seed: maphash.MakeSeed(), sets: make([][memoryWays]memo, memoryFirst), max: most}
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

// put remembers e, at the time now, in the place of what was known of its tuple, or
// of what matters least.
func (m *memory) put(e memo, now int64) {
	e.age = uint32(now/ageUnit) + 1
	place := m.place(&e, e.age)
	if place.age != 0 && place.tuple != e.tuple && !place.brief(e.age) && len(m.sets) < m.max {
		m.crowded++
		if m.filled(&e) || m.crowded > 1+len(m.sets)/memoryCrowded {
			m.crowded = 0
			m.grow()
			place = m.place(&e, e.age)
		}
	}
	*place = e
}

// place returns where e is to be put.
func (m *memory) place(e *memo, now uint32) *memo {
	set := m.set(&e.tuple)
	best := &set[0]
	for i := range set {
		switch p := &set[i]; {
		case p.age != 0 && p.tuple == e.tuple:
			return p
		case best.age == 0: // free
		case p.age == 0 || p.worth(now) < best.worth(now):
			best = p
		}
	}
	return best
}

// brief reports whether the time has passed for which e is worth remembering.
func (e *memo) brief(now uint32) bool {
	return (e.drop == report.None || e.drop == report.NeverEstablished) && now-e.age > uint32(memoryBrief/ageUnit)
}

// worth orders memos: the smaller goes first.
func (e *memo) worth(now uint32) uint32 {
	if e.brief(now) {
		return 0
	}
	return e.age
}

// filled reports whether an eighth of the memory is worth keeping, as the sets
// around e's tell. Less, and only this set is full, by chance.
func (m *memory) filled(e *memo) bool {
	const around = 64
	at, worth := m.index(&e.tuple), 0
	for i := range uint64(around) {
		set := &m.sets[(at+i)%uint64(len(m.sets))]
		for j := range set {
			if set[j].worth(e.age) > 0 {
				worth++
			}
		}
	}
	return worth >= around*memoryWays/8
}

// grow doubles the memory. Seldom, and then as long as a copy of it takes.
func (m *memory) grow() {
	old := m.sets
	m.sets = make([][memoryWays]memo, 2*len(old))
	var now uint32
	for i := range old {
		for _, e := range old[i] {
			now = max(now, e.age)
		}
	}
	for i := range old {
		for _, e := range old[i] {
			if e.age != 0 {
				*m.place(&e, now) = e
			}
		}
	}
}

func (m *memory) set(t *flow.Tuple) *[memoryWays]memo {
	return &m.sets[m.index(t)]
}

func (m *memory) index(t *flow.Tuple) uint64 {
	return maphash.Comparable(m.seed, *t) % uint64(len(m.sets))
}
