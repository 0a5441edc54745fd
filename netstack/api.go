// Package netstack runs the responder's TCP clients: gVisor stacks whose packets
// enter the host through a TUN device, under outward addresses out of a pool.
// It is the only importer of gVisor and of wireguard/tun.
package netstack

import (
	"errors"
	"log/slog"
	"net/netip"
	"time"
)

// CONTRACT FILE: signatures agreed between packages; netstack's owner moves them
// into files of one idea each and writes the bodies.

// Config configures Open.
type Config struct {
	Name     string         // of the device, default flowtwin%d
	Pool     []netip.Prefix // outward client addresses, IPv4 and IPv6; default 198.18.0.0/15 and a v6 prefix
	Shards   int            // stacks, each with a TUN queue
	MTU      int            // default 65535
	Loopback bool           // a target is in 127.0.0.0/8: set route_localnet on the device
	Log      *slog.Logger
}

// A Net is the TUN device and its stacks.
type Net struct{}

// Open checks everything (capability, /dev/net/tun, overlap of the pool with
// existing routes), then makes the device, sets it up by netlink, and starts the
// stacks. Errors say what to do.
func Open(cfg Config) (*Net, error) { panic("todo") }

func (n *Net) Name() string       { panic("todo") }
func (n *Net) Stack(i int) *Stack { panic("todo") }
func (n *Net) Shards() int        { panic("todo") }
func (n *Net) Stats() Stats       { panic("todo") }

// Close resets what is open, stops the stacks and removes the device.
func (n *Net) Close() error { panic("todo") }

// Stats of the whole Net; any goroutine.
type Stats struct {
	TunPacketsIn, TunPacketsOut uint64
	TunBytesIn, TunBytesOut     uint64
	Strays                      uint64 // packets of the target that belong to no session
	TuplesInUse, TuplesWaiting  int    // waiting: within TIME_WAIT
	TuplesRefused, TuplesMoved  uint64 // moved: client's port was taken, or its address exhausted
}

// ErrNoTuple: no outward address and port is free.
var ErrNoTuple = errors.New("no client address and port is free")

// A Lease is an outward client address held by a session, and the stack that it
// belongs to.
type Lease struct {
	Client netip.AddrPort // outward
	Shard  int
	// and what the allocator needs
}

// Acquire leases the outward address for an online client: the pool address is
// stable per client address, the port is the client's where free. v6 says which
// family the target has. Any goroutine.
func (n *Net) Acquire(client netip.AddrPort, v6 bool) (Lease, error) { panic("todo") }

// Release gives back a lease that no Dial has taken over.
func (n *Net) Release(l Lease) { panic("todo") }

// A Stack is one shard: one gVisor stack and one TUN queue. Its methods, and those
// of its Conns, are for one goroutine (the shard's worker) unless said otherwise.
type Stack struct{}

// Tap is told of every packet the target sends to a conn: user is what Dial was
// given, headers the IP and TCP headers with outward addresses, lent until it
// returns. It runs on the TUN reader's goroutine and must be quick.
type Tap func(user uint64, time int64, headers []byte, payloadLen int)

// SetTap sets the tap, before the first Dial.
func (s *Stack) SetTap(t Tap) { panic("todo") }

// Wake is signalled (capacity 1) when Ready has something.
func (s *Stack) Wake() <-chan struct{} { panic("todo") }

// Ready appends the conns with news since the last call, each once, and returns
// the slice.
func (s *Stack) Ready(dst []*Conn) []*Conn { panic("todo") }

// Dial starts a connection to target from the lease's address; it takes the lease
// over. It returns at once; news come through Ready.
func (s *Stack) Dial(l Lease, target netip.AddrPort, user uint64) (*Conn, error) { panic("todo") }

// A Conn is one TCP connection to the target.
type Conn struct {
	// User is the Dial argument; Session is for the owner of the conn alone.
	User    uint64
	Session any
}

// State of a conn.
type State uint8

const (
	Connecting State = iota
	Established
	Refused  // the SYN was answered with a reset
	TimedOut // no answer
	Reset    // by the target, after it was established
	Finished // both sides' FIN done
)

func (c *Conn) State() State { panic("todo") }

// Write gives bytes to TCP, copying them: it returns how many it took, fewer than
// len(p) when the send buffer is full (Ready tells when there is room again).
func (c *Conn) Write(p []byte) (int, error) { panic("todo") }

// Absorb reads and discards what has come: how many bytes, and whether the target
// has closed its side (all before it read).
func (c *Conn) Absorb() (n int, eof bool, err error) { panic("todo") }

// CloseWrite sends FIN after what was written.
func (c *Conn) CloseWrite() error { panic("todo") }

// Acked returns how many written bytes the target's kernel has acknowledged.
func (c *Conn) Acked() uint64 { panic("todo") }

// Connect returns how long the handshake took (SYN to SYN-ACK at the TUN).
func (c *Conn) Connect() time.Duration { panic("todo") }

// Abort sends RST and ends the conn.
func (c *Conn) Abort() { panic("todo") }

// Release ends the owner's interest: the stack finishes what is under way (FIN,
// TIME_WAIT on our side is not kept), then frees endpoint, translation and lease.
// The conn must not be used after it.
func (c *Conn) Release() { panic("todo") }
