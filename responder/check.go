package responder

import (
	"errors"
	"time"

	"flowtwin/tunnel"
)

// startWait bounds how long a copier waits for a responder that is starting: less
// than its handshake may take.
const startWait = 3 * time.Second

// targetCheck decides about copiers' maps. Copiers that come back to a responder
// that is just starting wait: a refusal would end them.
type targetCheck struct {
	ready chan struct{}
	ended chan struct{}
	net   network // set before ready is closed
}

func newTargetCheck() *targetCheck {
	return &targetCheck{ready: make(chan struct{}), ended: make(chan struct{})}
}

// begin says that everything is there, end that nobody need wait any longer.
func (c *targetCheck) begin(n network) { c.net = n; close(c.ready) }
func (c *targetCheck) end()            { close(c.ended) }

func (c *targetCheck) accept(h tunnel.Hello, rules []Rule) error {
	timeout := time.NewTimer(startWait)
	defer timeout.Stop()
	select {
	case <-c.ready:
	case <-c.ended:
		return errors.New("the responder stops")
	case <-timeout.C:
		return errors.New("the responder is still starting")
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
