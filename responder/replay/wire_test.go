package replay_test

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"flowtwin/internal/flow"
	"flowtwin/internal/packet"
	"flowtwin/responder/replay"
	"flowtwin/tunnel/frame"
)

// A link is a target's end of one connection.
type link struct {
	state  replay.ConnState
	got    []byte
	acked  uint64
	answer int
	fin    bool
	closed bool
	over   bool // released
}

func (l *link) State() replay.ConnState { return l.state }
func (l *link) Connect() time.Duration {
	if l.state == replay.ConnConnecting || l.state == replay.ConnRefused {
		return 0
	}
	return 1
}

func (l *link) Write(p []byte) (int, error) { l.got = append(l.got, p...); return len(p), nil }

func (l *link) Absorb() (int, bool, error) {
	n := l.answer
	l.answer = 0
	return n, l.fin, nil
}
func (l *link) CloseWrite() error { l.closed = true; return nil }
func (l *link) Acked() uint64     { return l.acked }
func (l *link) Abort()            { l.state = replay.ConnReset }
func (l *link) Release()          { l.over = true }

// A world is a client and its online server, the wire to the tap, the copier's
// assembler, and a session with a target that may close when it likes.
type world struct {
	t   *testing.T
	rng *rand.Rand
	now int64

	sent   []byte   // by the client
	turns  []uint64 // where its turns begin
	seen   uint64
	store  *flow.Store
	asm    flow.Assembler
	closes int // in how many of 100 steps the target closes

	shard   *replay.Shard
	session *replay.Session
	links   []*link
	given   replayed // to the session
	last    int64    // when
	closed  []frame.Closed
}

type replayed struct{ bytes, segments uint64 }

func (w *world) Redial(*replay.Session) replay.Conn {
	if w.rng.IntN(10) == 0 {
		return nil
	}
	l := &link{state: []replay.ConnState{replay.ConnEstablished, replay.ConnEstablished, replay.ConnConnecting, replay.ConnRefused}[w.rng.IntN(4)]}
	w.links = append(w.links, l)
	return l
}
func (w *world) Accepted(*replay.Session) uint64                     { return 0 }
func (w *world) Reached(*replay.Session, bool)                       {}
func (w *world) Parted(*replay.Session, frame.CloseHow)              {}
func (w *world) Gate(*replay.Session, replay.GateNews)               {}
func (w *world) Established(*replay.Session, int64)                  {}
func (w *world) Wrote(*replay.Session, int64, int64)                 {}
func (w *world) Moved(*replay.Session, uint64, uint64)               {}
func (w *world) Closed(_ *replay.Session, c frame.Closed, now int64) { w.closed = append(w.closed, c) }

// A segment is one of the client's on the wire.
type segment struct {
	seq     packet.Seq
	payload []byte
	seen    uint64
}

const iss = packet.Seq(0xffff_ff00) // the numbers wrap around

// client makes the client's segments, turn by turn, and what the wire makes of them
// before the tap: some twice, some late, some cut otherwise.
func (w *world) client(turns int) (wire []segment) {
	for k := range turns {
		if k > 0 {
			w.seen += 1 + w.rng.Uint64N(2000) // online answers
		}
		w.turns = append(w.turns, uint64(len(w.sent)))
		for range 1 + w.rng.IntN(4) {
			p := make([]byte, 1+w.rng.IntN(1460))
			for i := range p {
				p[i] = byte(w.rng.Uint32())
			}
			seq := iss.Add(1 + len(w.sent))
			wire = append(wire, segment{seq, p, w.seen})
			w.sent = append(w.sent, p...)
			// A retransmission, cut otherwise. It is of one turn: the server has answered
			// those before.
			if from := max(len(w.sent)-int(w.rng.Uint32()%3000), int(w.turns[k])); w.rng.IntN(5) == 0 {
				wire = append(wire, segment{iss.Add(1 + from), append([]byte(nil), w.sent[from:]...), w.seen})
			}
		}
	}
	for i := range wire {
		if j := i + w.rng.IntN(4); w.rng.IntN(6) == 0 && j < len(wire) {
			wire[i], wire[j] = wire[j], wire[i]
		}
	}
	return wire
}

// tap is what the copier does with a segment.
func (w *world) tap(s segment) {
	m := flow.Meta{Seen: s.seen, Time: w.now, Captured: w.now}
	p, verdict := w.asm.Add(w.store, s.seq, s.payload, m)
	if verdict != flow.InOrder {
		return
	}
	w.give(s.seen, p)
	for {
		p, m, ok := w.asm.Pop(w.store)
		if !ok {
			return
		}
		w.give(m.Seen, p)
	}
}

func (w *world) give(seen uint64, p []byte) {
	if len(p) == 0 {
		return
	}
	// A client that nobody answers begins anew behind a line and behind a pause.
	if at := w.given.bytes; at > 0 && seen == 0 && (w.sent[at-1] == '\n' || w.now-w.last >= int64(time.Second)) {
		i, _ := slices.BinarySearch(w.turns, at)
		w.turns = slices.Insert(w.turns, i, at)
	}
	w.last = w.now
	w.given.bytes += uint64(len(p))
	w.given.segments++
	w.session.Data(&frame.Data{Seen: seen, Time: w.now, Payload: p}, w.now)
}

