package flow

import (
	"bytes"

	"flowtwin/internal/packet"
)

// A piece is what is left of a segment while it is fitted between stored ones.
type piece struct {
	seq       packet.Seq
	data      []byte
	covered   int // stored segments that lie wholly inside it
	overlaid  int // their bytes
	conflicts int
}

func (p *piece) end() packet.Seq { return p.seq.Add(len(p.data)) }

// trimFront cuts off what lies before s.
func (p *piece) trimFront(s packet.Seq) {
	n := min(s.Diff(p.seq), len(p.data))
	p.seq, p.data = p.seq.Add(n), p.data[n:]
}

// fit trims p by what q holds in front and behind, and counts what q holds
// inside. What is left, if anything, begins with a new byte.
func (p *piece) fit(st *Store, q *queue) {
	_, id := st.seek(q, p.seq)
	if id == 0 {
		id = q.first[0]
	}
	for ; id != 0 && len(p.data) > 0; id = st.nodes[id].next[0] {
		n := &st.nodes[id]
		switch {
		case !n.seq.Before(p.end()):
			return
		case !n.end().After(p.seq):
			continue // ends before p
		}
		if p.differs(n) {
			p.conflicts++
		}
		switch {
		case !n.seq.After(p.seq):
			p.trimFront(n.end())
		case n.end().Before(p.end()):
			p.covered++
			p.overlaid += len(n.data)
		default:
			p.data = p.data[:n.seq.Diff(p.seq)]
		}
	}
}

// differs reports whether p and n, which overlap, say different things.
func (p *piece) differs(n *node) bool {
	mine, theirs := p.data, n.data
	if d := n.seq.Diff(p.seq); d > 0 {
		mine = mine[d:]
	} else {
		theirs = theirs[-d:]
	}
	k := min(len(mine), len(theirs))
	return !bytes.Equal(mine[:k], theirs[:k])
}

// merge makes p a copy with the stored bytes inside it in their place.
func (p *piece) merge(st *Store, q *queue) {
	st.scratch = append(st.scratch[:0], p.data...)
	p.data = st.scratch
	p.overlay(st, q, st.scratch)
}

// overlay moves the segments that p covers from q into dst, p's copy. It returns
// the smallest values of their metas.
func (p *piece) overlay(st *Store, q *queue, dst []byte) Meta {
	at, _ := st.seek(q, p.seq)
	oldest := st.nodes[*at[0]].meta
	for range p.covered {
		n := &st.nodes[*at[0]]
		copy(dst[n.seq.Diff(p.seq):], n.data)
		oldest.Seen, oldest.Time = min(oldest.Seen, n.meta.Seen), min(oldest.Time, n.meta.Time)
		oldest.Captured = min(oldest.Captured, n.meta.Captured)
		st.release(q, st.unlink(&at))
	}
	return oldest
}

// count settles the account of p, what is left of payload.
func (st *Store) count(p *piece, payload []byte) {
	st.tally.OldBytes += uint64(len(payload) - len(p.data) + p.overlaid)
	st.tally.OldSegments += uint64(p.covered)
	st.tally.Conflicts += uint64(p.conflicts)
}
