package responder

import (
	"bytes"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"flowtwin/netstack"
	"flowtwin/responder/replay"
)

// fakeNet is a network whose targets live in the test.
type fakeNet struct {
	stacks []*fakeStack
	target target

	mu        sync.Mutex
	leased    int                               // and not dialled
	got       map[netip.AddrPort]*bytes.Buffer  // by client
	dialled   map[netip.AddrPort]netip.AddrPort // target by client
	exhausted bool
}

// target says how the targets behave.
type target struct {
	refuse bool
	absent bool // never answers
	silent bool // does not close when the client does
	answer int  // bytes per write
}

func newFakeNet(shards int, tg target) *fakeNet {
	n := &fakeNet{target: tg, got: make(map[netip.AddrPort]*bytes.Buffer), dialled: make(map[netip.AddrPort]netip.AddrPort)}
	for range shards {
		n.stacks = append(n.stacks, &fakeStack{net: n, wake: make(chan struct{}, 1)})
	}
	return n
}

func (n *fakeNet) AcquireCopy(client netip.AddrPort, number int, _ bool) (netstack.Lease, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.exhausted {
		return netstack.Lease{}, netstack.ErrNoTuple
	}
	n.leased++
	client = copyOf(client, number)
	return netstack.Lease{Client: client, Shard: int(client.Port()) % len(n.stacks)}, nil
}

// copyOf returns the outward address of a copy.
func copyOf(client netip.AddrPort, number int) netip.AddrPort {
	if number == 0 {
		return client
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 200, byte(number >> 8), byte(number)}), client.Port())
}

func (n *fakeNet) Renew(l netstack.Lease) (netstack.Lease, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.exhausted {
		return netstack.Lease{}, netstack.ErrNoTuple
	}
	n.leased++
	port := l.Client.Port()
	for taken := true; taken; _, taken = n.dialled[netip.AddrPortFrom(l.Client.Addr(), port)] {
		port += uint16(len(n.stacks))
	}
	l.Client = netip.AddrPortFrom(l.Client.Addr(), port)
	return l, nil
}

func (n *fakeNet) Release(netstack.Lease)           { n.mu.Lock(); n.leased--; n.mu.Unlock() }
func (n *fakeNet) CheckTarget(netip.AddrPort) error { return nil }
func (n *fakeNet) Shards() int                      { return len(n.stacks) }
func (n *fakeNet) Stack(i int) stack                { return n.stacks[i] }
func (n *fakeNet) Stats() netstack.Stats            { return netstack.Stats{} }
func (n *fakeNet) Name() string                     { return "fake0" }
func (n *fakeNet) Close() error                     { return nil }

// received returns what the target got from a client.
func (n *fakeNet) received(client netip.AddrPort) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	if b := n.got[client]; b != nil {
		return b.String()
	}
	return ""
}

// dialledTo returns where a client's connection was dialled to.
func (n *fakeNet) dialledTo(client netip.AddrPort) netip.AddrPort {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.dialled[client]
}

// fakeStack is a stack whose news come from a goroutine that plays the TUN.
type fakeStack struct {
	net  *fakeNet
	tap  netstack.Tap
	wake chan struct{}

	mu    sync.Mutex
	ready []*fakeConn
}

func (s *fakeStack) SetTap(t netstack.Tap) { s.tap = t }
func (s *fakeStack) Wake() <-chan struct{} { return s.wake }

func (s *fakeStack) Ready(dst []*session) []*session {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.ready {
		if !c.released {
			dst = append(dst, c.session)
		}
	}
	s.ready = s.ready[:0]
	return dst
}

func (s *fakeStack) Dial(l netstack.Lease, target netip.AddrPort, user uint64, sess *session) (conn, error) {
	s.net.mu.Lock()
	s.net.dialled[l.Client] = target
	s.net.leased-- // the conn's now
	s.net.mu.Unlock()
	c := &fakeConn{stack: s, user: user, session: sess, client: l.Client}
	c.act(func() {
		c.state = replay.ConnEstablished
		switch {
		case s.net.target.refuse:
			c.state = replay.ConnRefused
		case s.net.target.absent:
			c.state = replay.ConnTimedOut
		}
	})
	return c, nil
}

type fakeConn struct {
	stack    *fakeStack
	user     uint64
	session  *session
	client   netip.AddrPort
	released bool // of the worker

	mu      sync.Mutex
	state   replay.ConnState
	answers int
	acked   uint64
	fin     bool
}

// act lets the target do something: a packet of it passes the tap, on another
// goroutine than the worker's, and then there are news.
func (c *fakeConn) act(f func()) {
	go func() {
		c.mu.Lock()
		f()
		c.mu.Unlock()
		c.stack.tap(c.user, time.Now().UnixNano(), make([]byte, 40), 0)
		c.stack.mu.Lock()
		if !slices.Contains(c.stack.ready, c) {
			c.stack.ready = append(c.stack.ready, c)
		}
		c.stack.mu.Unlock()
		select {
		case c.stack.wake <- struct{}{}:
		default:
		}
	}()
}

func (c *fakeConn) State() replay.ConnState {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state
}

func (c *fakeConn) Write(p []byte) (int, error) {
	n := c.stack.net
	n.mu.Lock()
	b := n.got[c.client]
	if b == nil {
		b = new(bytes.Buffer)
		n.got[c.client] = b
	}
	b.Write(p)
	n.mu.Unlock()
	size := len(p)
	c.act(func() { c.acked += uint64(size); c.answers += n.target.answer })
	return size, nil
}

func (c *fakeConn) Absorb() (int, bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.answers
	c.answers = 0
	return n, c.fin, nil
}

func (c *fakeConn) CloseWrite() error {
	if !c.stack.net.target.silent {
		c.act(func() { c.fin, c.state = true, replay.ConnFinished })
	}
	return nil
}

func (c *fakeConn) Acked() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.acked
}

func (c *fakeConn) Abort()   {}
func (c *fakeConn) Release() { c.stack.mu.Lock(); c.released = true; c.stack.mu.Unlock() }
func (c *fakeConn) Connect() time.Duration {
	if tg := c.stack.net.target; c.State() == replay.ConnConnecting || tg.refuse || tg.absent {
		return 0
	}
	return 250 * time.Microsecond
}

// wait waits for a condition that must come about.
func wait(t *testing.T, what string, cond func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	poll := time.NewTicker(time.Millisecond)
	defer poll.Stop()
	for !cond() {
		select {
		case <-deadline:
			t.Fatalf("%s does not come about", what)
		case <-poll.C:
		}
	}
}
