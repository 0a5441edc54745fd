package netstack

import "time"

const (
	// handshakesMost is how many SYNs to a target a stack has under way.
	handshakesMost = 64
	// handshakeTime is how long a SYN counts as under way. One that is answered later
	// was lost, mostly by a full queue at the target, and does not keep others back:
	// there may be room again.
	handshakeTime = 50 * time.Millisecond
	// inLineMost is how long a conn waits for its SYN at a target that answers others.
	// At one that does not it is connectTimeout, as behind a SYN.
	inLineMost = 30 * time.Second
)

// handshakes lets the conns to one target begin: when many come at once, one after
// the other, as the target answers.
//
// Its answers are read by another goroutine than the one that dials. Where the CPU
// does not suffice, the kernel's answers would pile up behind ever more SYNs, in a
// queue that drops what exceeds it: of 8,000 to 9,700 short connections a second,
// with client, target and responder on one CPU, up to 13 % failed.
type handshakes struct {
	stack    *Stack
	underWay int
	sent     connQueue     // those under way, and those that were
	line     connQueue     // those whose SYN has not left
	answered time.Duration // when a conn last was
}

// handshake is how far a conn has come, for its handshakes.
type handshake uint8

const (
	handshakeNone  handshake = iota // over, or not counted at all
	handshakeLine                   // the SYN waits
	handshakeSent                   // counted as under way
	handshakeLater                  // no more
)

// handshakes returns those of the conn's target.
func (s *Stack) handshakes(c *Conn) *handshakes {
	h := s.shaking[c.target]
	if h == nil {
		h = &handshakes{stack: s}
		s.shaking[c.target] = h
	}
	return h
}

// begin sends the conn's SYN, now or later.
func (h *handshakes) begin(c *Conn) error {
	now := h.stack.net.now()
	h.recount(now)
	if h.line.len() == 0 && h.room() {
		return h.send(c, now)
	}
	c.handshake = handshakeLine
	h.line.push(c, now)
	if h.stack.inLine++; h.stack.inLine == 1 {
		h.stack.launchSoon()
	}
	return nil
}

// room reports whether one more may be under way. On an emulated network as many
// are as its clients have.
func (h *handshakes) room() bool { return h.underWay < handshakesMost || h.stack.lines != nil }

func (h *handshakes) send(c *Conn, now time.Duration) error {
	c.handshake = handshakeNone
	if err := c.connect(); err != nil {
		return err
	}
	h.underWay++
	c.handshake = handshakeSent
	h.sent.push(c, now)
	h.stack.dialing.add(c)
	return nil
}

// recount forgets those that are under way no more.
func (h *handshakes) recount(now time.Duration) {
	for h.sent.len() > 0 {
		c, at := h.sent.front()
		if c.handshake == handshakeSent {
			if now-at < handshakeTime {
				return
			}
			c.handshake = handshakeLater
			h.underWay--
		}
		h.sent.pop()
	}
}

// shaken takes note of what has become of a conn's handshake.
func (c *Conn) shaken() {
	if c.handshake == handshakeNone || !c.released && c.State() == Connecting {
		return
	}
	h, now := c.stack.handshakes(c), c.stack.net.now()
	if c.handshake == handshakeSent {
		h.underWay--
	}
	c.handshake = handshakeNone
	h.recount(now) // lets go of the conn
	if c.openAt.Load() != 0 || c.state == Refused {
		h.answered = now
	}
}

// launch sends the SYNs that there is room for.
func (s *Stack) launch() {
	if s.inLine == 0 {
		return
	}
	now := s.net.now()
	for _, h := range s.shaking {
		h.recount(now)
		h.giveUp(now)
		for h.line.len() > 0 && h.room() {
			c := h.leave()
			if c.handshake != handshakeLine {
				continue // released
			}
			if err := h.send(c, now); err != nil {
				c.state = Reset
				c.mark()
			}
		}
	}
	if s.inLine > 0 {
		s.launchSoon()
	}
}

// launchSoon has launch called again when nothing is heard of those under way.
func (s *Stack) launchSoon() {
	if s.launcher == nil {
		s.launcher = time.AfterFunc(handshakeTime, s.ready.signal)
		return
	}
	s.launcher.Reset(handshakeTime)
}

// leave takes the first conn out of the line.
func (h *handshakes) leave() *Conn {
	c, _ := h.line.front()
	h.line.pop()
	h.stack.inLine--
	return c
}

// giveUp ends the conns that have waited for too long.
func (h *handshakes) giveUp(now time.Duration) {
	for h.line.len() > 0 {
		_, since := h.line.front()
		patience := inLineMost
		if silent := h.stack.dialing.timeout; now-h.answered > silent {
			patience = silent
		}
		if now-since < patience {
			return
		}
		if c := h.leave(); c.handshake == handshakeLine {
			c.expired.Store(true)
			c.mark()
		}
	}
}

// A connQueue holds conns in the order they were pushed, with the time of it.
type connQueue struct {
	items []queuedConn
	first int
}

type queuedConn struct {
	conn *Conn
	at   time.Duration
}

func (q *connQueue) len() int { return len(q.items) - q.first }

func (q *connQueue) push(c *Conn, at time.Duration) { q.items = append(q.items, queuedConn{c, at}) }

func (q *connQueue) front() (*Conn, time.Duration) {
	it := q.items[q.first]
	return it.conn, it.at
}

func (q *connQueue) pop() {
	q.items[q.first] = queuedConn{}
	if q.first++; q.first == len(q.items) || q.first >= 1024 {
		n := copy(q.items, q.items[q.first:])
		clear(q.items[n:])
		q.items, q.first = q.items[:n], 0
	}
}
