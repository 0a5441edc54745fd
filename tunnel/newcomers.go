package tunnel

import (
	"errors"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
)

const (
	// maxUnproven is how many connections may be between their first packet and
	// the proof of the secret, and maxSource how many of them may come from one
	// host: those of two sessions.
	maxUnproven = 64
	maxSource   = 2 * MaxConnections
	// maxLeaving bounds the connections that had to give way and have not yet
	// ended together with those that have a place.
	maxLeaving = 8 * maxUnproven
	// validateFrom is from how many on addresses must be validated first (RFC
	// 9000, 8.1.2), so that nobody takes places in another's name.
	validateFrom = 8
	// patience is how old a newcomer must be to give way to one of its own host.
	patience = time.Second
)

// A newcomer is a connection without a proof.
type newcomer struct {
	source netip.Prefix
	since  time.Time
	left   func()      // gives its place back
	named  atomic.Bool // its end has been logged, or is receive's to log

	// Guarded by newcomers.mu.
	conn *quic.Conn // nil before its TLS handshake has begun
	out  bool       // had to give way
}

// newcomerKey finds a connection's newcomer in its context.
type newcomerKey struct{}

// newcomers shares the places out. When none is free the newcomer gets that of
// the oldest connection of the host that has most: whoever takes them all takes
// them from itself.
type newcomers struct {
	mu   sync.Mutex
	list []*newcomer // those with a place, oldest first
	all  int         // and those that had to give way and have not ended
}

// crowded reports whether addresses must be validated.
func (c *newcomers) crowded() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.list) >= validateFrom
}

// admit gives n a place; out is the connection that lost its own, if it has come
// so far.
func (c *newcomers) admit(n *newcomer) (out *quic.Conn, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	count := make(map[netip.Prefix]int)
	for _, o := range c.list {
		count[o.source]++
	}
	var oldest *newcomer
	switch {
	case c.all >= maxLeaving:
		return nil, errors.New("too many connections at once")
	case count[n.source] >= maxSource:
		i := slices.IndexFunc(c.list, func(o *newcomer) bool { return o.source == n.source })
		if oldest = c.list[i]; n.since.Sub(oldest.since) < patience {
			return nil, errors.New("too many connections at once from one host")
		}
	case len(c.list) >= maxUnproven:
		for _, o := range c.list {
			if oldest == nil || count[o.source] > count[oldest.source] {
				oldest = o
			}
		}
	}
	if oldest != nil {
		oldest.out = true
		out = oldest.conn
		c.remove(oldest)
	}
	c.list = append(c.list, n)
	c.all++
	n.left = sync.OnceFunc(func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.all--
		c.remove(n)
	})
	return out, nil
}

// remove takes n's place away if it has one.
func (c *newcomers) remove(n *newcomer) {
	if i := slices.Index(c.list, n); i >= 0 {
		c.list = slices.Delete(c.list, i, i+1)
	}
}

// arrived tells n's connection; false when it has had to give way already.
func (c *newcomers) arrived(n *newcomer, conn *quic.Conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	n.conn = conn
	return !n.out
}

// sourceOf returns what counts as one host: an IPv6 host has a /64 for itself.
func sourceOf(a netip.Addr) netip.Prefix {
	bits := 32
	if a.Is6() {
		bits = 64
	}
	p, _ := a.WithZone("").Prefix(bits) // zero for the zero Addr
	return p
}
