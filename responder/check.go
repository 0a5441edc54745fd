package responder

import (
	"fmt"
	"sync"
	"time"

	"flowtwin/tunnel"
)

// startWait bounds how long a copier waits for a responder that is starting: less
// than its handshake may take.
const startWait = 3 * time.Second

// A copier that meets the one comes to the next responder a moment later.
var (
	errStops  = fmt.Errorf("%w: the responder stops", tunnel.ErrNotNow)
	errStarts = fmt.Errorf("%w: the responder is still starting", tunnel.ErrNotNow)
)

// targetCheck decides about copiers' maps. Copiers that come back to a responder
// that is just starting wait: a refusal would end them.
type targetCheck struct {
	ready chan struct{}
	ended chan struct{}
	once  sync.Once // closes ended
	net   network   // set before ready is closed
}

func newTargetCheck() *targetCheck {
	return &targetCheck{ready: make(chan struct{}), ended: make(chan struct{})}
}

// begin says that everything is there, end that it goes: who comes now is told that,
// not what is wrong with a device that is being removed. Further ends do nothing.
func (c *targetCheck) begin(n network) { c.net = n; close(c.ready) }
func (c *targetCheck) end()            { c.once.Do(func() { close(c.ended) }) }

func (c *targetCheck) accept(h tunnel.Hello, rules []Rule) error {
	timeout := time.NewTimer(startWait)
	defer timeout.Stop()
	select {
	case <-c.ready:
	case <-c.ended:
		return errStops
	case <-timeout.C:
		return errStarts
	}
	select {
	case <-c.ended:
		return errStops
	default:
	}
	local, err := localAddrs() // anew: addresses come and go
	if err != nil {
		return err
	}
	for _, m := range h.Maps {
		if err := allowed(m.Target, rules, local); err != nil {
			return err
		}
		if err := c.net.CheckTarget(m.Target); err != nil {
			return err
		}
	}
	return nil
}
