package replay

import (
	"bytes"
	"math/rand/v2"
	"testing"
	"time"

	"flowtwin/tunnel/frame"
)

// A model plays client, target and time at random against one session and knows
// what must come out.
type model struct {
	*rig
	sent   []byte   // all client bytes
	ends   []uint64 // offset behind each segment
	turns  []uint64 // offset of each turn
	mark   bool     // the client has seen more since its last bytes
	ended  bool
	last   int64 // when its last bytes were sent
	http2  bool
	dialed []*fakeConn
}

// redial makes the target's next connection, which may come about or not.
func (m *model) redial() *fakeConn {
	if len(m.sent)%7 == 3 {
		return nil
	}
	m.conn = &fakeConn{t: m.t, room: 1000}
	m.dialed = append(m.dialed, m.conn)
	return m.conn
}

// step lets one thing happen, chosen by op and scaled by arg.
func (m *model) step(op, arg byte) {
	n := int(arg)
	c := m.conn
	switch op % 16 {
	case 0, 1, 2, 3:
		m.data(uint64(op&1)*uint64(n), 1+n*n)
	case 4:
		m.data(uint64(n), 0)
	case 5, 6:
		m.target(func() { c.answers += n })
	case 7:
		m.target(func() { c.room += 64 * n })
	case 8:
		m.target(func() { c.acked += (uint64(len(c.got)) - c.acked) * uint64(n) / 255 })
	case 9:
		m.pass(time.Duration(n) * time.Millisecond)
	case 10:
		m.pass(time.Duration(n*n) * time.Millisecond)
	case 11:
		m.target(func() { c.state = max(c.state, ConnEstablished) })
	case 12:
		m.target(func() { c.fin = c.state == ConnEstablished })
	case 13:
		m.finish()
	case 14:
		m.clientEnd(n)
	case 15:
		m.accident(n)
	}
}

// http2Byte is the byte at that offset of a client of HTTP/2 that sends frames with
// data and pings by turns.
func http2Byte(at int) byte {
	if at -= len(preface); at < 0 {
		return preface[at+len(preface)]
	}
	const frames = "\x00\x00\x08\x06\x00\x00\x00\x00\x00pingping" + "\x00\x00\x21\x00\x00\x00\x00\x00\x01" + "32 bytes of data for a request of"
	return frames[at%len(frames)]
}

func (m *model) data(seen uint64, n int) {
	if m.ended {
		return
	}
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(len(m.sent) + i*i)
	}
	if m.http2 {
		for at := len(m.sent); at < len(m.sent)+n; at++ {
			p[at-len(m.sent)] = http2Byte(at)
		}
	}
	m.give(seen, p)
}

// give hands the session p, sent by a client that has seen so much more.
func (m *model) give(seen uint64, p []byte) {
	m.seen += seen
	n := len(p)
	// A client that nobody answers begins anew behind a line and behind a pause.
	oneWay := m.seen == 0 && len(m.sent) > 0 && (m.sent[len(m.sent)-1] == '\n' || m.now-m.last >= oneWayPause)
	if n > 0 && (seen > 0 || len(m.sent) == 0 || m.mark || oneWay) {
		m.turns = append(m.turns, uint64(len(m.sent)))
	}
	m.mark = n == 0 && (m.mark || seen > 0)
	m.sent = append(m.sent, p...)
	if n > 0 {
		m.last = m.now
		m.ends = append(m.ends, uint64(len(m.sent)))
	}
	m.s.Data(&frame.Data{Seen: m.seen, Time: m.now, Payload: p}, m.now)
	clear(p) // lent: a session that kept it would write zeroes
}

// target lets something happen at the target while there is a connection.
func (m *model) target(f func()) {
	if m.conn.released || m.conn.aborted {
		return
	}
	f()
	m.s.News(m.now)
}

func (m *model) finish() {
	c := m.conn
	if c.closed && c.fin && c.state == ConnEstablished {
		m.target(func() { c.acked, c.state = uint64(len(c.got)), ConnFinished })
	}
}

func (m *model) clientEnd(n int) {
	seen := m.seen
	if n&8 != 0 {
		seen = SeenUnknown
	}
	switch n % 8 {
	case 0:
		m.s.Abort(m.now)
	case 1, 2:
		m.s.Reset(seen, m.now)
	default:
		m.s.Fin(seen, n&16 != 0, m.now)
	}
	m.ended = true
}

func (m *model) accident(n int) {
	c := m.conn
	switch n % 8 {
	case 0:
		m.target(func() {
			if c.state == ConnConnecting {
				c.state = ConnRefused
			}
		})
	case 1:
		m.target(func() {
			if c.state == ConnEstablished {
				c.state = ConnReset
			}
		})
	case 2:
		c.broken = true
	case 3:
		m.s.Cut(frame.ClosedDrain, m.now)
		m.ended = true
	default:
	}
}

// settle lets the session come to its end: the client ends, and the target does
// what is left to do or only lets time pass.
func (m *model) settle(kind byte) {
	if !m.ended {
		m.clientEnd(int(kind))
	}
	for range 20 {
		m.target(func() {
			if m.conn.state == ConnConnecting {
				m.conn.state = ConnTimedOut
			}
		})
		m.pass(time.Hour)
		m.finish()
	}
}