// target lets one thing happen there.
func (w *world) target() {
	l := w.links[len(w.links)-1]
	if l.over || l.state > replay.ConnEstablished {
		return
	}
	switch n := w.rng.IntN(100); {
	case l.state == replay.ConnConnecting:
		l.state = []replay.ConnState{replay.ConnEstablished, replay.ConnEstablished, replay.ConnTimedOut}[w.rng.IntN(3)]
	case n < w.closes/2:
		l.state = replay.ConnReset
	case n < w.closes:
		l.fin = true
	case n < 60:
		l.answer += w.rng.IntN(3000)
	case n < 90:
		l.acked = uint64(len(l.got))
	}
	w.look(l)
}

func (w *world) look(l *link) {
	w.session.News(w.now)
	if l.fin && l.closed && !l.over && l.state == replay.ConnEstablished {
		l.acked, l.state = uint64(len(l.got)), replay.ConnFinished
		w.session.News(w.now)
	}
}

func (w *world) pass(d time.Duration) {
	w.now += int64(d)
	w.shard.Expire(w.now)
}

func newWorld(t *testing.T, seed uint64) *world {
	t.Helper()
	w := &world{t: t, rng: rand.New(rand.NewPCG(seed, 7)), now: int64(time.Hour), store: flow.NewStore(1 << 20)}
	w.closes = w.rng.IntN(30)
	w.asm.Start(iss.Add(1))
	w.shard = replay.NewShard(replay.Config{Reconnect: w.rng.IntN(4) > 0, GateOff: w.rng.IntN(4) == 0}, w)
	w.session = new(replay.Session)
	first := &link{state: replay.ConnConnecting}
	w.links = append(w.links, first)
	w.shard.Start(w.session, first, 0, w.now)
	return w
}

// finish lets the client end, and the target do what is left.
func (w *world) finish(whole bool) {
	if whole {
		w.session.Fin(w.seen, false, w.now)
	} else {
		w.session.Abort(w.now) // a hole that will not be filled
	}
	for range 100 {
		w.pass(10 * time.Second)
		l := w.links[len(w.links)-1]
		if l.over {
			continue
		}
		if l.state == replay.ConnConnecting {
			l.state = replay.ConnEstablished
		}
		l.fin = true
		w.look(l)
	}
}

// begins returns the turn from which on the client sent p, or false.
func (w *world) begins(p []byte, from int) (turn int, ok bool) {
	for ; from < len(w.turns); from++ {
		if bytes.HasPrefix(w.sent[w.turns[from]:], p) {
			return from, true
		}
	}
	return 0, false
}

func (w *world) check(seed uint64) {
	w.t.Helper()
	turn, distinct := 0, uint64(0)
	for i, l := range w.links {
		if len(l.got) == 0 {
			continue
		}
		at, ok := w.begins(l.got, turn)
		if !ok || i == 0 && at != 0 {
			w.t.Errorf("seed %d: connection %d got %d bytes that are of no turn, or behind the last one's", seed, i, len(l.got))
			return
		}
		turn = at
		distinct = max(distinct, w.turns[at]+uint64(len(l.got)))
	}
	if len(w.closed) != 1 {
		w.t.Errorf("seed %d: %d accounts, session is %s", seed, len(w.closed), w.session.State())
		return
	}
	c := w.closed[0]
	if c.DeliveredBytes+c.DroppedBytes != w.given.bytes || c.DeliveredSegments+c.DroppedSegments != w.given.segments {
		w.t.Errorf("seed %d: given %+v, account %+v", seed, w.given, c)
	}
	if c.DeliveredBytes > distinct || c.GapBytes > c.DroppedBytes || c.GapSegments > c.DroppedSegments || c.Resent > c.Reconnects+1+uint64(len(w.links)) {
		w.t.Errorf("seed %d: %d distinct bytes written, account %+v", seed, distinct, c)
	}
	if w.shard.Queued() != 0 || w.shard.NextTimer() != 0 {
		w.t.Errorf("seed %d: %d bytes and a timer at %d are left", seed, w.shard.Queued(), w.shard.NextTimer())
	}
}

// From the wire to the target, with losses, reorderings, retransmissions cut
// otherwise, and a target that closes early, refuses, and answers at other lengths:
// what each connection gets is what the client sent from the beginning of a turn on,
// none begins before the one before it, and every byte is accounted for once.
func TestFromTheWireToTheTarget(t *testing.T) {
	for seed := range uint64(3000) {
		w := newWorld(t, seed)
		wire := w.client(1 + w.rng.IntN(20))
		loss := -1
		if w.rng.IntN(4) == 0 {
			loss = w.rng.IntN(len(wire))
		}
		for i, s := range wire {
			if i != loss {
				w.tap(s)
			}
			for range w.rng.IntN(4) {
				w.target()
			}
			w.pass(time.Duration(w.rng.IntN(30)) * time.Millisecond)
			if w.rng.IntN(10) == 0 {
				w.pass(time.Duration(w.rng.IntN(2000)) * time.Millisecond)
			}
		}
		w.finish(w.asm.Next() == iss.Add(1+len(w.sent)))
		w.check(seed)
		if t.Failed() {
			return
		}
	}
}
