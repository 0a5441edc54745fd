package netstack

import (
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"flowtwin/internal/packet"
)

// gVisor acknowledges at once, in a packet of its own. Each such packet is a
// system call and a run through the kernel's receive path, and the session's next
// request, or its FIN, carries the same number. So an ACK that nobody waits for is
// held back for a while, as a kernel's client delays its own:
//
//   - until the owner has dealt with the events that came with it and asks for the
//     next ones: the end of the handshake, which lets a server speak that speaks
//     first, and several segments, since the target's loss probe is near then;
//   - ackDelay for one small segment, and at most in any case.
const (
	// ackDelay is what Linux waits. ackGrid has many leave together.
	ackDelay = 40 * time.Millisecond
	ackGrid  = 8 * time.Millisecond
	// ackBytes never wait: a target that sends much is paced by ACKs.
	ackBytes = 64 << 10
	// plainOptions is the length of a timestamp option: longer options tell of
	// missing segments, which is urgent.
	plainOptions = 12
)

// ackState is a conn's part.
type ackState struct {
	held    *stack.PacketBuffer // a reference, or nil
	number  uint32              // what held acknowledges
	due     int64               // when held must leave
	soon    bool                // in heldAcks.soon
	last    uint32              // the last number that was sent or queued
	any     bool                // last is valid: the handshake has been acknowledged
	next    uint32              // the sequence number after all that was queued, from the SYN on
	finSent bool                // nothing to ride on follows
}

// heldAcks are the ACKs of a stack that are held back. It is guarded by out.mu.
type heldAcks struct {
	limit       uint32  // bytes that are acknowledged at once
	soon, given []*Conn // given: their events were in the owner's last batch
	late        ackFIFO
	flush       func()
	timer       *time.Timer
	wakeAt      int64 // when timer fires, 0 for not at all
	began       time.Time
}

// ackTiming says how an ACK is held back.
type ackTiming uint8

const (
	ackNow ackTiming = iota
	ackSoon
	ackLate
)

// init prepares h; flush is called, by itself, when some are due.
func (h *heldAcks) init(mtu int, flush func()) {
	h.limit = min(ackBytes, 2*uint32(mtu-ip4Header-tcpHeader-plainOptions))
	h.began = time.Now()
	h.flush = flush
}

func (h *heldAcks) now() int64 { return int64(time.Since(h.began)) }

// hold reports whether it keeps pkt back. A packet of the conn makes an ACK that is
// held back unnecessary, since it carries the same number or a later one; but not
// one that the target has seen before, a retransmission or a probe: of a segment
// left of its window the target does not read the ACK.
func (h *heldAcks) hold(c *Conn, pkt *stack.PacketBuffer, t header.TCP, queue *[]outPacket) bool {
	a := &c.acks
	flags := packet.Flags(t.Flags())
	seen := a.advance(t, flags, pkt.Data().Size())
	if !flags.Has(packet.ACK) {
		return false
	}
	if seen {
		*queue = h.release(c, *queue)
	}
	timing := ackNow
	if !seen && flags == packet.ACK && pkt.Data().Size() == 0 && int(t.DataOffset()) <= tcpHeader+plainOptions && !a.finSent {
		timing = h.timing(c, t.AckNumber())
	}
	waits := a.held != nil
	if waits && flags.Has(packet.RST) && !a.any {
		// A reset alone would end the handshake before the target's application
		// has seen the connection.
		*queue = append(*queue, outPacket{c, a.held})
	} else if waits {
		a.held.DecRef()
	}
	a.held = nil
	if timing == ackNow {
		a.last, a.any = t.AckNumber(), true
		a.finSent = a.finSent || flags.Has(packet.FIN)
		c.unacked.Store(0)
		return false
	}
	a.held, a.number = pkt.IncRef(), t.AckNumber()
	if timing == ackSoon && !a.soon {
		a.soon = true
		h.soon = append(h.soon, c)
	}
	if !waits {
		a.due = (h.now() + int64(ackDelay)) / int64(ackGrid) * int64(ackGrid)
		h.late.push(c, a.due)
		h.arm(a.due)
	}
	return true
}

