package responder

import (
	"sync"
	"sync/atomic"
	"time"

	"flowtwin/responder/replay"
	"flowtwin/tunnel/frame"
)

const (
	// workerBatches is how many batches wait for a worker; a lane's reader that
	// finds no room waits, and with it its lane.
	workerBatches = 16
	// roundBatches is how many are taken before the conns get their turn.
	roundBatches = 4
	tickEvery    = time.Second
)

// A worker runs the sessions of one shard, on one goroutine: it takes the frames
// that the lanes' readers sort out for it, the news of its stack and its timers,
// and gives the returns to the lanes.
type worker struct {
	index   int
	stack   stack
	replay  *replay.Shard
	batches chan *batch
	begun   time.Time
	taps    taps
	open    *atomic.Int64 // sessions of the responder

	now     int64 // of this round: never steps, begins at the wall clock
	wall    int64 // what to add to now to have the wall clock
	ready   []*session
	touched []*strand
	tellAt  int64                // when a strand may have to be told what has moved, 0 none
	strands map[*strand]struct{} // of the lanes that are connected
	drained bool                 // no session begins any more
	book    Book

	mu        sync.Mutex
	published Book // what the status shows
}

func newWorker(index int, st stack, cfg replay.Config, open *atomic.Int64) *worker {
	w := &worker{
		index: index, stack: st, batches: make(chan *batch, workerBatches), begun: time.Now(),
		open: open, strands: make(map[*strand]struct{}),
	}
	w.replay = replay.NewShard(cfg, w)
	w.clock()
	st.SetTap(w.taps.tap)
	return w
}

// clock reads the time for a round.
func (w *worker) clock() { w.now = w.begun.UnixNano() + int64(time.Since(w.begun)) }

// run works until stop is closed. The sessions must be over by then.
func (w *worker) run(stop <-chan struct{}) {
	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	armed := int64(0)
	for {
		select {
		case b := <-w.batches:
			w.clock()
			w.take(b)
		case <-w.stack.Wake():
			w.clock()
		case <-timer.C:
			armed = 0
			w.clock()
		case <-tick.C:
			w.clock()
			w.tick()
		case <-stop:
			w.publish()
			return
		}
		w.round()
		if next := sooner(w.replay.NextTimer(), w.tellAt); next != 0 && (armed == 0 || next < armed) {
			timer.Reset(time.Duration(max(next-w.now, int64(100*time.Microsecond))))
			armed = next
		}
	}
}

// round does what is waiting.
func (w *worker) round() {
more:
	for range roundBatches {
		select {
		case b := <-w.batches:
			w.take(b)
		default:
			break more
		}
	}
	w.ready = w.stack.Ready(w.ready[:0])
	for _, s := range w.ready {
		s.News(w.now)
		s.look()
	}
	clear(w.ready)
	w.replay.Expire(w.now)
	w.replay.Feed(w.now)
	w.remind()
	w.flush()
}

// take carries out the frames of a batch.
func (w *worker) take(b *batch) {
	st := b.strand
	var stray count
	for _, it := range b.items {
		if it.fan != nil {
			w.spread(it.fan, it.kind, b.data[it.at:it.at+it.len])
			continue
		}
		s := it.session
		switch it.kind {
		case frame.TypeOpen:
			w.start(s)
		case frame.TypeData:
			d, ok := frame.ParseData(b.data[it.at : it.at+it.len])
			switch {
			case !ok: // the reader lets none through
			case s.Over():
				stray.add(len(d.Payload))
			default:
				s.Data(&d, w.now)
			}
		case frame.TypeFin:
			if e, ok := frame.ParseEnd(b.data[it.at : it.at+it.len]); ok {
				s.Fin(e.Seen, e.Second, w.now)
			}
		case frame.TypeReset:
			if e, ok := frame.ParseEnd(b.data[it.at : it.at+it.len]); ok {
				s.Reset(e.Seen, w.now)
			}
		case frame.TypeAbort:
			s.Abort(w.now)
		default: // the reader lets no other through
		}
	}
	b.host.stray.add(&stray)
	switch b.what {
	case whatFrames:
	case whatBye:
		st.said = true
		w.hurry(st)
		w.touch(st)
	case whatGone:
		st.gone = true
		w.cut(st, frame.ClosedAborted)
		w.touch(st)
	case whatDrain:
		w.drained = true
		w.cutAll(frame.ClosedDrain)
		close(b.done)
	case whatStop:
		w.cutAll(frame.ClosedPaused)
		close(b.done)
	case whatTell:
		w.tick()
		close(b.done)
	}
	b.release()
}

// start begins a session.
func (w *worker) start(s *session) {
	st := s.strand
	s.Owner = s
	st.link(s)
	w.strands[st] = struct{}{}
	w.book.Opened++
	if s.forgone > 0 {
		w.forgo(s)
	}
	w.dial(s)
}

