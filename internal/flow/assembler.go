package flow

import "flowtwin/internal/packet"

// Meta goes with a segment through the assembler.
type Meta struct {
	Seen uint64 // answer bytes that the client had acknowledged when it sent the segment
	Time int64  // when it came, by the clock that timeouts are counted in

	Captured int64  // capture time, ns since the epoch
	Flow     uint32 // the flow's number, for [Store.Waiting]
}

// Verdict says what became of a segment.
type Verdict uint8

// What becomes of a segment.
const (
	InOrder   Verdict = iota // it begins, or once trimmed begins, where the stream stood
	Early                    // it lies ahead of a gap and was stored
	Old                      // all of it is known: a retransmission or a duplicate
	StoreFull                // refused: it lies ahead of a gap and there is no room to store it
	Outside                  // refused: farther from the stream than any window, so of another connection or forged
)

// String returns the verdict as a metric label.
func (v Verdict) String() string {
	switch v {
	case InOrder:
		return "in_order"
	case Early:
		return "early"
	case Old:
		return "old"
	case StoreFull:
		return "store_full"
	case Outside:
		return "outside"
	}
	return "unknown"
}

// maxWindow is the largest window TCP can have (RFC 7323, 2.3). A sequence
// number farther than this from the stream's is none of the stream's.
const maxWindow = 1 << 30

// An Assembler puts the bytes that one client sent in order, each once. Where
// segments overlap, the content captured first stands.
//
// It is a small value without pointers, to be part of a table's record: early
// segments are in the [Store] that is passed in, which must be the same one every
// time. Before an Assembler is thrown away, Drop gives back what it stored. The
// zero value has not started.
type Assembler struct {
	next  packet.Seq
	state uint32 // notStarted, nothingStored, or its queue in the store + firstQueue - 1
}

const (
	notStarted = iota
	nothingStored
	firstQueue // state of queue 1, the first there is
)

// Start begins the stream at next, the client's initial sequence number plus one
// for a new connection. Nothing may be stored.
func (a *Assembler) Start(next packet.Seq) {
	if a.state >= firstQueue {
		panic("flow: Assembler started while it stores segments")
	}
	*a = Assembler{next: next, state: nothingStored}
}

// Advance moves the stream on to next, up to the first stored segment at most.
func (a *Assembler) Advance(next packet.Seq) {
	if a.state == notStarted {
		panic("flow: Advance before Start")
	}
	a.next = next
}

// Rename gives the flow another number, for [Store.Waiting].
func (a *Assembler) Rename(st *Store, flow uint32) {
	if a.state >= firstQueue {
		a.queue(st).flow = flow
	}
}

// Started reports whether the stream's beginning is known.
func (a *Assembler) Started() bool { return a.state != notStarted }

// Next returns rcvNxt: the sequence number of the first byte not yet returned.
func (a *Assembler) Next() packet.Seq { return a.next }

// Add offers a segment with at least one byte of payload. When it is InOrder,
// fresh are the bytes to pass on: the caller does so, then calls Pop until it
// reports false. Otherwise fresh is nil.
//
// Add borrows payload until it returns. fresh aliases it, or the store (when
// stored bytes overlap it), and is lent until the next call on st.
func (a *Assembler) Add(st *Store, seq packet.Seq, payload []byte, m Meta) (fresh []byte, v Verdict) {
	if seq == a.next && a.state == nothingStored {
		a.next = seq.Add(len(payload))
		return payload, InOrder
	}
	return a.addSlow(st, seq, payload, m)
}

func (a *Assembler) addSlow(st *Store, seq packet.Seq, payload []byte, m Meta) ([]byte, Verdict) {
	if a.state == notStarted {
		panic("flow: Add before Start")
	}
	ahead := seq.Diff(a.next)
	if ahead > maxWindow || ahead < -maxWindow {
		return nil, Outside
	}
	if len(payload) == 0 {
		return nil, Old
	}
	p := piece{seq: seq, data: payload}
	if ahead < 0 {
		p.trimFront(a.next)
	}
	var q *queue
	if a.state >= firstQueue {
		q = a.queue(st)
		p.fit(st, q)
	}
	switch {
	case len(p.data) == 0:
		st.tally.OldSegments++
	case p.seq == a.next:
		a.next = p.seq.Add(len(p.data))
		if p.covered > 0 {
			p.merge(st, q)
			a.settle(st)
		}
		st.count(&p, payload)
		return p.data, InOrder
	default:
		if !a.store(st, &p, m) {
			return nil, StoreFull
		}
		st.count(&p, payload)
		return nil, Early
	}
	st.count(&p, payload)
	return nil, Old
}

