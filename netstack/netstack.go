// Package netstack runs the responder's TCP clients: gVisor stacks whose packets
// enter the host through a TUN device, under outward addresses out of a pool.
//
// A packet's way, and the files in its order:
//
//	Conn.Write ▶ gVisor ▶ linkEndpoint ▶ out: translate ▶ TUN ▶ kernel ▶ target
//	Ready ◀ gVisor ◀ linkEndpoint ◀ reader: tap, translate ◀ TUN ◀ kernel ◀ target
//
// A shard is one Stack: one gVisor stack, one TUN queue with its reader, one
// writer, and the goroutine of the owner, which calls the Conns. Inside a stack
// all sessions share a handful of addresses; the outward address, by which the
// target knows the session, is put on at the TUN (see path.go). An allocator
// leases outward tuples and keeps them unused until the target has forgotten them.
//
// It is the only importer of gVisor and of wireguard/tun. All it changes on the
// host is the device and the routes of the pool, which vanish with the process.
package netstack

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"flowtwin/internal/packet"
)

// Config configures Open. The zero value of a field is its default.
type Config struct {
	Name     string         // of the device, default flowtwin%d
	Pool     []netip.Prefix // outward client addresses, default 198.18.0.0/15 and, where the host has IPv6, 2001:2::/48
	Shards   int            // stacks, each with a TUN queue; default 1
	MTU      int            // default 65535; below 1280 IPv6 does not work
	Loopback bool           // targets in 127.0.0.0/8 are allowed: the first one sets route_localnet on the device
	Line     Line           // the network to emulate; the MTU is 1500 then, unless it is set
	Original bool           // the target sees a client's own address, where that can be
	Force    bool           // with Original: also targets that serve others
	Log      *slog.Logger   // default: discard

	defaultPool bool
}

// Defaults of Config.
const (
	DefaultName = "flowtwin%d"
	DefaultMTU  = 65535
)

const (
	minMTU  = 576
	minMTU6 = 1280 // the kernel has no IPv6 on a device with less
)

// DefaultPool returns the ranges set aside for benchmarks (RFC 2544, RFC 5180),
// which no network routes.
func DefaultPool() []netip.Prefix {
	return []netip.Prefix{netip.MustParsePrefix("198.18.0.0/15"), netip.MustParsePrefix("2001:2::/48")}
}

// A Net is the TUN device and its stacks.
type Net struct {
	cfg     Config
	device  *device
	alloc   *allocator
	answers answers
	own     ownAddrs
	stacks  []*Stack
	readers []*reader
	began   time.Time
	pooled  atomic.Uint64 // leases that are of the pool although Original is set

	failed           chan error // capacity 1
	gone             atomic.Bool
	stop             chan struct{}
	writing, reading sync.WaitGroup
	closed           sync.Once
	err              error
}

// Open checks everything (capability, /dev/net/tun, overlap of the pool with
// existing routes), then makes the device, sets it up by netlink, sees that the
// host's routing rules lead there, and starts the stacks. Errors say what to do.
func Open(cfg Config) (*Net, error) {
	if err := cfg.fill(); err != nil {
		return nil, err
	}
	if _, _, err := newPools(cfg.Pool); err != nil {
		return nil, err
	}
	if err := checkHost(&cfg); err != nil {
		return nil, err
	}
	// Nothing above changes the host.
	n := &Net{began: time.Now(), failed: make(chan error, 1), stop: make(chan struct{})}
	var err error
	if n.device, err = openDevice(&cfg); err != nil {
		return nil, err
	}
	n.cfg = cfg
	old, err := n.prepare()
	if err != nil {
		return nil, errors.Join(err, n.Close())
	}
	for i := range cfg.Shards {
		if err := n.addStack(i); err != nil {
			return nil, errors.Join(err, n.Close())
		}
	}
	for i := range n.stacks {
		n.writing.Go(func() { n.stacks[i].out.run(n.stop) })
		n.reading.Go(n.readers[i].run)
		if l := n.stacks[i].lines; l != nil {
			n.writing.Go(func() { l.run(n.stop) })
		}
	}
	cfg.Log.Info("TUN device is up", "iface", n.device.name, "pool", cfg.Pool, "shards", cfg.Shards, "mtu", cfg.MTU, "old_tuples", old)
	return n, nil
}

// addStack makes stack i and the reader of its queue.
func (n *Net) addStack(i int) error {
	in, err := newQuietFile(n.device.queues[i].File())
	if err != nil {
		return err
	}
	out, err := newQuietFile(n.device.queues[i].File())
	if err != nil {
		return err
	}
	s, err := newStack(n, i, out)
	if err != nil {
		return err
	}
	n.stacks = append(n.stacks, s)
	n.readers = append(n.readers, newReader(n, in))
	return nil
}

// prepare makes the allocator, with the tuples of an earlier run kept back, and
// checks the routes of the device's pool. It returns how many those tuples are.
func (n *Net) prepare() (old int, err error) {
	v4, v6, err := newPools(n.cfg.Pool)
	if err != nil {
		return 0, err
	}
	n.alloc = newAllocator(v4, v6, n.cfg.Shards, n.now)
	for _, p := range []*pool{&n.alloc.v4, &n.alloc.v6} {
		if err := n.device.checkRouting(netip.Addr{}, p); err != nil {
			return 0, err
		}
	}
	if err := n.answers.init(n.device, &n.cfg, n.alloc); err != nil {
		return 0, err
	}
	return occupyOldTuples(n.alloc, n.cfg.Original)
}