// dial begins the session's connection, or refuses it.
func (w *worker) dial(s *session) {
	// What a stopped responder's readers have refused waits for its client's end, so
	// that all its bytes have the stop for a reason.
	if how := w.bars(s.strand); how != 0 && (s.refused == 0 || w.drained) {
		w.replay.Refuse(&s.Session, how)
		s.Cut(how, w.now) // nobody waits for its client's end
		return
	}
	if s.refused == 0 {
		var user uint64 // a copy has none: nothing of its target is returned
		if s.number == 0 {
			user = w.taps.enter(s)
		}
		c, err := w.stack.Dial(s.lease, s.target, user, s)
		s.dialled = true
		if err == nil {
			s.conn, s.outward = c, s.lease.Client
			w.replay.Start(&s.Session, c, s.baseSeen, w.now)
			s.SetRTT(s.lease.RTT)
			if s.number == 0 && s.place != nil && !s.place.gating.begins() {
				s.Ungate()
			}
			return
		}
		s.refused = frame.ClosedNoTuple
		w.book.DialErrors++
	}
	w.replay.Refuse(&s.Session, s.refused)
}

// bars says why no session begins, 0 if they do.
func (w *worker) bars(st *strand) frame.CloseHow {
	switch {
	case w.drained:
		return frame.ClosedDrain
	case st.lane.host.stopped.Load():
		return frame.ClosedPaused
	}
	return 0
}

// cutAll ends all sessions.
func (w *worker) cutAll(how frame.CloseHow) {
	for st := range w.strands {
		w.cut(st, how)
	}
	w.flush()
}

// cut ends all sessions of a strand.
func (w *worker) cut(st *strand, how frame.CloseHow) {
	for s := st.first; s != nil; {
		next := s.next
		s.Cut(how, w.now)
		s = next
	}
}

// hurry has the sessions of a strand come to their end: its copier has said Bye
// and waits for the accounts. Sessions whose client's end has not come would wait
// for it for ever.
func (w *worker) hurry(st *strand) {
	for s := st.first; s != nil; {
		next := s.next
		s.Hurry(w.now)
		s = next
	}
}

// touch has the strand looked at by flush.
func (w *worker) touch(st *strand) {
	if !st.touched {
		st.touched = true
		w.touched = append(w.touched, st)
	}
}

// Established implements replay.Listener.
func (w *worker) Established(rs *replay.Session, now int64) {
	s := sessionOf(rs)
	if s.number > 0 {
		s.strand.copies.Established++
		return
	}
	w.book.Established++
	s.strand.must = frame.AppendEstablished(s.strand.must, s.flow, &frame.Established{
		Time: now + w.wall, Connect: uint32(s.conn.Connect().Microseconds()), Client: s.outward,
	})
	w.touch(s.strand)
}

// Redial implements replay.Listener.
func (w *worker) Redial(rs *replay.Session) replay.Conn {
	s := sessionOf(rs)
	l, err := s.strand.lane.host.net.Renew(s.lease)
	if err != nil {
		return nil // the network counts it
	}
	c, err := w.stack.Dial(l, s.target, s.user, s)
	if err != nil {
		w.book.DialErrors++
		return nil
	}
	s.conn, s.outward = c, l.Client
	return c
}

// Gate implements replay.Listener.
func (w *worker) Gate(rs *replay.Session, news replay.GateNews) {
	s := sessionOf(rs)
	if s.number > 0 || s.place == nil {
		return
	}
	w.book.Gate[news]++
	s.place.gateNews(news)
}

// Accepted implements replay.Listener.
func (w *worker) Accepted(rs *replay.Session) uint64 {
	if p := sessionOf(rs).place; p != nil {
		return p.accepted.Load()
	}
	return 0
}

// Reached implements replay.Listener.
func (w *worker) Reached(rs *replay.Session, accepted bool) {
	if p := sessionOf(rs).place; p != nil {
		p.reached(accepted)
	}
}

// Parted implements replay.Listener.
func (w *worker) Parted(rs *replay.Session, how frame.CloseHow) {
	if sessionOf(rs).number == 0 {
		w.book.Parted[how]++
	}
}

// Wrote implements replay.Listener.
func (w *worker) Wrote(rs *replay.Session, captured, now int64) {
	s := sessionOf(rs)
	if s.number > 0 {
		return // copies are counted when they end
	}
	s.strand.lag.add(now+w.wall-captured, 1)
	w.moved(s, frame.Moved{Segments: 1})
}

// Moved implements replay.Listener.
func (w *worker) Moved(rs *replay.Session, delivered, absorbed uint64) {
	s := sessionOf(rs)
	if s.number > 0 {
		return
	}
	s.strand.moved.delivered += delivered
	s.strand.moved.absorbed += absorbed
	if delivered > 0 {
		w.moved(s, frame.Moved{Bytes: delivered})
	}
}

// Closed implements replay.Listener.
func (w *worker) Closed(rs *replay.Session, c frame.Closed, _ int64) {
	s := sessionOf(rs)
	s.acct = c
	if s.number == 0 {
		w.moved(s, frame.Moved{
			Segments: c.DeliveredSegments + c.DroppedSegments - s.moved.Segments,
			Bytes:    c.DeliveredBytes + c.DroppedBytes - s.moved.Bytes,
		})
		w.book.Settled += rs.Settled()
	}
	s.conn = nil
	if s.admitted && !s.dialled {
		s.strand.lane.host.net.Release(s.lease)
	}
	s.strand.unlink(s)
	s.strand.ended = append(s.strand.ended, s)
	w.touch(s.strand)
}

// sessionOf returns the session that a replay.Session is part of.
func sessionOf(rs *replay.Session) *session {
	s, ok := rs.Owner.(*session)
	if !ok {
		panic("responder: session without owner")
	}
	return s
}

// followWall takes the wall clock's steps over.
func (w *worker) followWall() { w.wall = time.Now().UnixNano() - w.now }
