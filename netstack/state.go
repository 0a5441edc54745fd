package netstack

import (
	"errors"
	"fmt"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// State of a conn, as its owner needs it:
//
//	Connecting ──SYN-ACK──▶ Established ──both FINs──▶ Finished
//	     │                       ├──RST──▶ Reset
//	     │                       └──no ACK for too long──▶ TimedOut
//	     ├──RST──▶ Refused
//	     └──no answer──▶ TimedOut
//
// All but the first two are final.
type State uint8

// The states of a conn.
const (
	Connecting  State = iota
	Established       // half-closed in either direction too
	Refused           // the SYN was answered with a reset or an ICMP error
	TimedOut          // no answer
	Reset             // by the target after it was established, or by Abort
	Finished          // both sides' FIN done
)

// String returns the state as a metric label.
func (s State) String() string {
	switch s {
	case Connecting:
		return "connecting"
	case Established:
		return "established"
	case Refused:
		return "refused"
	case TimedOut:
		return "timed_out"
	case Reset:
		return "reset"
	case Finished:
		return "finished"
	}
	return fmt.Sprintf("state_%d", uint8(s))
}

// What Write, Absorb and CloseWrite return on a conn that is over; State says why.
var (
	// ErrClosed says that the conn is over, or our side of it closed.
	ErrClosed = errors.New("connection closed")
	// ErrReset says that the connection was reset.
	ErrReset = errors.New("connection reset")
	// ErrRefused says that nobody listens at the target.
	ErrRefused = errors.New("connection refused")
	// ErrTimeout says that the target stopped answering.
	ErrTimeout = errors.New("connection timed out")
)

// State returns the state of the conn now.
func (c *Conn) State() State {
	if c.state > Established {
		return c.state
	}
	switch tcp.EndpointState(c.ep.State()) {
	case tcp.StateInitial, tcp.StateBound, tcp.StateConnecting, tcp.StateSynSent, tcp.StateSynRecv:
		switch {
		case c.rejected.Load():
			c.state = Refused
			c.Abort()
		case c.expired.Load():
			c.state = TimedOut
			c.Abort()
		}
	case tcp.StateTimeWait:
		c.state = Finished
	case tcp.StateClose:
		if c.state = Finished; c.ep.LastError() != nil { // reset after the target's FIN
			c.state = Reset
		}
	case tcp.StateError:
		if terr := c.ep.LastError(); terr != nil {
			c.fail(terr)
		} else {
			c.state = Reset
		}
	default:
		c.state = Established
	}
	return c.state
}

// fail sets the final state that an error of the endpoint means.
func (c *Conn) fail(terr tcpip.Error) {
	if c.state > Established {
		return
	}
	switch terr.(type) {
	case *tcpip.ErrConnectionRefused:
		c.state = Refused
	case *tcpip.ErrTimeout, *tcpip.ErrHostUnreachable, *tcpip.ErrNetworkUnreachable, *tcpip.ErrNoNet, *tcpip.ErrHostDown:
		c.state = TimedOut
	default:
		c.state = Reset
	}
}

// outcome turns an error of an endpoint's operation into ours. gVisor tells the
// reason of an endpoint's end once only, to whoever asks first, so it is kept.
func (c *Conn) outcome(terr tcpip.Error) error {
	switch terr.(type) {
	case nil, *tcpip.ErrWouldBlock:
		return nil
	case *tcpip.ErrClosedForSend, *tcpip.ErrClosedForReceive, *tcpip.ErrNotConnected:
		c.State()
	default:
		c.fail(terr)
	}
	switch c.state {
	case Refused:
		return ErrRefused
	case TimedOut:
		return ErrTimeout
	case Reset:
		return ErrReset
	default:
		return ErrClosed
	}
}
