package replay

// timers is a binary heap of the sessions that wait for a time, soonest first.
// Each session has at most one entry and knows its place, so that an entry is
// moved or removed without a search.
type timers struct{ heap []*Session }

// notArmed is the place of a session that has no entry.
const notArmed = -1

// set makes s due at the given time.
func (t *timers) set(s *Session, at int64) {
	if s.place == notArmed {
		s.place = len(t.heap)
		t.heap = append(t.heap, s)
	}
	s.armed = at
	t.up(s.place)
	t.down(s.place)
}

// remove takes the entry of s out, if there is one.
func (t *timers) remove(s *Session) {
	i := s.place
	if i == notArmed {
		return
	}
	last := len(t.heap) - 1
	t.swap(i, last)
	t.heap[last] = nil
	t.heap = t.heap[:last]
	s.place = notArmed
	if i < last {
		t.up(i)
		t.down(i)
	}
}

// next returns when the first entry is due, 0 when there is none.
func (t *timers) next() int64 {
	if len(t.heap) == 0 {
		return 0
	}
	return t.heap[0].armed
}

func (t *timers) up(i int) {
	for i > 0 && t.heap[i].armed < t.heap[(i-1)/2].armed {
		t.swap(i, (i-1)/2)
		i = (i - 1) / 2
	}
}

func (t *timers) down(i int) {
	for {
		c := 2*i + 1
		if c >= len(t.heap) {
			return
		}
		if c+1 < len(t.heap) && t.heap[c+1].armed < t.heap[c].armed {
			c++
		}
		if t.heap[i].armed <= t.heap[c].armed {
			return
		}
		t.swap(i, c)
		i = c
	}
}

func (t *timers) swap(i, j int) {
	t.heap[i], t.heap[j] = t.heap[j], t.heap[i]
	t.heap[i].place, t.heap[j].place = i, j
}
