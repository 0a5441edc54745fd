package netstack

import (
	"errors"
	"io"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"flowtwin/internal/packet"
)

// A reader takes the target's packets from one TUN queue to the stack of their
// session, which may be any: the kernel chooses the queue.
//
// Only the headers are read. The payload ends in the stack, which counts it and
// throws it away, so the kernel is not asked for it (a read with a short buffer
// drops the rest), and the stack is shown as many bytes of a block of zeros that
// all packets share. This is why absorbing costs the same for 1 byte and 64 KiB.
type reader struct {
	net  *Net
	tun  io.ReadWriter // one packet for each Read and Write
	log  *slog.Logger
	view packet.View
	injector

	packets, bytes, strays atomic.Uint64
}

const voidSize = 1 << 16

func newReader(n *Net, tun io.ReadWriter) *reader {
	return &reader{net: n, tun: tun, log: n.cfg.Log, injector: newInjector()}
}

// run reads until the queue is closed.
func (r *reader) run() {
	defer r.close()
	buf := make([]byte, virtioHdr+maxHeaders)
	for {
		n, err := r.tun.Read(buf)
		switch {
		case err == nil:
		case errors.Is(err, os.ErrClosed):
			return
		default:
			r.net.lost(err)
			return
		}
		if n > virtioHdr {
			r.take(buf[virtioHdr:n], time.Now().UnixNano())
		}
	}
}

// take handles one packet, of which the first maxHeaders bytes are at b.
func (r *reader) take(b []byte, now int64) {
	r.packets.Add(1)
	v := &r.view
	if v.Parse(b, len(b)) != packet.OK {
		multicast := len(b) >= ip6Header && b[0]>>4 == 6 && b[24] == 0xff // the kernel's own noise
		if !multicast && !r.unreachable(b) {
			r.strays.Add(1)
		}
		return
	}
	r.bytes.Add(uint64(len(v.Headers) + v.PayloadLen))
	key, ok := r.net.outwardKey(b, v)
	if !ok {
		r.strays.Add(1)
		return
	}
	s := r.net.stacks[key.shard(len(r.net.stacks))]
	c := s.outward.find(key)
	if c == nil || !c.path.from(srcOf(b), v.SrcPort) || !c.path.to(dstOf(b)) {
		r.strays.Add(1)
		r.answer(v)
		return
	}
	if s.tap != nil {
		s.tapping.Lock()
		s.tap(c.User, now, v.Headers, v.PayloadLen)
		s.tapping.Unlock()
	}
	c.received(v, now)
	if s.lines != nil {
		s.lines.receive(c, v.Headers, len(v.Options), v.PayloadLen)
		return
	}
	r.inject(s, c, v.Headers, len(v.Options), v.PayloadLen)
}

// received notes what a packet of the target says about the conn.
func (c *Conn) received(v *packet.View, now int64) {
	if v.Flags.Has(packet.SYN) {
		if v.Flags.Has(packet.ACK) {
			c.openAt.CompareAndSwap(0, now)
		}
		return
	}
	if !v.Flags.Has(packet.ACK) {
		return
	}
	for {
		acked := c.acked.Load()
		d := int64(int32(uint32(v.Ack) - (c.iss.Load() + 1 + uint32(acked))))
		if d <= 0 || acked+uint64(d) > c.sent.Load() {
			return // nothing new, or of another connection
		}
		if c.acked.CompareAndSwap(acked, acked+uint64(d)) {
			return
		}
	}
}

// An injector shows packets of the target to stacks, for one goroutine.
type injector struct {
	void *buffer.View // zeros, shared by all payloads
}

func newInjector() injector { return injector{void: buffer.NewViewSize(voidSize)} }

func (i *injector) close() { i.void.Release() }

// inject shows a packet to the stack as the session knows it: headers, with so many
// bytes of TCP options, and a payload of zeros. It borrows headers.
func (i *injector) inject(s *Stack, c *Conn, headers []byte, options, payload int) {
	tcpAt := len(headers) - tcpHeader - options
	if payload > 0 || packet.Flags(headers[tcpAt+13]).Has(packet.FIN) {
		c.unacked.Add(1)
	}
	hdr := buffer.NewViewWithData(headers)
	inward(hdr.AsSlice(), tcpAt, c.path.v6, c.slot)
	b := buffer.MakeWithView(hdr)
	for left := payload; left > 0; left -= voidSize {
		part := i.void.Clone()
		part.CapLength(min(left, voidSize))
		if err := b.Append(part); err != nil {
			b.Release()
			return
		}
	}
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: b})
	if c.path.v6 {
		s.link.deliver(ipv6.ProtocolNumber, pkt)
	} else {
		s.link.deliver(ipv4.ProtocolNumber, pkt)
	}
}

// dstOf returns the destination address of an IP packet.
func dstOf(b []byte) []byte {
	if b[0]>>4 == 4 {
		return b[16:20]
	}
	return b[24:40]
}

// srcOf returns the source address of an IP packet.
func srcOf(b []byte) []byte {
	if b[0]>>4 == 4 {
		return b[12:16]
	}
	return b[8:24]
}
