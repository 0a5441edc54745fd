package netstack

import (
	"encoding/binary"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"flowtwin/internal/packet"
)

// maxQueued bounds the packets of a stack that wait for the TUN. When it is full
// a packet is dropped and counted; TCP sends it again.
const maxQueued = 16384

// out carries a stack's packets to its TUN queue, in two steps so that no
// endpoint is locked during a TUN write:
//
//	add    queues a packet; the stack calls it with the endpoint locked
//	drain  writes what is queued: the owner's goroutine after each operation on a
//	       conn, which saves waking another one, and for all else the writer's
type out struct {
	tun  io.Writer   // one packet for each Write
	lost func(error) // told when the device is down or gone
	line *lines      // where packets go first, or nil
	kick chan struct{}

	// inline is set while the owner's goroutine is inside an operation: it
	// drains the queue itself afterwards.
	inline atomic.Bool

	mu     sync.Mutex
	queue  []outPacket
	closed bool
	acks   heldAcks

	writing sync.Mutex // held while writing to the TUN
	spare   []outPacket
	buf     []byte

	packets, bytes, dropped, failed atomic.Uint64
}

// outPacket holds a reference to pkt.
type outPacket struct {
	conn *Conn
	pkt  *stack.PacketBuffer
}

func newOut(tun io.Writer, mtu int, lost func(error)) *out {
	o := &out{tun: tun, lost: lost, kick: make(chan struct{}, 1), buf: make([]byte, virtioHdr+1<<16)}
	o.acks.init(mtu, o.flushLate)
	return o
}

func (o *out) wake() {
	select {
	case o.kick <- struct{}{}:
	default:
	}
}

// add queues a packet of conn c, or holds it back when it is an ACK that the
// next packet can carry. It borrows pkt, with its TCP header tcp, and takes a
// reference of its own.
func (o *out) add(c *Conn, pkt *stack.PacketBuffer, tcp header.TCP) {
	o.mu.Lock()
	if o.closed || o.acks.hold(c, pkt, tcp, &o.queue) {
		o.mu.Unlock()
		return
	}
	if len(o.queue) >= maxQueued {
		o.mu.Unlock()
		o.dropped.Add(1)
		return
	}
	o.queue = append(o.queue, outPacket{c, pkt.IncRef()})
	o.mu.Unlock()
	if !o.inline.Load() {
		o.wake()
	}
}

// begin and done enclose an operation of the owner's goroutine on a conn.
func (o *out) begin() { o.inline.Store(true) }

// done writes what the operation has queued. What add queues from now on wakes
// the writer again; what it queued before is seen here.
func (o *out) done() {
	o.inline.Store(false)
	if !o.writing.TryLock() {
		o.wake() // whoever writes now may have looked at the queue already
		return
	}
	o.drain()
	o.writing.Unlock()
}

// flushSoon writes the acknowledgements that were held back for the owner to make
// use of; the owner calls it when it has dealt with its events. It reports whether
// another call is needed after the events to come.
func (o *out) flushSoon() (more bool) {
	o.mu.Lock()
	o.queue, more = o.acks.takeSoon(o.queue)
	write := len(o.queue) > 0
	o.mu.Unlock()
	if write {
		o.done()
	}
	return more
}

// flushLate writes the acknowledgements that were held back long enough.
func (o *out) flushLate() {
	o.mu.Lock()
	o.queue = o.acks.takeLate(o.queue)
	o.mu.Unlock()
	o.writing.Lock()
	o.drain()
	o.writing.Unlock()
}

// run is the writer: it writes what was queued by others than the owner. It ends
// when stop is closed.
func (o *out) run(stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		case <-o.kick:
		}
		o.writing.Lock()
		o.drain()
		o.writing.Unlock()
	}
}

// drain writes what is queued at this moment; the caller holds writing.
func (o *out) drain() {
	o.mu.Lock()
	batch := o.queue
	o.queue = o.spare[:0]
	o.mu.Unlock()
	for i, p := range batch {
		if o.line != nil {
			o.line.send(p)
		} else {
			o.write(p)
		}
		batch[i] = outPacket{}
	}
	o.spare = batch
}

