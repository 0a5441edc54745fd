package responder

import (
	"fmt"

	"flowtwin/responder/replay"
	"flowtwin/tunnel/frame"
)

// A CopyBook counts the copies of flows: the sessions beside each flow's own. What
// was given to one that is open is neither delivered nor dropped yet.
type CopyBook struct {
	Opened      uint64 `json:"opened"` // opened: asked for
	Established uint64 `json:"established"`
	Open        uint64 `json:"open"`
	Closed      Hows   `json:"closed"`

	GivenBytes        uint64 `json:"given_bytes"`
	GivenSegments     uint64 `json:"given_segments"`
	DeliveredBytes    uint64 `json:"delivered_bytes"`
	DeliveredSegments uint64 `json:"delivered_segments"`
	DroppedBytes      uint64 `json:"dropped_bytes"`
	DroppedSegments   uint64 `json:"dropped_segments"`
	AnswerBytes       uint64 `json:"answer_bytes"`
}

// add adds o, which may hold differences.
func (b *CopyBook) add(o *CopyBook) {
	b.Opened += o.Opened
	b.Established += o.Established
	b.Open += o.Open
	for i, n := range o.Closed {
		b.Closed[i] += n
	}
	b.GivenBytes += o.GivenBytes
	b.GivenSegments += o.GivenSegments
	b.DeliveredBytes += o.DeliveredBytes
	b.DeliveredSegments += o.DeliveredSegments
	b.DroppedBytes += o.DroppedBytes
	b.DroppedSegments += o.DroppedSegments
	b.AnswerBytes += o.AnswerBytes
}

// close enters a copy's account.
func (b *CopyBook) close(c *frame.Closed) {
	b.Open--
	b.Closed[min(int(c.How), howCount-1)]++
	b.DeliveredBytes += c.DeliveredBytes
	b.DeliveredSegments += c.DeliveredSegments
	b.DroppedBytes += c.DroppedBytes
	b.DroppedSegments += c.DroppedSegments
	b.AnswerBytes += c.AnswerBytes
}

// frame returns what the copier is told.
func (b *CopyBook) frame() *frame.Copies {
	c := &frame.Copies{
		Opened: b.Opened, Established: b.Established, Open: b.Open,
		GivenBytes: b.GivenBytes, GivenSegments: b.GivenSegments,
		DeliveredBytes: b.DeliveredBytes, DeliveredSegments: b.DeliveredSegments,
		DroppedBytes: b.DroppedBytes, DroppedSegments: b.DroppedSegments, AnswerBytes: b.AnswerBytes,
	}
	for i, n := range b.Closed {
		if i >= frame.CopiesHows {
			i = 0
		}
		c.Closed[i] += n
	}
	return c
}

// check names the sums that do not add up. All copies must be over.
func (b *CopyBook) check() (wrong []string) {
	var closed uint64
	for _, n := range b.Closed {
		closed += n
	}
	for _, c := range []struct {
		what        string
		whole, part uint64
	}{
		{"sessions opened, closed", b.Opened, closed},
		{"open sessions, none", b.Open, 0},
		{"bytes given, delivered or dropped", b.GivenBytes, b.DeliveredBytes + b.DroppedBytes},
		{"segments given, delivered or dropped", b.GivenSegments, b.DeliveredSegments + b.DroppedSegments},
	} {
		if c.whole != c.part {
			wrong = append(wrong, fmt.Sprintf("copies: %s: %d are not %d", c.what, c.whole, c.part))
		}
	}
	return wrong
}

// spread carries out a frame for copies.
func (w *worker) spread(f *fan, t frame.Type, body []byte) {
	st := f.strand
	switch t {
	case frame.TypeOpen:
		w.strands[st] = struct{}{}
		f.copies = w.replay.NewCopies(w.dialCopy)
		for _, s := range f.sessions {
			s.Owner = s
			st.link(s)
			f.copies.Add(&s.Session, s.late)
		}
		st.copies.Opened += uint64(len(f.sessions))
		st.copies.Open += uint64(len(f.sessions))
		st.openCopies += len(f.sessions)
		f.copies.Open(w.now)
		if how := w.bars(st); how != 0 { // late ones would begin when it no longer does
			for _, s := range f.sessions {
				if !s.Over() {
					s.Cut(how, w.now)
				}
			}
		}
		f.sessions = nil
	case frame.TypeData:
		if d, ok := frame.ParseData(body); ok {
			n := uint64(f.copies.Data(&d, w.now))
			if len(d.Payload) > 0 {
				st.copies.GivenSegments += n
				st.copies.GivenBytes += n * uint64(len(d.Payload))
			}
		}
	case frame.TypeFin, frame.TypeReset:
		if e, ok := frame.ParseEnd(body); ok {
			f.copies.End(t, e.Seen, e.Second, w.now)
		}
	case frame.TypeAbort:
		f.copies.End(t, replay.SeenUnknown, false, w.now)
	default: // the reader lets no other through
	}
}

// dialCopy begins a copy when its time has come.
func (w *worker) dialCopy(rs *replay.Session, _ int64) { w.dial(sessionOf(rs)) }

// forgo enters the copies of s that were refused.
func (w *worker) forgo(s *session) {
	how := s.refused
	if how == 0 {
		how = frame.ClosedNoTuple
	}
	s.strand.copies.Opened += uint64(s.forgone)
	s.strand.copies.Closed[how] += uint64(s.forgone)
}
