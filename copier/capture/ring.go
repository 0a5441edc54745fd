package capture

import (
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/bpf"

	"flowtwin/internal/packet"
)

// A Ring is read by one goroutine, which calls Next, Packet and Release. The
// other methods are for any goroutine.
type Ring struct {
	sock  *socket
	decap packet.Encap

	// lease is held by the reader inside Next and for as long as it has a block,
	// and by free, which so waits for the reader before it frees the memory.
	lease  sync.Mutex
	held   bool          // lease: the reader has a block
	match  matcher       // lease, but what it matches by
	pace   pace          // lease
	retire time.Duration // of blocks

	closed atomic.Bool
	woken  atomic.Bool

	mu   sync.Mutex // of what others than the reader do with sock
	past Stats      // mu; all that was read from the kernel
}

func newRing(s *socket, cfg *Config, by *selection) *Ring {
	r := &Ring{sock: s, decap: cfg.Decap, retire: cfg.Retire}
	r.match.by.Store(by)
	return r
}

// Next releases the block it returned before and waits for the next one: true
// with a block to walk by Packet; false after timeout, Wake, or without visible
// reason. It does not wait when a block is there, nor with a timeout of 0. It
// returns os.ErrClosed once the set is closed.
func (r *Ring) Next(timeout time.Duration) (bool, error) {
	if r.held {
		r.sock.blocks.release()
		r.held = false
	} else if !r.lease.TryLock() {
		if r.closed.Load() {
			return false, os.ErrClosed
		}
		panic("capture: two goroutines read one Ring")
	}
	ok, err := r.take(timeout)
	if r.held = ok; !ok {
		r.lease.Unlock()
	}
	return ok, err
}

// Release gives the block of the last Next back, if there is one. A reader that
// does not call Next again calls Release, or Close waits for it for ever.
func (r *Ring) Release() {
	if r.held {
		r.sock.blocks.release()
		r.held = false
		r.lease.Unlock()
	}
}

// take waits for a block. The reader holds the lease.
func (r *Ring) take(timeout time.Duration) (bool, error) {
	if r.closed.Load() {
		return false, os.ErrClosed
	}
	if r.sock.blocks.take() {
		r.pace.took(r.sock.blocks.left)
		return true, nil
	}
	if timeout <= 0 {
		return false, nil
	}
	now := time.Now()
	rest := r.pace.rest(now, r.retire)
	// The deadline is set before woken is looked at: a Wake that comes later
	// moves it to the past.
	if err := r.sock.waiter.SetDeadline(now.Add(timeout)); err != nil {
		return false, err
	}
	if r.woken.Swap(false) {
		return false, nil
	}
	ok, err := r.wait(min(rest, timeout))
	if !ok {
		r.woken.Store(false)
		return false, err
	}
	r.pace.took(r.sock.blocks.left)
	return true, nil
}

func (r *Ring) wait(rest time.Duration) (bool, error) {
	if rest > 0 {
		return r.sock.rest(rest)
	}
	return r.sock.wait()
}

// Packet fills p with the next packet of the block, or reports false at its end.
// It borrows p; what p.Data points to is lent, see [Packet].
func (r *Ring) Packet(p *Packet) bool {
	for {
		info, ok := r.sock.blocks.next(p)
		if !ok {
			return false
		}
		if info.innerTag(p) {
			p.Data = p.Data[tagLen:]
			p.WireLen -= tagLen
		}
		if r.decap != 0 && !p.unwrap(r.decap, info) {
			if p.Fault != packet.OK {
				return true
			}
			continue
		}
		if !r.match.needed(p.Data) || r.match.wants(p) {
			return true
		}
	}
}

// Wake makes a Next that waits, or the next one that would, return early.
func (r *Ring) Wake() {
	if r.woken.Swap(true) {
		return // another one is under way
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sock.waiter.Wake()
}

// Stats are the kernel's counts since Open, accumulated (the kernel resets its
// own at every read).
func (r *Ring) Stats() Stats {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.readStatsLocked()
	return r.past
}

func (r *Ring) readStatsLocked() {
	if r.closed.Load() {
		return
	}
	now := r.sock.stats()
	r.past.Packets += now.Packets
	r.past.Drops += now.Drops
	r.past.Freezes += now.Freezes
}

// setFilter gives the ring another filter.
func (r *Ring) setFilter(raw []bpf.RawInstruction) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.sock.setFilter(raw)
}

// bind moves the ring to another interface.
func (r *Ring) bind(ifindex int) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.sock.bind(ifindex)
}

// promiscuous lets interfaces take others' frames for as long as the ring is open.
func (r *Ring) promiscuous(before, now []iface) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.sock.promiscuous(before, now)
}

// shut makes the reader leave.
func (r *Ring) shut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.readStatsLocked()
	r.closed.Store(true)
	r.woken.Store(true)
	r.sock.waiter.Wake()
}

// free waits until the reader has left, and frees the memory.
func (r *Ring) free() error {
	r.lease.Lock() // for good: no reader comes in again
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.sock.close()
}
