package copier

import (
	"os"
	"sync"
	"time"

	"flowtwin/copier/capture"
	"flowtwin/tunnel/frame"
)

// fakeRing hands out the packets that a test has put in, all as one block.
type fakeRing struct {
	mu     sync.Mutex
	next   []capture.Packet
	block  []capture.Packet
	wake   chan struct{}
	closed bool
	stats  capture.Stats
	slow   time.Duration // not 0: a block is one packet, and takes so long
	deaf   bool          // none of a block's packets is wanted
}

func newFakeRing() *fakeRing { return &fakeRing{wake: make(chan struct{}, 1)} }

func (r *fakeRing) put(p ...capture.Packet) {
	r.mu.Lock()
	r.next = append(r.next, p...)
	r.mu.Unlock()
	r.Wake()
}

func (r *fakeRing) Next(timeout time.Duration) (bool, error) {
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	for {
		r.mu.Lock()
		r.block, r.next = r.next, nil
		if r.slow > 0 && len(r.block) > 1 {
			r.block, r.next = r.block[:1], r.block[1:]
		}
		closed := r.closed
		r.mu.Unlock()
		switch {
		case closed:
			return false, os.ErrClosed
		case len(r.block) > 0:
			if r.slow > 0 {
				<-time.After(r.slow)
			}
			return true, nil
		case timeout == 0:
			return false, nil
		}
		select {
		case <-r.wake:
			r.mu.Lock()
			empty := len(r.next) == 0
			r.mu.Unlock()
			if empty {
				return false, nil
			}
		case <-timer.C:
			return false, nil
		}
	}
}

func (r *fakeRing) Packet(p *capture.Packet) bool {
	if len(r.block) == 0 || r.deaf {
		return false
	}
	*p, r.block = r.block[0], r.block[1:]
	return true
}

func (r *fakeRing) Release() {}

func (r *fakeRing) Wake() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

func (r *fakeRing) Stats() capture.Stats { return r.stats }

// fakeLane is a lane with a responder behind it, which keeps what it gets.
type fakeLane struct {
	bye      chan struct{} // a value: end all sessions, at the next Returns
	epoch    uint64
	up       bool
	full     bool // no room for Data
	jam      bool // no room for anything
	room     int
	answers  bool // accounts come by themselves once a flow has ended
	sessions []*fakeSession
	byFlow   map[uint32]*fakeSession
	returns  []byte
	misuse   []string // frames that the protocol does not allow
	flushes  int
}

// fakeSession is what the responder knows of a flow.
type fakeSession struct {
	flow      uint32
	open      frame.Open
	data      []byte
	seens     []uint64
	segments  uint64
	finSeen   uint64
	finSecond bool
	ends      []string // fin, reset, abort:reason
	closed    bool
}

func newFakeLane() *fakeLane {
	return &fakeLane{epoch: 1, up: true, room: 1000, answers: true, bye: make(chan struct{}, 1), byFlow: make(map[uint32]*fakeSession)}
}

func (l *fakeLane) Epoch() uint64 { return l.epoch }
func (l *fakeLane) Up() bool      { return l.up }
func (l *fakeLane) Room() int     { return l.room }
func (l *fakeLane) Size() int     { return 1000 }
func (l *fakeLane) Flush()        { l.flushes++ }

func (l *fakeLane) Open(flow uint32, o *frame.Open) bool {
	if !l.up || l.jam {
		return false
	}
	if s := l.byFlow[flow]; s != nil && !s.closed {
		l.misuse = append(l.misuse, "open of a number in use")
	}
	s := &fakeSession{flow: flow, open: *o}
	l.sessions = append(l.sessions, s)
	l.byFlow[flow] = s
	return true
}

func (l *fakeLane) Data(flow uint32, seen uint64, _ int64, payload []byte) bool {
	if !l.up || l.full || l.jam {
		return false
	}
	s := l.byFlow[flow]
	if s == nil || len(s.ends) > 0 {
		l.misuse = append(l.misuse, "data of a flow that is not open")
		return true
	}
	if s.closed {
		return true // on its way when the session ended
	}
	s.data = append(s.data, payload...)
	s.seens = append(s.seens, seen)
	s.segments++
	return true
}

func (l *fakeLane) end(flow uint32, how string) bool {
	if !l.up || l.jam {
		return false
	}
	s := l.byFlow[flow]
	if s == nil || len(s.ends) > 0 && (s.ends[0] != "fin" || how == "fin") {
		l.misuse = append(l.misuse, how+" of a flow that is not open")
		return true
	}
	s.ends = append(s.ends, how)
	if l.answers {
		l.close(s, frame.ClosedBoth)
	}
	return true
}

func (l *fakeLane) Fin(flow uint32, seen uint64, second bool) bool {
	if s := l.byFlow[flow]; s != nil {
		s.finSeen, s.finSecond = seen, second
	}
	return l.end(flow, "fin")
}

func (l *fakeLane) Reset(flow uint32, _ uint64) bool { return l.end(flow, "reset") }
func (l *fakeLane) Abort(flow uint32, r frame.AbortReason) bool {
	return l.end(flow, "abort:"+r.String())
}

// close sends the session's account: everything was delivered, and something answered.
func (l *fakeLane) close(s *fakeSession, how frame.CloseHow) {
	if s.closed {
		return
	}
	s.closed = true
	l.returns = frame.AppendClosed(l.returns, s.flow, &frame.Closed{
		How: how, DeliveredBytes: uint64(len(s.data)), DeliveredSegments: s.segments, Turns: 1, AnswerBytes: 1,
	})
}

// crash breaks the connection and makes a new one.
func (l *fakeLane) crash() {
	l.epoch++
	l.returns = nil
	for _, s := range l.sessions {
		s.closed = true
	}
	l.byFlow = make(map[uint32]*fakeSession)
}

func (l *fakeLane) Returns() ([]byte, uint64) {
	select {
	case <-l.bye:
		for _, s := range l.sessions {
			l.close(s, frame.ClosedDrain)
		}
	default:
	}
	b := l.returns
	l.returns = nil
	return b, l.epoch
}

// sink is a lane with nothing behind it but accounts, for measuring.
type sink struct {
	*fakeLane
	sent map[uint32]*[2]uint64
}

func (l *sink) Open(flow uint32, _ *frame.Open) bool {
	if l.sent[flow] == nil {
		l.sent[flow] = new([2]uint64)
	}
	*l.sent[flow] = [2]uint64{}
	return true
}

func (l *sink) Data(flow uint32, _ uint64, _ int64, payload []byte) bool {
	n := l.sent[flow]
	n[0]++
	n[1] += uint64(len(payload))
	return true
}

func (l *sink) Fin(flow uint32, _ uint64, _ bool) bool {
	n := l.sent[flow]
	l.returns = frame.AppendClosed(l.returns, flow, &frame.Closed{
		How: frame.ClosedBoth, DeliveredSegments: n[0], DeliveredBytes: n[1],
	})
	return true
}

func (l *sink) Returns() ([]byte, uint64) {
	b := l.returns
	l.returns = l.returns[:0]
	return b, l.epoch
}
