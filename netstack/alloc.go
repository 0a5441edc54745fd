package netstack

import (
	"errors"
	"math/bits"
	"net/netip"
	"sync"
	"time"
)

// ErrNoTuple says that no outward address and port is free: all are in use, or
// wait until the target has forgotten them.
var ErrNoTuple = errors.New("no client address and port is free")

const (
	// timeWait is how long a released tuple stays unused: Linux keeps a closed
	// connection for TCP_TIMEWAIT_LEN, 60 s, and answers a new SYN on its tuple
	// with a challenge.
	timeWait = 61 * time.Second
	// maxTuples bounds the allocator's memory (about 40 bytes each): tuples in
	// use and waiting together.
	maxTuples = 4 << 20
	// firstPort is the lowest port the allocator picks by itself.
	firstPort = 1024
	// randomTries is how many ports of an address are tried before its ports are
	// laid out as a bitmap.
	randomTries = 8
	// maxNextAddrs bounds the walk over exhausted addresses.
	maxNextAddrs = 4096
	// expirePerCall is how many waiting tuples a call frees when their time is
	// over: more than a call can add, and never a long pause.
	expirePerCall = 16
)

// A Lease is an outward client address held for a session, and the stack that
// the session has to run on.
type Lease struct {
	// Client is the outward address: what the target sees.
	Client netip.AddrPort
	// Shard is the number of the stack to Dial on.
	Shard int
	// RTT is the round-trip time that is emulated; the caller sets it where Line
	// says so.
	RTT time.Duration

	key tupleKey
}

// An allocator hands out outward tuples: one address of the pool and one port.
// A tuple is free, held, or waiting:
//
//	free ──acquire──▶ held ──retire──▶ waiting ──timeWait──▶ free
//	                    └────release (never used)────────────▶ free
//
// Any goroutine may call it.
type allocator struct {
	v4, v6 pool
	shards int
	now    func() time.Duration // since some fixed moment

	mu      sync.Mutex
	taken   map[tupleKey]struct{} // held and waiting
	waiting fifo
	crowded map[uint64]*portMap // addresses with few free ports, by tupleKey.address
	picks   uint64              // counts picks, for spreading them
	moved   uint64
	refused uint64
}

func newAllocator(v4, v6 pool, shards int, now func() time.Duration) *allocator {
	return &allocator{
		v4: v4, v6: v6, shards: shards, now: now,
		taken:   make(map[tupleKey]struct{}),
		crowded: make(map[uint64]*portMap),
	}
}

func (a *allocator) pool(v6 bool) *pool {
	if v6 {
		return &a.v6
	}
	return &a.v4
}

// acquire leases a tuple for a client, or for a copy of it. The address is the same
// for the same client and copy as long as it has a free port, and the port is the
// client's where free.
func (a *allocator) acquire(client netip.AddrPort, number int, v6 bool) (Lease, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	p := a.pool(v6)
	a.expire(expirePerCall)
	if p.size == 0 || len(a.taken) >= maxTuples {
		a.refused++
		return Lease{}, ErrNoTuple
	}
	start := uint32((hashClient(client.Addr()) + uint64(number)*p.stride) % uint64(p.size))
	index := start
	for range min(p.size, maxNextAddrs) {
		if p.usable(index) {
			if key, ok := a.pickPort(newKey(v6, index, 0), client.Port()); ok {
				a.take(key)
				if index != start && p.usable(start) || key.port() != client.Port() {
					a.moved++
				}
				return a.lease(key), nil
			}
		}
		if index++; index == p.size {
			index = 0
		}
	}
	a.refused++
	return Lease{}, ErrNoTuple
}

// keep leases a client's own address, with its own port where that is free.
func (a *allocator) keep(client netip.AddrPort) (Lease, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.expire(expirePerCall)
	if len(a.taken) >= maxTuples {
		return Lease{}, false
	}
	key, ok := a.pickPort(a.keyOf(client.Addr()), client.Port())
	if !ok {
		return Lease{}, false
	}
	a.take(key)
	if key.port() != client.Port() {
		a.moved++
	}
	return Lease{Client: netip.AddrPortFrom(client.Addr(), key.port()), Shard: key.shard(a.shards), key: key}, true
}

// keyOf names an address, of the pool or not.
func (a *allocator) keyOf(addr netip.Addr) tupleKey {
	if index, ok := a.pool(addr.Is6()).indexOf(addr); ok {
		return newKey(addr.Is6(), index, 0)
	}
	return originalKey(addr.Is6(), addr.AsSlice(), 0)
}

// renew leases another tuple for the client that has l, on the same shard: a port
// of the same address, or of one of the next in the pool.
func (a *allocator) renew(l Lease) (Lease, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.expire(expirePerCall)
	if len(a.taken) >= maxTuples {
		a.refused++
		return Lease{}, ErrNoTuple
	}
	if l.key.original() {
		if key, ok := a.pickPortOn(l.key, l.Shard); ok {
			a.take(key)
			return Lease{Client: netip.AddrPortFrom(l.Client.Addr(), key.port()), Shard: l.Shard, RTT: l.RTT, key: key}, nil
		}
		a.refused++
		return Lease{}, ErrNoTuple
	}
	p := a.pool(l.key.v6())
	index := l.key.index()
	for range min(p.size, maxNextAddrs) {
		if p.usable(index) {
			if key, ok := a.pickPortOn(newKey(l.key.v6(), index, 0), l.Shard); ok {
				a.take(key)
				next := a.lease(key)
				next.RTT = l.RTT
				return next, nil
			}
		}
		if index++; index == p.size {
			index = 0
		}
	}
	a.refused++
	return Lease{}, ErrNoTuple
}

