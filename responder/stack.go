package responder

import (
	"net/netip"

	"flowtwin/netstack"
	"flowtwin/responder/replay"
)

// A network is what the responder needs of netstack.Net.
type network interface {
	AcquireCopy(client netip.AddrPort, number int, v6 bool) (netstack.Lease, error)
	Release(l netstack.Lease)
	// Renew leases another tuple for the same client, on the same shard.
	Renew(l netstack.Lease) (netstack.Lease, error)
	CheckTarget(target netip.AddrPort) error
	Shards() int
	Stack(i int) stack
	Stats() netstack.Stats
	Name() string
	Close() error
}

// A stack is what a worker needs of netstack.Stack.
type stack interface {
	SetTap(t netstack.Tap)
	Wake() <-chan struct{}
	// Ready appends the sessions whose conns have news.
	Ready(dst []*session) []*session
	// Dial takes the lease over, also when it fails.
	Dial(l netstack.Lease, target netip.AddrPort, user uint64, s *session) (conn, error)
}

// A conn is what a session needs of netstack.Conn.
type conn interface{ replay.Conn }

// realNet is netstack.Net as a network.
type realNet struct{ *netstack.Net }

func (n realNet) Stack(i int) stack { return &realStack{Stack: n.Net.Stack(i)} }

type realStack struct {
	*netstack.Stack
	ready []*netstack.Conn
}

func (s *realStack) Ready(dst []*session) []*session {
	s.ready = s.Stack.Ready(s.ready[:0])
	for _, c := range s.ready {
		// A conn that was released may still be among them; it has no session.
		if sess, ok := c.Session.(*session); ok {
			dst = append(dst, sess)
		}
	}
	clear(s.ready)
	return dst
}

func (s *realStack) Dial(l netstack.Lease, target netip.AddrPort, user uint64, sess *session) (conn, error) {
	c, err := s.Stack.Dial(l, target, user)
	if err != nil {
		return nil, err
	}
	c.Session = sess
	return realConn{c}, nil
}

// realConn is netstack.Conn as a conn; it is one pointer, so that an interface
// holds it without an allocation.
type realConn struct{ *netstack.Conn }

func (c realConn) State() replay.ConnState {
	switch c.Conn.State() {
	case netstack.Connecting:
		return replay.ConnConnecting
	case netstack.Established:
		return replay.ConnEstablished
	case netstack.Refused:
		return replay.ConnRefused
	case netstack.TimedOut:
		return replay.ConnTimedOut
	case netstack.Finished:
		return replay.ConnFinished
	case netstack.Reset:
	}
	return replay.ConnReset
}
