package flow_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"flowtwin/internal/flow"
	"flowtwin/internal/packet"
)

// A model is what assemblers of several flows, sharing a store, must do, told
// byte by byte: each offset of a stream holds what the first segment not refused
// brought, and the stream is returned from its beginning without a break.
type model struct {
	tb      testing.TB
	store   *flow.Store
	streams []*stream
	step    int

	offered, returned, refused, dropped struct{ segments, bytes int }
}

type stream struct {
	asm   flow.Assembler
	start packet.Seq
	known map[int]byte // by offset, from next on
	next  int          // offset of the first byte not returned
}

func newModel(tb testing.TB, budget int, starts ...packet.Seq) *model {
	tb.Helper()
	m := &model{tb: tb, store: flow.NewStore(budget)}
	for _, start := range starts {
		s := &stream{start: start, known: map[int]byte{}}
		s.asm.Start(start)
		m.streams = append(m.streams, s)
	}
	return m
}

// add offers size bytes at offset, whose content no other segment has, and
// checks the verdict.
func (m *model) add(s *stream, offset, size int) {
	m.tb.Helper()
	m.step++
	m.offered.segments++
	m.offered.bytes += size
	payload := bytes.Repeat([]byte{byte(m.step)}, size)

	want, fresh := flow.Old, offset
	for ; fresh < offset+size; fresh++ {
		if _, known := s.known[fresh]; !known && fresh >= s.next {
			want = flow.Early
			if fresh == s.next {
				want = flow.InOrder
			}
			break
		}
	}
	got, v := s.asm.Add(m.store, s.start.Add(offset), payload, flow.Meta{Time: int64(m.step)})
	switch {
	case v == flow.StoreFull && want == flow.Early:
		m.refused.segments++
		m.refused.bytes += size
		return
	case v != want:
		m.tb.Fatalf("step %d: %d bytes at %d of a stream at %d: %v, want %v", m.step, size, offset, s.next, v, want)
	}
	for i := max(offset, s.next); i < offset+size; i++ {
		if _, known := s.known[i]; !known {
			s.known[i] = byte(m.step)
		}
	}
	if v == flow.InOrder {
		m.take(s, got)
	}
	for i := range payload {
		payload[i] = 0xee // the store must not lean on it
	}
}

// take checks bytes that were returned for s.
func (m *model) take(s *stream, got []byte) {
	m.tb.Helper()
	if len(got) == 0 {
		m.tb.Fatalf("step %d: a result without bytes", m.step)
	}
	for i, b := range got {
		if want, known := s.known[s.next+i]; !known || b != want {
			m.tb.Fatalf("step %d: byte %d is %d, want %d (known: %v)", m.step, s.next+i, b, want, known)
		}
		delete(s.known, s.next+i)
	}
	s.next += len(got)
	m.returned.segments++
	m.returned.bytes += len(got)
}

// pop takes all that is in order now and checks that no more is.
func (m *model) pop(s *stream) {
	m.tb.Helper()
	for {
		got, meta, ok := s.asm.Pop(m.store)
		if !ok {
			break
		}
		if meta.Time < 1 || meta.Time > int64(m.step) {
			m.tb.Fatalf("step %d: meta %+v", m.step, meta)
		}
		m.take(s, got)
	}
	if _, known := s.known[s.next]; known {
		m.tb.Fatalf("step %d: byte %d is stored and in order, but was not returned", m.step, s.next)
	}
}

func (m *model) drop(s *stream) {
	segments, size := s.asm.Drop(m.store)
	if size != len(s.known) {
		m.tb.Fatalf("step %d: dropped %d bytes, %d were stored", m.step, size, len(s.known))
	}
	clear(s.known)
	m.dropped.segments += segments
	m.dropped.bytes += size
}