// streams checks what each connection got: the first one how the client began, each
// other one what the client sent from the beginning of a turn on, and none what is
// before the one before it.
func (m *model) streams() {
	from := 0
	for i, c := range m.dialed {
		if i == 0 && !bytes.HasPrefix(m.sent, c.got) {
			m.t.Errorf("target got %d bytes that are not how the %d sent begin", len(c.got), len(m.sent))
		}
		if !c.released {
			m.t.Errorf("connection %d of %d is not released", i, len(m.dialed))
		}
		if i == 0 || len(c.got) == 0 {
			continue
		}
		for from < len(m.turns) && !bytes.HasPrefix(m.sent[m.turns[from]:], c.got) {
			from++
		}
		if from == len(m.turns) {
			m.t.Errorf("connection %d got %d bytes that are of no turn, or out of order", i, len(c.got))
		}
	}
}

func (m *model) check() {
	t := m.t
	m.streams()
	if len(m.log.closed) != 1 || !m.s.Over() {
		t.Fatalf("%d accounts, state %s", len(m.log.closed), m.s.State())
	}
	a := m.log.closed[0]
	if a.DeliveredBytes+a.DroppedBytes != uint64(len(m.sent)) ||
		a.DeliveredSegments+a.DroppedSegments != uint64(len(m.ends)) {
		t.Errorf("sent %d bytes in %d segments, account %+v", len(m.sent), len(m.ends), a)
	}
	if len(m.dialed) == 1 {
		c, whole := m.conn, uint64(0)
		for _, end := range m.ends {
			if end <= a.DeliveredBytes {
				whole++
			}
		}
		if a.DeliveredBytes != c.acked || a.DeliveredSegments != whole {
			t.Errorf("%d bytes, %d segments acknowledged; account %+v", c.acked, whole, a)
		}
	}
	acked := uint64(0)
	for _, c := range m.dialed {
		acked += c.acked
	}
	if a.DeliveredBytes > acked {
		t.Errorf("%d bytes acknowledged on %d connections; account %+v", acked, len(m.dialed), a)
	}
	if a.GapBytes > a.DroppedBytes || a.GapSegments > a.DroppedSegments || a.Reconnects > uint64(len(m.dialed)) || a.Resent > a.Turns {
		t.Errorf("%d connections, account %+v", len(m.dialed), a)
	}
	if m.log.delivered != a.DeliveredBytes || m.log.answer != a.AnswerBytes {
		t.Errorf("told of %d delivered, %d absorbed; account %+v", m.log.delivered, m.log.answer, a)
	}
	if m.sh.Queued() != 0 || len(m.sh.timers.heap) != 0 {
		t.Errorf("left over: %d bytes, %d timers", m.sh.Queued(), len(m.sh.timers.heap))
	}
}

func play(t *testing.T, script []byte) {
	t.Helper()
	cfg := Config{SessionBytes: 256 << 10}
	cfg.GateOff = len(script) > 0 && script[0]&16 != 0
	cfg.Reconnect = len(script) > 0 && script[0]&64 != 0
	m := &model{rig: newRig(t, cfg), http2: len(script) > 0 && script[0]&32 != 0}
	m.dialed, m.log.redial = []*fakeConn{m.conn}, m.redial
	m.conn.room = 1000
	for ; len(script) >= 2; script = script[2:] {
		m.step(script[0], script[1])
	}
	m.settle(byte(len(m.sent)))
	m.check()
}

// Whatever client, target and time do: what the target gets is how the client's
// stream begins, or on later connections what is behind the beginning of a turn,
// everything is accounted for once, and every session ends.
func TestAlwaysAddsUp(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 20_000 {
		script := make([]byte, 2+2*rng.IntN(60))
		for i := range script {
			script[i] = byte(rng.Uint32())
		}
		if rng.IntN(4) > 0 {
			script[0] = 11 | script[0]&0xf0 // most connections come about
		}
		if play(t, script); t.Failed() {
			t.Fatalf("script %x", script)
		}
	}
}

func FuzzSession(f *testing.F) {
	f.Add([]byte{11, 0, 0, 9, 6, 200, 1, 30, 14, 3})
	f.Fuzz(play)
}

// Deadlines must fire in order and only for sessions that still want them.
func TestTimers(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	var h timers
	live := make(map[*Session]int64)
	for i := range 2000 {
		s := &Session{place: notArmed}
		live[s] = 1 + rng.Int64N(500)
		h.set(s, live[s])
		for other := range live { // any one
			switch i % 3 {
			case 0:
				h.remove(other)
				delete(live, other)
			case 1:
				live[other] = 1 + rng.Int64N(500)
				h.set(other, live[other])
			}
			break
		}
	}
	last := int64(0)
	for h.next() != 0 {
		s := h.heap[0]
		if h.next() < last || live[s] != h.next() {
			t.Fatalf("due at %d after %d, want %d", h.next(), last, live[s])
		}
		last = h.next()
		delete(live, s)
		h.remove(s)
	}
	if len(live) != 0 {
		t.Errorf("%d entries lost", len(live))
	}
}