// advance notes a packet's place in the sequence, and reports whether it begins
// with what was sent before.
func (a *ackState) advance(t header.TCP, flags packet.Flags, payload int) (seen bool) {
	seq := t.SequenceNumber()
	end := seq + uint32(payload)
	if flags.Has(packet.FIN) {
		end++
	}
	if flags.Has(packet.SYN) {
		a.next = end + 1
		return false
	}
	seen = int32(seq-a.next) < 0
	if int32(end-a.next) > 0 {
		a.next = end
	}
	return seen
}

// timing decides for a pure ACK.
func (h *heldAcks) timing(c *Conn, ack uint32) ackTiming {
	a := &c.acks
	if !a.any {
		return ackSoon
	}
	if a.held != nil && a.number == ack {
		return ackNow // a window that opened, or the answer to a probe
	}
	switch n := ack - a.last; {
	case n == 0 || n >= h.limit:
		return ackNow
	case c.unacked.Load() > 1:
		return ackSoon
	}
	return ackLate
}

// arm has flush called at the time at or before.
func (h *heldAcks) arm(at int64) {
	if h.wakeAt != 0 && h.wakeAt <= at {
		return
	}
	h.wakeAt = at
	d := time.Duration(at - h.now())
	if h.timer == nil {
		h.timer = time.AfterFunc(d, h.flush)
		return
	}
	h.timer.Reset(d)
}

// takeSoon moves the ACKs to queue whose events the owner has dealt with. The
// others it gives their chance now: the events are in the batch that follows.
func (h *heldAcks) takeSoon(queue []outPacket) (_ []outPacket, more bool) {
	for i, c := range h.given {
		c.acks.soon = false
		queue = h.release(c, queue)
		h.given[i] = nil
	}
	h.soon, h.given = h.given[:0], h.soon
	return queue, len(h.given) > 0
}

// takeLate moves the ACKs to queue whose time has come.
func (h *heldAcks) takeLate(queue []outPacket) []outPacket {
	now := h.now()
	if h.wakeAt == 0 || now < h.wakeAt {
		return queue
	}
	queue = h.late.popUntil(now, h, queue)
	h.wakeAt = 0
	if at, ok := h.late.first(); ok {
		h.arm(at)
	}
	return queue
}

// takeAll moves all ACKs to queue, for the end.
func (h *heldAcks) takeAll(queue []outPacket) []outPacket {
	if h.timer != nil {
		h.timer.Stop()
	}
	return h.late.popUntil(1<<62, h, queue)
}

// release moves c's ACK to queue if there is one.
func (h *heldAcks) release(c *Conn, queue []outPacket) []outPacket {
	a := &c.acks
	if a.held == nil {
		return queue
	}
	a.last, a.any = a.number, true
	c.unacked.Store(0)
	queue = append(queue, outPacket{c, a.held})
	a.held = nil
	return queue
}

// ackFIFO holds conns with an ACK held back, in the order of their times. A conn
// whose ACK has left since is passed over when its turn comes.
type ackFIFO struct {
	turns []ackTurn
	next  int
}

type ackTurn struct {
	conn *Conn
	at   int64
}

func (f *ackFIFO) push(c *Conn, at int64) { f.turns = append(f.turns, ackTurn{c, at}) }

func (f *ackFIFO) first() (int64, bool) {
	if f.next == len(f.turns) {
		return 0, false
	}
	return f.turns[f.next].at, true
}

func (f *ackFIFO) popUntil(now int64, h *heldAcks, queue []outPacket) []outPacket {
	for f.next < len(f.turns) && f.turns[f.next].at <= now {
		c := f.turns[f.next].conn
		f.turns[f.next] = ackTurn{}
		f.next++
		if c.acks.due <= now {
			queue = h.release(c, queue)
		}
	}
	switch {
	case f.next == len(f.turns):
		f.turns, f.next = f.turns[:0], 0
	case f.next > 1024 && f.next > len(f.turns)/2:
		n := copy(f.turns, f.turns[f.next:])
		clear(f.turns[n:])
		f.turns, f.next = f.turns[:n], 0
	}
	return queue
}
