package responder

import (
	"time"

	"flowtwin/tunnel/frame"
)

// flush gives the lanes what a round has gathered for them: headers first, so that
// the account of a session comes behind all of its headers.
func (w *worker) flush() {
	w.taps.mu.Lock()
	for i, st := range w.taps.tapped {
		st.returnHeadersLocked()
		st.tapped = false
		w.taps.tapped[i] = nil
	}
	w.taps.tapped = w.taps.tapped[:0]
	for _, st := range w.touched {
		for _, s := range st.ended {
			w.taps.leaveLocked(s)
			s.acct.HeadersReturned, s.acct.HeadersDropped = s.returned, s.missed
		}
	}
	w.taps.mu.Unlock()

	for i, st := range w.touched {
		st.touched = false
		w.touched[i] = nil
		w.settle(st)
	}
	w.touched = w.touched[:0]
}

// settle returns the accounts of a strand, and ends it when nothing is to come.
func (w *worker) settle(st *strand) {
	last := false // of the copies: a copier that leaves waits for the news
	for i, s := range st.ended {
		st.ended[i] = nil
		if s.number == 0 {
			st.must = frame.AppendClosed(st.must, s.flow, &s.acct)
			w.book.close(&s.acct)
			// The copier may use the number again when it has the account.
			s.strand.lane.sessions.Add(-1)
		} else {
			st.copies.close(&s.acct)
			if st.openCopies--; st.openCopies == 0 {
				last = true
			}
		}
		if s.admitted {
			w.open.Add(-1)
		}
		s.over.Store(true)
	}
	st.ended = st.ended[:0]
	if last {
		w.report(st)
	}
	if len(st.must) > 0 && !st.gone {
		st.lane.io.Return(st.must, true, st.said)
	}
	st.must = st.must[:0]
	w.tell(st)
	if st.live == 0 && (st.said || st.gone) && !st.done {
		st.done = true
		w.report(st)
		delete(w.strands, st)
		st.lane.strandEnded()
	}
}

// movedEvery is how often a lane is told what has moved, at most. A copier that replays a
// recording may wait for it with nothing under way: then nothing else happens here, and
// what is worth it is told by a timer. It is far less than such a copier is ahead.
const (
	movedEvery    = 20 * time.Millisecond
	worthSegments = 32
	worthBytes    = 32 << 10
)

// moved notes that so much more of a session's data is done with.
func (w *worker) moved(s *session, m frame.Moved) {
	st := s.strand
	s.moved.Segments += m.Segments
	s.moved.Bytes += m.Bytes
	st.news.Segments += m.Segments
	st.news.Bytes += m.Bytes
	w.look(st)
}

// look has the lane told of its news: now, or when it is time.
func (w *worker) look(st *strand) {
	switch at := st.told + int64(movedEvery); {
	case w.now >= at:
		w.touch(st)
	case st.news.Segments >= worthSegments || st.news.Bytes >= worthBytes:
		w.tellAt = sooner(w.tellAt, at)
	}
}

// remind looks after the strands that had to wait.
func (w *worker) remind() {
	if w.tellAt == 0 || w.now < w.tellAt {
		return
	}
	w.tellAt = 0
	for st := range w.strands {
		w.look(st)
	}
}

// sooner returns the earlier of two times, of which 0 is none.
func sooner(a, b int64) int64 {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// tell tells the lane what has moved; what it does not take is told later.
func (w *worker) tell(st *strand) {
	over := st.live == 0 && st.said
	if st.gone || st.news == (frame.Moved{}) || w.now-st.told < int64(movedEvery) && !over {
		return
	}
	if st.lane.io.Return(frame.AppendMoved(nil, &st.news), false, false) {
		st.news, st.told = frame.Moved{}, w.now
	}
}

// tick publishes what the status and the lanes' progress show, once a second, and
// follows the wall clock.
func (w *worker) tick() {
	w.followWall()
	for st := range w.strands {
		w.report(st)
		w.touch(st)
	}
	w.publish()
}

// report hands the strand's figures to its lane.
func (w *worker) report(st *strand) {
	w.book.Delivered += st.moved.delivered
	w.book.Absorbed += st.moved.absorbed
	w.book.Copies.add(&st.copies)
	l := st.lane
	l.mu.Lock()
	defer l.mu.Unlock()
	l.moved.delivered += st.moved.delivered
	l.moved.absorbed += st.moved.absorbed
	st.moved = traffic{}
	l.copies.add(&st.copies)
	st.copies = CopyBook{}
	st.lag.moveTo(&l.lag)
}

func (w *worker) publish() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.published = w.book
	w.published.Queued = w.replay.Queued()
}
