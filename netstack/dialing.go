package netstack

import (
	"sync"
	"time"
)

// connectTimeout ends a connection attempt; gVisor sends SYNs after 1 and 3 s.
// gVisor's own limit of two minutes cannot be set.
const connectTimeout = 5 * time.Second

// dialing remembers the connection attempts of a stack in the order they began,
// without keeping the conns alive, and tells those that took too long.
type dialing struct {
	stack   *Stack
	now     func() time.Duration
	timeout time.Duration

	mu     sync.Mutex
	queue  []attempt
	next   int
	timer  *time.Timer // set while the queue is not empty
	closed bool
}

type attempt struct {
	slot slotID
	key  tupleKey
	at   time.Duration
}

// add notes that c begins to connect.
func (d *dialing) add(c *Conn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.queue = append(d.queue, attempt{c.slot, c.key, d.now() + d.timeout})
	if d.timer == nil && !d.closed {
		d.timer = time.AfterFunc(d.timeout, d.expire)
	}
}

func (d *dialing) expire() {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := d.now()
	for d.next < len(d.queue) && d.queue[d.next].at <= now {
		a := d.queue[d.next]
		d.next++
		c := d.stack.slots(a.key.v6()).at(a.slot)
		if c != nil && c.key == a.key && c.openAt.Load() == 0 {
			c.expired.Store(true)
			c.mark()
		}
	}
	n := copy(d.queue, d.queue[d.next:])
	d.queue, d.next = d.queue[:n], 0
	if n == 0 || d.closed {
		d.timer = nil
		return
	}
	// A tenth of a second is fine enough, and saves waking for each one.
	d.timer.Reset(max(d.queue[0].at-now, 100*time.Millisecond))
}

func (d *dialing) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	if d.timer != nil {
		d.timer.Stop()
	}
}
