package copier

import (
	"flowtwin/internal/packet"
	"flowtwin/tunnel/frame"
)

// receive takes in what the responder has returned.
func (s *shard) receive() {
	frames, epoch := s.lane.Returns()
	if epoch != s.epoch || !s.up {
		return // of a connection whose sessions are accounted as lost
	}
	for len(frames) > 0 {
		t, slot, body, rest, err := frame.Next(frames)
		if err != nil || !s.returned(t, slot, body) {
			s.book.BadReturns++
			if err != nil {
				break
			}
		}
		frames = rest
	}
	if s.headers != nil {
		s.headers.flush()
	}
}

// returned handles one frame. It reports false when the frame makes no sense.
func (s *shard) returned(t frame.Type, slot uint32, body []byte) bool {
	switch t {
	case frame.TypeProgress:
		p, ok := frame.ParseProgress(body)
		if ok {
			s.book.Lag.Progress(&p, s.offset())
		}
		return ok
	case frame.TypeMoved:
		m, ok := frame.ParseMoved(body)
		if ok {
			s.book.Progress(&m)
		}
		return ok
	case frame.TypeCopies:
		return s.copied(body)
	case frame.TypeReturnBye:
		return true
	case frame.TypeTargetHeader:
		h, ok := frame.ParseTargetHeader(body)
		if ok {
			s.targetHeader(&h)
		}
		return ok
	default:
	}
	if int(slot) >= s.used {
		return false
	}
	r := s.table.At(slot)
	if !r.state.awaits() {
		return false
	}
	switch t {
	case frame.TypeEstablished:
		s.book.Sessions.Established++
		s.taking.established = max(s.taking.established, r.from)
		return true
	case frame.TypeClosed:
		c, ok := frame.ParseClosed(body)
		if ok {
			s.settle(slot, r, &c)
		}
		return ok
	default:
		return false
	}
}

// targetHeader counts one packet of the target.
func (s *shard) targetHeader(h *frame.TargetHeader) {
	s.book.Answers.Headers++
	v := &s.view
	sense := v.Parse(h.Headers, len(h.Headers)) == packet.OK
	if sense && v.PayloadLen > 0 {
		s.book.Answers.Target.Add(v.PayloadLen)
	}
	if s.headers != nil {
		s.headers.add(h, v, sense, s.offset)
	}
}
