package tunnel

import (
	"errors"
	"net"
	"sync/atomic"
	"syscall"

	"golang.org/x/net/ipv4"
)

// A flapConn outlives an interface that goes down for a moment, a route that is
// replaced, a firewall that is loaded anew. Then the kernel refuses to send at once,
// and quic-go would end the connection; what was refused counts as lost on the way
// instead: it is sent again, and if nothing gets through the connection ends as idle.
// That holds once something was heard: before, the refusal tells at once which of a
// responder's addresses are of no use.
type flapConn struct {
	*quietConn
	heard atomic.Bool
}

// ReadBatch notes that something was heard.
func (f *flapConn) ReadBatch(ms []ipv4.Message, flags int) (int, error) {
	n, err := f.quietConn.ReadBatch(ms, flags)
	if n > 0 && !f.heard.Load() {
		f.heard.Store(true)
	}
	return n, err
}

// WriteMsgUDP sends b, unless the network is away.
func (f *flapConn) WriteMsgUDP(b, oob []byte, addr *net.UDPAddr) (n, oobn int, err error) {
	n, oobn, err = f.quietConn.WriteMsgUDP(b, oob, addr)
	if err != nil && f.heard.Load() && passes(err) {
		return len(b), len(oob), nil
	}
	return n, oobn, err
}

// passes reports whether what the kernel has refused to send it may take later.
func passes(err error) bool {
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return false
	}
	switch errno {
	case syscall.ENETUNREACH, syscall.EHOSTUNREACH, syscall.ENETDOWN, syscall.EHOSTDOWN,
		syscall.EADDRNOTAVAIL, syscall.ENOBUFS, syscall.EPERM:
		return true
	default: // EMSGSIZE and EIO tell quic-go what the path and the device can do
		return false
	}
}