// write translates one packet and gives it to the kernel; it takes over p's
// reference.
func (o *out) write(p outPacket) {
	n := virtioHdr
	n += copy(o.buf[n:], p.pkt.NetworkHeader().Slice())
	tcpAt := n - virtioHdr
	n += copy(o.buf[n:], p.pkt.TransportHeader().Slice())
	hdrLen := n - virtioHdr
	w := sliceWriter(o.buf[n:])
	payload, err := p.pkt.Data().ReadTo(&w, true)
	mss := int(p.pkt.GSOOptions.MSS)
	p.pkt.DecRef()
	if err != nil {
		o.failed.Add(1)
		return
	}
	b := o.buf[:n+payload]
	p.conn.sending(p.conn.path.outward(b[virtioHdr:]), payload)
	putVirtio(b, p.conn.path.v6, hdrLen, tcpAt, payload, mss)
	if _, err := o.tun.Write(b); err != nil {
		if o.failed.Add(1); errors.Is(err, unix.EIO) || errors.Is(err, unix.EBADFD) {
			o.lost(err)
		}
		return
	}
	o.packets.Add(1)
	o.bytes.Add(uint64(len(b) - virtioHdr))
}

// close drops what is queued or held, and what comes later. No write is under way
// when it returns, and none follows.
func (o *out) close() {
	o.mu.Lock()
	o.closed = true
	for _, p := range o.acks.takeAll(o.queue) {
		p.pkt.DecRef()
	}
	o.queue = nil
	o.mu.Unlock()
	o.writing.Lock()
	defer o.writing.Unlock()
}

// sending notes what leaves: the sequence numbers that the target may
// acknowledge, and when the first SYN went.
func (c *Conn) sending(tcp []byte, payload int) {
	seq, flags := binary.BigEndian.Uint32(tcp[4:]), packet.Flags(tcp[13])
	if flags.Has(packet.SYN) {
		c.iss.Store(seq)
		if now := time.Now().UnixNano(); !c.synAt.CompareAndSwap(0, now) {
			restamp(tcp, time.Duration(now-c.synAt.Load()))
		}
		return
	}
	if flags.Has(packet.RST) {
		return
	}
	if flags.Has(packet.FIN) {
		payload++
	}
	sent := c.sent.Load()
	end := seq + uint32(payload)
	if d := int32(end - (c.iss.Load() + 1 + uint32(sent))); d > 0 {
		c.sent.Store(sent + uint64(d))
	}
}

// restamp gives a SYN that is sent again, so long after the first one, the time of
// now. gVisor repeats the first one's, and takes what the target echoes for the
// round-trip time: seconds, and three times as many until it sends again what a full
// queue at the target drops next. Checksums are the kernel's.
func restamp(tcp []byte, late time.Duration) {
	options := tcp[tcpHeader:min(int(tcp[12]>>4)*4, len(tcp))]
	if at, ok := timestamp(options); ok {
		stamp := options[at:]
		binary.BigEndian.PutUint32(stamp, binary.BigEndian.Uint32(stamp)+uint32(late.Milliseconds()))
	}
}

// timestamp returns where in a packet's TCP options the time of its sending lies
// (RFC 7323, 3.2).
func timestamp(options []byte) (at int, ok bool) {
	const end, nop, kind, size = 0, 1, 8, 10
	for at < len(options) && options[at] != end {
		switch {
		case options[at] == nop:
			at++
		case at+1 >= len(options) || options[at+1] < 2:
			return 0, false
		case options[at] == kind:
			return at + 2, options[at+1] == size && at+size <= len(options)
		default:
			at += int(options[at+1])
		}
	}
	return 0, false
}

// sliceWriter writes into the slice, which must be long enough.
type sliceWriter []byte

// Write implements io.Writer.
func (w *sliceWriter) Write(p []byte) (int, error) {
	n := copy(*w, p)
	*w = (*w)[n:]
	if n < len(p) {
		return n, io.ErrShortWrite
	}
	return n, nil
}