// fill validates the configuration and puts the defaults in.
func (c *Config) fill() error {
	if c.Name == "" {
		c.Name = DefaultName
	}
	if err := c.Line.Check(); err != nil {
		return err
	}
	if c.MTU == 0 {
		if c.MTU = DefaultMTU; c.Line.on() {
			c.MTU = lineMTU
		}
	}
	if c.MTU < minMTU || c.MTU > DefaultMTU {
		return fmt.Errorf("MTU %d: must be %d to %d", c.MTU, minMTU, DefaultMTU)
	}
	if len(c.Pool) == 0 {
		c.defaultPool = true
		if c.Pool = DefaultPool(); !ipv6Enabled() || c.MTU < minMTU6 {
			c.Pool = c.Pool[:1]
		}
	}
	for _, p := range c.Pool {
		if p.Addr().Is6() && !ipv6Enabled() {
			return fmt.Errorf("pool %v: IPv6 is switched off on this host", p)
		}
		if p.Addr().Is6() && c.MTU < minMTU6 {
			return fmt.Errorf("pool %v: IPv6 needs an MTU of %d", p, minMTU6)
		}
	}
	if c.Shards == 0 {
		c.Shards = 1
	}
	if c.Shards < 1 || c.Shards > maxQueues {
		return fmt.Errorf("shards %d: must be 1 to %d", c.Shards, maxQueues)
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return nil
}

func (n *Net) now() time.Duration { return time.Since(n.began) }

// Name returns the name of the device.
func (n *Net) Name() string { return n.device.name }

// Stack returns stack i.
func (n *Net) Stack(i int) *Stack { return n.stacks[i] }

// Shards returns how many stacks there are.
func (n *Net) Shards() int { return len(n.stacks) }

// Acquire leases the outward address for an online client: its own one with
// Original, or one of the pool that is stable per client address; the port is the
// client's where free. v6 says which family the target has. Any goroutine.
func (n *Net) Acquire(client netip.AddrPort, v6 bool) (Lease, error) {
	return n.AcquireCopy(client, 0, v6)
}

// AcquireCopy is Acquire for a further copy of a client, from 1. Each copy has a
// stable address of its own, as long as the pool has so many; with Original too.
func (n *Net) AcquireCopy(client netip.AddrPort, number int, v6 bool) (Lease, error) {
	client = netip.AddrPortFrom(client.Addr().Unmap(), client.Port())
	if n.cfg.Original && number == 0 {
		if l, ok := n.keep(client, v6); ok {
			l.RTT = n.cfg.Line.RTT
			return l, nil
		}
		n.pooled.Add(1)
	}
	l, err := n.alloc.acquire(client, number, v6)
	if err != nil {
		return Lease{}, fmt.Errorf("client %v: %w", client, err)
	}
	l.RTT = n.cfg.Line.RTT
	return l, nil
}

// Renew leases another outward tuple for the client that has l, on the stack of l.
// Any goroutine.
func (n *Net) Renew(l Lease) (Lease, error) { return n.alloc.renew(l) }

// Release gives back a lease that no Dial has taken over. Any goroutine.
func (n *Net) Release(l Lease) { n.alloc.release(l.key) }

// Close resets what is open, stops the stacks and removes the device. The owners
// of the stacks must have stopped using them. Further calls return the same.
func (n *Net) Close() error {
	n.closed.Do(func() {
		for _, s := range n.stacks {
			s.close()
		}
		close(n.stop)
		n.writing.Wait()
		n.err = errors.Join(n.answers.close(n.gone.Load()), n.device.close())
		n.reading.Wait()
	})
	return n.err
}

// Failed gets an error when the device is lost, as by "ip link del", or set down,
// which takes its routes away for good: no session works from then on, and the Net
// has to be closed.
func (n *Net) Failed() <-chan error { return n.failed }

// lost reports the loss of the device, once.
func (n *Net) lost(err error) {
	n.gone.Store(true)
	select {
	case n.failed <- fmt.Errorf("TUN device %s is lost: %w", n.Name(), err):
	default:
	}
}

// outwardKey returns the tuple that a packet of the target is addressed to.
func (n *Net) outwardKey(b []byte, v *packet.View) (tupleKey, bool) {
	if b[0]>>4 == 4 {
		return n.keyOf(false, b[16:20], v.DstPort)
	}
	return n.keyOf(true, b[24:40], v.DstPort)
}

// keyOf returns the tuple of an outward address.
func (n *Net) keyOf(v6 bool, addr []byte, port uint16) (tupleKey, bool) {
	var index uint32
	var ok bool
	if v6 {
		index, ok = n.alloc.v6.indexOf(netip.AddrFrom16([16]byte(addr)))
	} else {
		index, ok = n.alloc.v4.indexOf4(binary.BigEndian.Uint32(addr))
	}
	if !ok && n.cfg.Original {
		return originalKey(v6, addr, port), true
	}
	return newKey(v6, index, port), ok
}
