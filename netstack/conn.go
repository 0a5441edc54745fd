package netstack

import (
	"io"
	"net/netip"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// A Conn is one TCP connection to the target. Its methods are for the goroutine
// that owns its stack.
type Conn struct {
	// User is the Dial argument.
	User uint64
	// Session is for the owner of the conn alone.
	Session any

	stack  *Stack
	key    tupleKey
	slot   slotID
	target netip.AddrPort
	path   path
	ep     *tcp.Endpoint
	queue  waiter.Queue
	entry  waiter.Entry

	// Of the owner.
	state               State
	written             uint64
	eof                 bool
	released, forgotten bool
	handshake           handshake

	pending  atomic.Bool // in the stack's ready list, or being given out
	expired  atomic.Bool // the connect timeout is over
	rejected atomic.Bool // an ICMP message answered the SYN

	// Sequence space, as offsets from the byte after the SYN. Readers of any
	// queue and writers of the stack meet here.
	iss     atomic.Uint32
	sent    atomic.Uint64 // end of what was sent, FIN included
	acked   atomic.Uint64
	synAt   atomic.Int64 // Unix nanoseconds, 0 for not yet
	openAt  atomic.Int64
	unacked atomic.Int32 // segments of the target since our last ACK

	acks ackState  // guarded by the stack's out.mu
	line *connLine // nil: no network is emulated
}

// connEvents is the conn as gVisor's listener. It is told of news with the
// endpoint locked, so it only marks the conn.
type connEvents Conn

// NotifyEvent implements waiter.EventListener.
func (e *connEvents) NotifyEvent(waiter.EventMask) { (*Conn)(e).mark() }

func (c *Conn) mark() {
	if c.pending.CompareAndSwap(false, true) {
		c.stack.ready.push(c)
	}
}

// Write gives bytes to TCP, copying them: it returns how many it took, fewer than
// len(p) when the send buffer is full (Ready tells when there is room again).
func (c *Conn) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	s := c.stack
	s.payload.Reset(p)
	s.out.begin()
	n, terr := c.ep.Write(&s.payload, tcpip.WriteOptions{Atomic: true})
	s.out.done()
	s.payload.Reset(nil)
	c.written += uint64(n)
	return int(n), c.outcome(terr)
}

// Absorb reads and discards what has come: how many bytes, and whether the target
// has closed its side (all before it read).
func (c *Conn) Absorb() (n int, eof bool, err error) {
	if c.eof {
		return 0, true, nil
	}
	c.stack.out.begin()
	defer c.stack.out.done()
	for {
		res, terr := c.ep.Read(io.Discard, tcpip.ReadOptions{})
		n += res.Count
		switch terr.(type) {
		case nil:
			if !c.mayBeAtEnd() {
				return n, false, nil
			}
		case *tcpip.ErrWouldBlock:
			return n, false, nil
		case *tcpip.ErrClosedForReceive:
			c.eof = c.State() <= Established || c.state == Finished
			return n, c.eof, nil
		default:
			return n, false, c.outcome(terr)
		}
	}
}

// mayBeAtEnd reports whether the target's FIN may have come.
func (c *Conn) mayBeAtEnd() bool {
	switch tcp.EndpointState(c.ep.State()) {
	case tcp.StateEstablished, tcp.StateFinWait1, tcp.StateFinWait2:
		return false
	default:
		return true
	}
}

// CloseWrite sends FIN after what was written.
func (c *Conn) CloseWrite() error {
	c.stack.out.begin()
	terr := c.ep.Shutdown(tcpip.ShutdownWrite)
	c.stack.out.done()
	return c.outcome(terr)
}

// Acked returns how many written bytes the target's kernel has acknowledged.
func (c *Conn) Acked() uint64 { return min(c.acked.Load(), c.written) }

// Connect returns how long the handshake took, from the first SYN to the SYN-ACK
// at the TUN, or 0 when it is not over.
func (c *Conn) Connect() time.Duration {
	if opened := c.openAt.Load(); opened != 0 {
		return time.Duration(opened - c.synAt.Load())
	}
	return 0
}

// Abort sends RST and ends the conn. It still has to be released.
func (c *Conn) Abort() {
	c.stack.out.begin()
	c.ep.Abort()
	c.stack.out.done()
	c.State()
}

// Release ends the owner's interest: the stack finishes what is under way (FIN,
// TIME_WAIT on our side is not kept), then frees endpoint, translation and lease.
// What the target still sends unread resets the connection, as a client's close
// does. The conn must not be used after it.
func (c *Conn) Release() {
	if c.released {
		panic("netstack: conn released twice")
	}
	c.released = true
	c.Session = nil
	c.shaken()
	c.stack.out.begin()
	c.ep.Close()
	c.stack.out.done()
	c.mark() // Ready looks whether the stack has let go of it, from now on at each event
}
