package netstack

import (
	"sync"
	"sync/atomic"
)

// slots are the sessions of one stack and family by inner address and port. The
// stack's owner adds and removes; any goroutine looks up. It holds up to
// maxInner × innerPorts sessions, 524,280.
type slots struct {
	pages [maxInner]atomic.Pointer[slotPage]
	used  int      // addresses with a page
	fresh uint32   // ports of the last page that were handed out at least once
	free  []slotID // to be handed out
	done  []slotID // freed since free was filled: an inner port rests before it is used again
	count int
}

type slotPage [1 << 16]atomic.Pointer[Conn]

func (s *slots) at(id slotID) *Conn {
	if inner := id >> 16; inner < maxInner {
		if page := s.pages[inner].Load(); page != nil {
			return page[id.port()].Load()
		}
	}
	return nil
}

// put finds a slot for c. When it needs one more inner address, it calls
// newInner first. It reports false when all slots are in use.
func (s *slots) put(c *Conn, newInner func(last byte) error) (bool, error) {
	if len(s.free) == 0 && (s.used == 0 || s.fresh == innerPorts) {
		s.free, s.done = s.done, s.free
	}
	if len(s.free) == 0 {
		switch {
		case s.used > 0 && s.fresh < innerPorts:
		case s.used == maxInner:
			return false, nil
		default:
			if err := newInner(slotID(s.used << 16).inner()); err != nil {
				return false, err
			}
			s.pages[s.used].Store(&slotPage{})
			s.used++
			s.fresh = 0
		}
		s.fresh++ // port 0 is none
		s.free = append(s.free, slotID(s.used-1)<<16|slotID(s.fresh))
	}
	c.slot = s.free[len(s.free)-1]
	s.free = s.free[:len(s.free)-1]
	s.pages[c.slot>>16].Load()[c.slot.port()].Store(c)
	s.count++
	return true, nil
}

func (s *slots) remove(c *Conn) {
	s.pages[c.slot>>16].Load()[c.slot.port()].Store(nil)
	s.done = append(s.done, c.slot)
	s.count--
}

// all returns the conns that are there.
func (s *slots) all() (conns []*Conn) {
	for i := range s.pages {
		page := s.pages[i].Load()
		if page == nil {
			continue
		}
		for j := range page {
			if c := page[j].Load(); c != nil {
				conns = append(conns, c)
			}
		}
	}
	return conns
}

// outwardTable finds a stack's sessions by their outward tuple.
type outwardTable struct {
	mu    sync.Mutex
	conns map[tupleKey]*Conn
}

func (t *outwardTable) find(k tupleKey) *Conn {
	t.mu.Lock()
	c := t.conns[k]
	t.mu.Unlock()
	return c
}

func (t *outwardTable) put(k tupleKey, c *Conn) {
	t.mu.Lock()
	t.conns[k] = c
	t.mu.Unlock()
}

func (t *outwardTable) remove(k tupleKey) {
	t.mu.Lock()
	delete(t.conns, k)
	t.mu.Unlock()
}

// readyList collects the conns with news and wakes the owner.
type readyList struct {
	wake  chan struct{} // capacity 1
	mu    sync.Mutex
	conns []*Conn
	spare []*Conn
}

func (r *readyList) push(c *Conn) {
	r.mu.Lock()
	r.conns = append(r.conns, c)
	first := len(r.conns) == 1
	r.mu.Unlock()
	if first {
		r.signal()
	}
}

func (r *readyList) signal() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// take returns what was pushed since the last call, lent until the next one.
func (r *readyList) take() []*Conn {
	clear(r.spare)
	r.mu.Lock()
	r.conns, r.spare = r.spare[:0], r.conns
	r.mu.Unlock()
	return r.spare
}