// pickPortOn finds a free port on the address of base whose tuple is of a shard.
func (a *allocator) pickPortOn(base tupleKey, shard int) (tupleKey, bool) {
	m := a.crowded[base.address()]
	if m == nil {
		for range randomTries * a.shards {
			a.picks++
			port := firstPort + mix(a.picks)%(1<<16-firstPort)
			if key := base.onPort(uint16(port)); key.shard(a.shards) == shard && a.free(key) {
				return key, true
			}
		}
		m = a.layOut(base)
	}
	for port := range 1<<16 - firstPort {
		key := base.onPort(uint16(port + firstPort))
		if key.shard(a.shards) == shard && !m.has(key.port()) {
			return key, true
		}
	}
	return 0, false
}

func (a *allocator) lease(key tupleKey) Lease {
	addr := a.pool(key.v6()).addr(key.index())
	return Lease{Client: netip.AddrPortFrom(addr, key.port()), Shard: key.shard(a.shards), key: key}
}

// pickPort finds a free port on the address of base: want, or some other one.
func (a *allocator) pickPort(base tupleKey, want uint16) (tupleKey, bool) {
	if want != 0 {
		key := base.onPort(want)
		if a.free(key) {
			return key, true
		}
	}
	m := a.crowded[base.address()]
	if m == nil {
		for range randomTries {
			a.picks++
			port := firstPort + mix(a.picks)%(1<<16-firstPort)
			if key := base.onPort(uint16(port)); a.free(key) {
				return key, true
			}
		}
		m = a.layOut(base)
	}
	port, ok := m.next()
	return base.onPort(port), ok
}

func (a *allocator) free(key tupleKey) bool {
	_, taken := a.taken[key]
	return !taken
}

// layOut makes the bitmap of an address whose ports have become hard to find.
func (a *allocator) layOut(base tupleKey) *portMap {
	m := &portMap{}
	for port := range 1 << 16 {
		if !a.free(base.onPort(uint16(port))) {
			m.set(uint16(port))
		}
	}
	a.crowded[base.address()] = m
	return m
}

func (a *allocator) take(key tupleKey) {
	a.taken[key] = struct{}{}
	if len(a.crowded) == 0 {
		return
	}
	if m := a.crowded[key.address()]; m != nil {
		m.set(key.port())
	}
}

func (a *allocator) drop(key tupleKey) {
	delete(a.taken, key)
	if len(a.crowded) == 0 {
		return
	}
	if m := a.crowded[key.address()]; m != nil {
		if m.clear(key.port()); m.used < 1<<14 {
			delete(a.crowded, key.address())
		}
	}
}

// release frees a tuple that no packet has left from.
func (a *allocator) release(key tupleKey) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.drop(key)
}

// retire lets a used tuple wait.
func (a *allocator) retire(key tupleKey) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.waiting.push(key, a.now())
	a.expire(expirePerCall)
}

// occupy lets a tuple wait that an earlier run has used. It reports whether addr
// is of the pool, or else is to be kept back all the same.
func (a *allocator) occupy(addr netip.AddrPort, original bool) bool {
	ip := addr.Addr().Unmap()
	key := a.keyOf(ip).onPort(addr.Port())
	if key.original() && !original {
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.free(key) && len(a.taken) < maxTuples {
		a.take(key)
		a.waiting.push(key, a.now())
	}
	return true
}

// expire frees up to n tuples that have waited long enough.
func (a *allocator) expire(n int) {
	if a.waiting.length == 0 {
		return
	}
	until := a.now() - timeWait
	for range n {
		key, ok := a.waiting.popUntil(until)
		if !ok {
			return
		}
		a.drop(key)
	}
}

// addStats fills in the allocator's part of s.
func (a *allocator) addStats(s *Stats) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.expire(a.waiting.length)
	s.TuplesWaiting = a.waiting.length
	s.TuplesInUse = len(a.taken) - a.waiting.length
	s.TuplesRefused, s.TuplesMoved = a.refused, a.moved
}

// A portMap knows which ports of one address are taken.
type portMap struct {
	bits [1 << 10]uint64
	used int
	last uint32 // word where the last search ended
}

func (m *portMap) has(port uint16) bool { return m.bits[port>>6]&(1<<(port&63)) != 0 }

func (m *portMap) set(port uint16) {
	if bit := uint64(1) << (port & 63); m.bits[port>>6]&bit == 0 {
		m.bits[port>>6] |= bit
		m.used++
	}
}

func (m *portMap) clear(port uint16) {
	if bit := uint64(1) << (port & 63); m.bits[port>>6]&bit != 0 {
		m.bits[port>>6] &^= bit
		m.used--
	}
}

// next finds a free port from firstPort up, going round from where the last
// search ended.
func (m *portMap) next() (uint16, bool) {
	const words = 1<<10 - firstPort>>6
	for i := range uint32(words) {
		w := firstPort>>6 + (m.last+i)%words
		if free := ^m.bits[w]; free != 0 {
			m.last = w - firstPort>>6
			return uint16(w<<6) + uint16(bits.TrailingZeros64(free)), true
		}
	}
	return 0, false
}
