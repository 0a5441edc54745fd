package responder

import (
	"sync"

	"flowtwin/tunnel/frame"
)

// headersFlush is how many bytes of headers a strand gathers before they are
// returned without waiting for the end of the worker's round.
const headersFlush = 16 << 10

// taps tells which session a packet of the target belongs to, and gathers the
// headers. The TUN's readers and the worker meet here, under one lock per packet.
//
// A session is named by the place of its entry and the place's generation, which
// grows whenever the entry is given up: a late packet never reaches another flow.
type taps struct {
	mu      sync.Mutex
	entries []tapEntry
	free    []uint32
	tapped  []*strand // with headers that are not returned yet
}

type tapEntry struct {
	session    *session
	generation uint32
}

// enter gives s its name.
func (t *taps) enter(s *session) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	var i uint32
	if n := len(t.free); n > 0 {
		i = t.free[n-1]
		t.free = t.free[:n-1]
	} else {
		i = uint32(len(t.entries))
		t.entries = append(t.entries, tapEntry{generation: 1})
	}
	e := &t.entries[i]
	e.session = s
	s.user = uint64(e.generation)<<32 | uint64(i)
	return s.user
}

// leaveLocked forgets the name of s.
func (t *taps) leaveLocked(s *session) {
	if s.user == 0 {
		return
	}
	i := uint32(s.user)
	e := &t.entries[i]
	e.session = nil
	e.generation++
	if e.generation == 0 {
		e.generation = 1
	}
	t.free = append(t.free, i)
	s.user = 0
}

// tap takes the headers of one packet; it is the stack's netstack.Tap.
func (t *taps) tap(user uint64, time int64, headers []byte, _ int) {
	if user == 0 {
		return // a copy's: they are not returned
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	i := uint32(user)
	if int(i) >= len(t.entries) {
		return
	}
	e := &t.entries[i]
	if e.session == nil || e.generation != uint32(user>>32) {
		return
	}
	s := e.session
	st := s.strand
	st.headers = frame.AppendTargetHeader(st.headers, s.flow, &frame.TargetHeader{Time: time, Headers: headers})
	st.who = append(st.who, s)
	s.returned++
	if !st.tapped {
		st.tapped = true
		t.tapped = append(t.tapped, st)
	}
	if len(st.headers) >= headersFlush {
		st.returnHeadersLocked()
	}
}

// returnHeadersLocked gives the strand's headers to the lane. Headers that the
// lane has no room for are lost, and counted with their sessions.
func (st *strand) returnHeadersLocked() {
	if len(st.headers) == 0 {
		return
	}
	if !st.lane.io.Return(st.headers, false, false) {
		for _, s := range st.who {
			s.returned--
			s.missed++
		}
	}
	st.headers = st.headers[:0]
	clear(st.who)
	st.who = st.who[:0]
}