// queue returns a's queue, or queue 0, which stays empty, when nothing is stored.
func (a *Assembler) queue(st *Store) *queue { return &st.queues[a.state-firstQueue+1] }

// store copies p into the store, or reports that there is no room.
func (a *Assembler) store(st *Store, p *piece, m Meta) bool {
	if !st.room(a.queue(st), len(p.data)) {
		return false
	}
	if a.state == nothingStored {
		a.state = st.queue(m.Flow) + firstQueue - 1
		a.queue(st).since = m.Time
	}
	q := a.queue(st)
	id := st.node(q, len(p.data))
	n := &st.nodes[id]
	n.seq, n.meta = p.seq, m
	copy(n.data, p.data)
	if p.covered > 0 {
		oldest := p.overlay(st, q, n.data)
		n.meta.Seen, n.meta.Time = min(m.Seen, oldest.Seen), min(m.Time, oldest.Time)
		n.meta.Captured = min(m.Captured, oldest.Captured)
	}
	at, _ := st.seek(q, p.seq)
	st.link(&at, id)
	q.since = min(q.since, n.meta.Time)
	return true
}

// settle gives the queue back once it is empty, and else moves its age on.
func (a *Assembler) settle(st *Store) {
	q := a.queue(st)
	if id := q.first[0]; id != 0 {
		q.since = max(q.since, st.nodes[id].meta.Time)
		st.requeue(a.state - firstQueue + 1) // it gets on: others wait longer
		return
	}
	st.releaseQueue(a.state - firstQueue + 1)
	a.state = nothingStored
}

// Pop returns the next stored segment, less what was known of it, if it is in
// order now; its payload is lent until the next call on st.
func (a *Assembler) Pop(st *Store) (payload []byte, m Meta, ok bool) {
	if a.state < firstQueue {
		return nil, Meta{}, false
	}
	q := a.queue(st)
	id := q.first[0]
	n := &st.nodes[id]
	if n.seq != a.next {
		return nil, Meta{}, false
	}
	payload, m = n.data[:len(n.data):len(n.data)], n.meta
	a.next = n.end()
	st.popFront(q)
	a.settle(st)
	return payload, m, true
}

// Gap returns how many bytes are missing before the first stored segment; ok is
// false when none is stored.
func (a *Assembler) Gap(st *Store) (missing int, ok bool) {
	if a.state < firstQueue {
		return 0, false
	}
	return st.nodes[a.queue(st).first[0]].seq.Diff(a.next), true
}

// Oldest returns since when a segment has been waiting in the store: the capture
// time of the oldest one, or of a younger one when others before it have been
// popped, so that a timeout counted from it is never too early. ok is false when
// none is stored.
func (a *Assembler) Oldest(st *Store) (since int64, ok bool) {
	if a.state < firstQueue {
		return 0, false
	}
	return a.queue(st).since, true
}

// Drop gives up all stored segments and returns what that was.
func (a *Assembler) Drop(st *Store) (segments, size int) {
	if a.state < firstQueue {
		return 0, 0
	}
	q := a.queue(st)
	for q.first[0] != 0 {
		segments++
		size += len(st.nodes[q.first[0]].data)
		st.popFront(q)
	}
	a.settle(st)
	return segments, size
}

// Passed reports whether ack, from the server, acknowledges bytes beyond Next:
// bytes that the capture missed for good, since their sender will not send them
// again. The number that a FIN takes is the caller's to leave out.
func (a *Assembler) Passed(ack packet.Seq) bool {
	n := ack.Diff(a.next)
	return a.state != notStarted && n > 0 && n <= maxWindow
}
