package netstack

import (
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"flowtwin/internal/packet"
)

// gVisor acknowledges at once, in a packet of its own. Each such packet is a
// system call and a run through the kernel's receive path, and the session's next
// request, or its FIN, carries the same number. So an ACK that nobody waits for is
// held back for a while, as a kernel's client delays its own.
const (
	// ackDelay is for one small segment of the target; Linux waits as long.
	ackDelay = 40 * time.Millisecond
	// ackDelayShort is for the end of the handshake, which lets a server speak
	// that speaks first, and for several segments: the target's loss probe fires
	// after a few milliseconds then.
	ackDelayShort = time.Millisecond
	// ackBytes never wait: a target that sends much is paced by ACKs.
	ackBytes = 64 << 10
	// plainOptions is the length of a timestamp option: longer options tell of
	// missing segments, which is urgent.
	plainOptions = 12
)

// ackState is a conn's part.
type ackState struct {
	held    *stack.PacketBuffer // a reference, or nil
	due     int64               // when held must leave
	last    uint32              // the last number that was sent or queued
	any     bool                // last is valid: the handshake has been acknowledged
	finSent bool                // nothing to ride on follows
}

// heldAcks are the ACKs of a stack that are held back. It is guarded by out.mu.
type heldAcks struct {
	limit       uint32 // bytes that are acknowledged at once
	short, long ackFIFO
	wake        func()
	timer       *time.Timer
	wakeAt      int64 // when timer fires, 0 for not at all
	began       time.Time
	count       int
}

func (h *heldAcks) init(mtu int, wake func()) {
	h.limit = min(ackBytes, 2*uint32(mtu-ip4Header-tcpHeader-plainOptions))
	h.began = time.Now()
	h.wake = wake
}

func (h *heldAcks) now() int64 { return int64(time.Since(h.began)) }

// hold reports whether it keeps pkt back. Any packet of the conn makes an ACK
// that is held back unnecessary, since it carries the same number or a later one.
func (h *heldAcks) hold(c *Conn, pkt *stack.PacketBuffer, queue *[]outPacket) bool {
	a, t := &c.acks, tcpOf(pkt)
	flags := packet.Flags(t.Flags())
	if !flags.Has(packet.ACK) {
		return false
	}
	ack := t.AckNumber()
	pure := flags == packet.ACK && pkt.Data().Size() == 0
	wait := time.Duration(0)
	if pure && int(t.DataOffset()) <= tcpHeader+plainOptions && !a.finSent {
		wait = h.wait(c, ack)
	}
	due := int64(0)
	if a.held != nil && flags.Has(packet.RST) && !a.any {
		// A reset alone would end the handshake before the target's application
		// has seen the connection.
		a.any = true
		*queue = append(*queue, outPacket{c, a.held})
		a.held = nil
		h.count--
	}
	if a.held != nil {
		due = a.due
		a.held.DecRef()
		a.held = nil
		h.count--
	}
	if wait == 0 {
		a.last, a.any = ack, true
		a.finSent = a.finSent || flags.Has(packet.FIN)
		c.unacked.Store(0)
		return false
	}
	at := h.now() + int64(wait)
	a.held = pkt.IncRef()
	h.count++
	if due != 0 && due <= at {
		a.due = due
		return true // it is in a queue already
	}
	a.due = at
	if wait == ackDelay {
		h.long.push(c, at)
	} else {
		h.short.push(c, at)
	}
	h.arm(at)
	return true
}

// wait returns how long an ACK may be held back, 0 for not at all.
func (h *heldAcks) wait(c *Conn, ack uint32) time.Duration {
	a := &c.acks
	if !a.any {
		return ackDelayShort
	}
	n := ack - a.last
	if a.held != nil && tcpOf(a.held).AckNumber() == ack {
		return 0 // a window that opened, or the answer to a probe
	}
	switch {
	case n == 0 || n >= h.limit:
		return 0
	case c.unacked.Load() > 1:
		return ackDelayShort
	}
	return ackDelay
}

// arm has wake called at the time at or before.
func (h *heldAcks) arm(at int64) {
	if h.wakeAt != 0 && h.wakeAt <= at {
		return
	}
	h.wakeAt = at
	d := time.Duration(at - h.now())
	if h.timer == nil {
		h.timer = time.AfterFunc(d, h.wake)
		return
	}
	h.timer.Reset(d)
}

// due moves the ACKs whose time has come to the queue.
func (h *heldAcks) due(queue []outPacket) []outPacket {
	if h.wakeAt == 0 {
		return queue
	}
	now := h.now()
	if now < h.wakeAt {
		return queue
	}
	queue = h.short.popUntil(now, h, queue)
	queue = h.long.popUntil(now, h, queue)
	h.wakeAt = 0
	if at, ok := h.short.first(); ok {
		h.arm(at)
	}
	if at, ok := h.long.first(); ok {
		h.arm(at)
	}
	return queue
}

// drop takes all ACKs out and appends them to queue.
func (h *heldAcks) drop(queue []outPacket) []outPacket {
	if h.timer != nil {
		h.timer.Stop()
	}
	queue = h.short.popUntil(1<<62, h, queue)
	return h.long.popUntil(1<<62, h, queue)
}

// ackFIFO holds conns with an ACK held back, in the order of their times. A conn
// whose ACK has left since, or was replaced by one with an earlier time, is passed
// over when its turn comes.
type ackFIFO struct {
	conns []ackTurn
	next  int
}

type ackTurn struct {
	conn *Conn
	at   int64
}

func (f *ackFIFO) push(c *Conn, at int64) { f.conns = append(f.conns, ackTurn{c, at}) }

func (f *ackFIFO) first() (int64, bool) {
	if f.next == len(f.conns) {
		return 0, false
	}
	return f.conns[f.next].at, true
}

func (f *ackFIFO) popUntil(now int64, h *heldAcks, queue []outPacket) []outPacket {
	for f.next < len(f.conns) && f.conns[f.next].at <= now {
		c := f.conns[f.next].conn
		f.conns[f.next] = ackTurn{}
		f.next++
		if a := &c.acks; a.held != nil && a.due <= now {
			a.last, a.any = tcpOf(a.held).AckNumber(), true
			c.unacked.Store(0)
			queue = append(queue, outPacket{c, a.held})
			a.held = nil
			h.count--
		}
	}
	switch {
	case f.next == len(f.conns):
		f.conns, f.next = f.conns[:0], 0
	case f.next > 1024 && f.next > len(f.conns)/2:
		n := copy(f.conns, f.conns[f.next:])
		clear(f.conns[n:])
		f.conns, f.next = f.conns[:n], 0
	}
	return queue
}