// check asserts what holds after every step.
func (m *model) check() {
	m.tb.Helper()
	for i, s := range m.streams {
		if got := s.asm.Next(); got != s.start.Add(s.next) {
			m.tb.Fatalf("step %d: stream %d is at %d, want %d", m.step, i, got.Diff(s.start), s.next)
		}
		first := -1
		for offset := range s.known {
			if first < 0 || offset < first {
				first = offset
			}
		}
		gap, ok := s.asm.Gap(m.store)
		if ok != (first >= 0) || ok && gap != first-s.next {
			m.tb.Fatalf("step %d: stream %d at %d: gap %d, %v; first stored byte %d", m.step, i, s.next, gap, ok, first)
		}
	}
	tally := m.store.Tally()
	if got := m.returned.bytes + int(tally.OldBytes) + m.refused.bytes + m.dropped.bytes + m.store.Bytes(); got != m.offered.bytes {
		m.tb.Fatalf("step %d: %d bytes offered, %d accounted for: %s", m.step, m.offered.bytes, got, m)
	}
	if got := m.returned.segments + int(tally.OldSegments) + m.refused.segments + m.dropped.segments + m.store.Len(); got != m.offered.segments {
		m.tb.Fatalf("step %d: %d segments offered, %d accounted for: %s", m.step, m.offered.segments, got, m)
	}
}

func (m *model) String() string {
	return fmt.Sprintf("returned %+v, refused %+v, dropped %+v, stored %d/%d, tally %+v",
		m.returned, m.refused, m.dropped, m.store.Len(), m.store.Bytes(), m.store.Tally())
}

func (m *model) finish() {
	m.tb.Helper()
	for _, s := range m.streams {
		m.pop(s)
		m.drop(s)
	}
	m.check()
	if m.store.Len() != 0 || m.store.Bytes() != 0 {
		m.tb.Fatalf("the store keeps %d segments, %d bytes of nobody", m.store.Len(), m.store.Bytes())
	}
}

// Random segmentation, loss, reordering, duplication and overlaps of different
// content, on several flows that wrap at different places, with a store that is
// ample, tight, or none at all.
func TestAssemblerAgainstModel(t *testing.T) {
	for _, budget := range []int{1 << 20, 20_000, 0} {
		for round := range 60 {
			rnd := rand.New(rand.NewPCG(uint64(budget), uint64(round)))
			m := newModel(t, budget, 0xffffff00, 0xfffffffe, 7, packet.Seq(rnd.Uint32()))
			reach := 1 + rnd.IntN(600)
			for range 400 {
				s := m.streams[rnd.IntN(len(m.streams))]
				size := 1 + rnd.IntN(1+rnd.IntN(300))
				switch draw := rnd.IntN(100); {
				case draw < 40:
					m.add(s, s.next, size)
				case draw < 97:
					m.add(s, s.next+rnd.IntN(reach)-reach/5, size)
				default:
					m.drop(s)
				}
				if rnd.IntN(5) > 0 {
					m.pop(s)
				}
				m.check()
			}
			m.finish()
		}
	}
}

// FuzzAssembler has the fuzzer choose the segments: 4 bytes are one step.
func FuzzAssembler(f *testing.F) {
	f.Add([]byte{0, 10, 0, 5, 0, 0, 0, 20, 1, 3, 0, 9, 0, 2, 0, 1, 0xc0, 0, 0, 0})
	f.Add([]byte{0, 10, 0, 2, 0, 14, 0, 2, 0, 8, 0, 20, 0, 0, 0, 30})
	f.Fuzz(func(t *testing.T, steps []byte) {
		m := newModel(t, 30_000, 0xffffffc0, 100)
		for ; len(steps) >= 4 && m.step < 250; steps = steps[4:] {
			s := m.streams[steps[0]&1]
			if steps[0] >= 0xc0 {
				m.drop(s)
			} else {
				m.add(s, s.next+int(int16(uint16(steps[2])<<8|uint16(steps[1])))%1000, 1+int(steps[3]))
			}
			if steps[0]&2 == 0 {
				m.pop(s)
			}
			m.check()
		}
		m.finish()
	})
}
