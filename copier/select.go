package copier

import (
	"flowtwin/copier/report"
	"flowtwin/internal/http1"
	"flowtwin/internal/packet"
)

// A sieve selects requests of HTTP/1 on one shard: what the rules do not select is
// left out of the flow. A shard that copies everything has none.
//
// The bytes of a flow come here in order (see send), are cut into requests, and
// what remains of a segment goes on as one. The head of a request that came in
// several segments is held until it is complete. A flow has no session before the
// first request that is selected: until then it waits (see waiting.go).
type sieve struct {
	rules *http1.Rules
	pass  bool // what is no HTTP/1 is copied as it is

	cuts  []cut
	free  uint32 // the one last given back, plus one
	heads heads
	held  report.Count // in all heads

	// Of the segment at hand.
	start packet.Seq // of its first byte
	req   http1.Request
	run   []byte        // what remains of it, as long as that lies together
	out   []byte        // and before run, what does not
	entry int           // where in both the first request begins, -1 none does
	units uint64        // segments that are at hand: it, and those whose bytes were held
	drop  report.Reason // why some of it is dropped
	done  bool          // a request that is selected ends in it
}

// A cut is what a sieve knows of a flow. It holds no pointers.
type cut struct {
	cursor http1.Cursor
	next   packet.Seq // behind the flow's latest bytes
	hold   uint32     // the beginning of a head, in heads; 0 none
	segs   uint32     // segments that are held
	link   uint32     // the next free one, plus one

	keep bool // the request at hand is selected
	lost bool // bytes are missing: the next request is looked for
	any  bool // there was a request
	bad  bool // what comes is no HTTP/1

	time int64 // when the latest bytes were captured
	seen answers
}

// newSieve returns the sieve of one of n shards, nil without rules.
func newSieve(rules *http1.Rules, pass bool, n int) *sieve {
	if rules == nil {
		return nil
	}
	return &sieve{rules: rules, pass: pass, heads: heads{room: headBytes / n}}
}

// of returns the cut of a flow that has one.
func (f *sieve) of(r *record) *cut { return &f.cuts[r.cut-1] }

// screen gives a flow whose handshake is done, or which is adopted, a cut.
func (s *shard) screen(r *record) {
	f := s.sieve
	if r.cut = f.free; r.cut != 0 {
		f.free = f.of(r).link
	} else {
		f.cuts = append(f.cuts, cut{})
		r.cut = uint32(len(f.cuts))
	}
	*f.of(r) = cut{next: r.iss.Add(1)}
}

// takes reports whether a connection that began before the copier may be followed
// from b on.
func (f *sieve) takes(b []byte) bool { return f == nil || f.pass || http1.Resumes(b) }

// adoptLater makes an observed flow wait for a request that is selected.
func (s *shard) adoptLater(slot uint32, r *record) {
	s.remove(&s.observed, slot)
	s.book.ParkObserved()
	s.screen(r)
	r.late = true
	s.wait(slot, r, report.HTTPUnselected)
}

// unscreen takes a flow's cut back, and drops what is held of it.
func (s *shard) unscreen(r *record, why report.Reason) {
	if r.cut == 0 {
		return
	}
	f := s.sieve
	c := f.of(r)
	r.blurred = c.seen.vague
	s.unhold(c, why)
	*c = cut{link: f.free}
	f.free, r.cut = r.cut, 0
}

// unhold drops what is held of a flow.
func (s *shard) unhold(c *cut, why report.Reason) {
	if c.hold == 0 {
		return
	}
	n := report.Count{Segments: uint64(c.segs), Bytes: uint64(len(s.sieve.heads.held(c.hold)))}
	s.book.Client.Dropped[why].Plus(n)
	s.sieve.release(c)
}

// release gives the buffer of a head back.
func (f *sieve) release(c *cut) {
	f.held.Minus(report.Count{Segments: uint64(c.segs), Bytes: uint64(len(f.heads.held(c.hold)))})
	f.heads.drop(c.hold)
	c.hold, c.segs = 0, 0
}

// sift is send for a flow that is cut.
func (s *shard) sift(slot uint32, r *record, seen uint64, time int64, payload []byte) bool {
	f, c := s.sieve, s.sieve.of(r)
	if r.proto == protoNew {
		s.meets(r, seen, payload)
	}
	at := r.asm.Next().Add(-len(payload))
	if c.next != at {
		s.unhold(c, report.CaptureHole)
		c.cursor, c.lost, c.keep = http1.Cursor{}, true, false
	}
	c.next = r.asm.Next()
	if c.lost && (seen <= r.told || !http1.Resumes(payload)) {
		s.drop(report.CaptureHole, len(payload))
		return true
	}
	c.lost, c.time = false, time
	r.less += c.seen.hear(c, seen)
	f.take(at)
	why, rest := s.divide(r, c, payload)
	if r.cut == 0 {
		return s.send(slot, r, seen, time, payload)
	}
	r.told = seen
	s.book.Client.Dropped[why].Bytes += uint64(rest)
	if why != report.None {
		f.drop = why
	}
	if !s.emit(slot, r, c) {
		return false
	}
	if why != report.None {
		s.cease(slot, r, why)
		return false
	}
	return true
}

// take makes ready for a segment.
func (f *sieve) take(start packet.Seq) {
	f.start = start
	f.run, f.out = nil, f.out[:0]
	f.entry, f.units, f.drop, f.done = -1, 1, report.None, false
}

// divide cuts a segment. When the flow ends with it, it returns why, and how many
// bytes are left.
func (s *shard) divide(r *record, c *cut, b []byte) (why report.Reason, rest int) {
	f := s.sieve
	for len(b) > 0 {
		from, old, taken := b, 0, 0
		if c.hold != 0 {
			old = len(f.heads.held(c.hold))
			taken = min(len(b), http1.MaxHead-old)
			if !f.hold(c, b[:taken]) {
				return report.HTTPHeads, s.overrun(c, len(b))
			}
			from = f.heads.held(c.hold)
		}
		boundary := c.cursor.Boundary()
		n, e := c.cursor.Next(from, &f.req)
		switch e {
		case http1.More:
			if old == 0 && !f.hold(c, b) {
				return report.HTTPHeads, s.overrun(c, len(b))
			}
			return report.None, 0
		case http1.Bad:
			if s.deviates(r, c, boundary) {
				return report.None, 0 // it is not cut any more
			}
			if !c.keep {
				return report.HTTPUnparsed, len(b) - taken
			}
			n = len(from)
			s.part(c, from, old > 0)
		case http1.Head:
			s.head(c, from[:n], old > 0)
		default:
			s.part(c, from[:n], old > 0)
		}
		f.done = f.done || c.keep && e != http1.Opaque && c.cursor.Boundary()
		if b = b[n-old:]; old > 0 {
			f.units += uint64(c.segs)
			f.release(c)
		}
	}
	return report.None, 0
}
