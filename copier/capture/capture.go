// Package capture brings packets in from the online server's interfaces, through
// AF_PACKET rings (TPACKET_V3) shared with the kernel.
//
// A filter in the kernel picks the packets of the servers asked for: those to a
// server are captured whole, those from it are cut to their headers. Of every
// packet of a server on this host it takes one copy, however often the kernel taps
// it: on the way in for packets to the server, on the way out for packets from it.
// Packets of a server elsewhere are taken wherever they pass, on each interface.
//
// A [Ring] is read by one goroutine without copy, lock or allocation per packet:
// it is lent one block of packets at a time. When it is slow the ring fills and
// the kernel counts drops; the host's own traffic never waits.
//
// All unsafe code of the module is in ring_linux.go.
package capture

import (
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"time"

	"flowtwin/internal/flow"
	"flowtwin/internal/packet"
)

// A Match selects the packets of one server address: to it whole, from it cut to
// the headers.
type Match struct {
	// Addr zero is any address, of packets that are directed to this host. One that
	// is not this host's is a server whose packets only pass: one in a container, or
	// one behind a mirror port, whose interface has to be named.
	Addr netip.Addr
	Port uint16
}

// Config configures [Open]. The zero value of every field but Matches is usable.
type Config struct {
	// NetNS is where to capture: the file of a network namespace, or the number of a
	// process in it; "" is the caller's.
	NetNS string
	// Interfaces are names. One that is removed and made again later is followed.
	// Without a name it is all that are up, now and later, but FlowTwin's own TUN
	// devices, and what is seen again at a device on top: ports of bridges and
	// bonds, and frames with a VLAN tag. Named ones take others' frames, too
	// (promiscuous mode, for as long as the set is open), when a match is not of
	// this host.
	Interfaces []string
	Matches    []Match
	Choice     flow.Choice // of clients; empty: all
	// Decap is what the packets come in that another host mirrors to this one. Not
	// none, nothing else is captured, each Match needs an address, and there is one
	// ring: the packets around do not tell which flow is inside.
	Decap     packet.Encap
	Rings     int           // one per shard, hashed by flow (PACKET_FANOUT_HASH) when > 1
	RingBytes int           // per ring, default 8 MiB
	Block     int           // bytes, the most that is captured of a packet; default 128 KiB, more where interfaces merge more
	Retire    time.Duration // a packet waits at most so long for its block, default 1 ms
	Log       *slog.Logger
}

// Each timeout hands a block over, be there one packet in it, so the number of
// blocks is how many timeouts the reader may be away before packets are dropped.
// With four busy loops on the CPU of the reader, 10,000 packets/s, 8 MiB and 1 ms,
// blocks of 1 MiB, 512, 256 and 128 KiB lost 728, 1460, 112 and 0 of 50,000 (a run each).
//
// The timeout costs wakes, and is the delay of packets. With 1, 2 and 4 ms the
// process took 0.9, 0.8 and 0.5 % of a CPU at 1,000 packets/s spread evenly, 1.2,
// 0.7 and 0.6 % at 5,000, 1.2, 0.4 and 0.4 % at 10,000; the mean delay is half the
// timeout. (On Linux 6.18. Older kernels round it up to their ticks of 1 to 10 ms.)
const (
	defaultRingBytes = 8 << 20
	defaultRetire    = time.Millisecond

	minBlock = 128 << 10 // a super-packet of 64 KiB and the headers around it
	maxRings = 256       // PACKET_FANOUT_MAX of old kernels
)

// blockHeadroom is more than the headers of a block and of a packet in it.
const blockHeadroom = 4096

// blockFor returns the size of blocks that hold packets of mergeBytes, four to a
// ring at least: what is larger yet is cut, which its reader sees.
func blockFor(mergeBytes, ringBytes int) int {
	n := minBlock
	for n < mergeBytes+blockHeadroom && n*8 <= ringBytes {
		n *= 2
	}
	return n
}

// filled returns c with its defaults, or says which field is wrong.
func (c Config) filled() (Config, error) {
	if len(c.Matches) == 0 {
		return c, fmt.Errorf("capture: Matches: none given")
	}
	for _, m := range c.Matches {
		if m.Port == 0 {
			return c, fmt.Errorf("capture: Matches: %v has no port", m.Addr)
		}
		if c.Decap != 0 && !m.Addr.IsValid() {
			return c, fmt.Errorf("capture: Matches: port %d has no address, as mirrored packets need", m.Port)
		}
	}
	c.Rings = defaulted(c.Rings, 1)
	c.RingBytes = defaulted(c.RingBytes, defaultRingBytes)
	c.Retire = defaulted(c.Retire, defaultRetire)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	page := os.Getpagesize()
	switch {
	case c.Rings < 0 || c.Rings > maxRings:
		return c, fmt.Errorf("capture: Rings: %d is not within 1..%d", c.Rings, maxRings)
	case c.Decap != 0 && c.Rings > 1:
		return c, fmt.Errorf("capture: Rings: %d, mirrored packets take 1", c.Rings)
	case c.Block != 0 && (c.Block < minBlock || c.Block%page != 0):
		return c, fmt.Errorf("capture: Block: %d bytes is not a multiple of %d from %d on", c.Block, page, minBlock)
	case c.RingBytes < 2*max(c.Block, minBlock):
		return c, fmt.Errorf("capture: RingBytes: %d bytes do not hold two blocks of %d", c.RingBytes, max(c.Block, minBlock))
	case c.Retire < time.Millisecond:
		return c, fmt.Errorf("capture: Retire: %v is less than 1ms", c.Retire)
	}
	return c, nil
}

func defaulted[T comparable](v, d T) T {
	var zero T
	if v == zero {
		return d
	}
	return v
}

// Packet is one captured packet. Its Data is memory of the ring, lent until the
// reader's next call of [Ring.Next] or [Ring.Release]: what has to outlive that
// is copied. Reading it later reads other packets, or faults after Close.
type Packet struct {
	Data     []byte // from the IP header on (VLAN tags skipped)
	WireLen  int    // of the same bytes, before the filter or the block cut them
	Time     int64  // ns since the epoch, from the kernel
	Iface    int32
	ToServer bool  // false is a packet from the server
	Recorded int64 // of a replayed packet: its time in the recording; else 0

	// Fault is what is wrong with the packet that a mirrored one came in; Data is
	// nothing then.
	Fault packet.Fault

	// Checked says that the TCP checksum needs no look: the network card has found
	// it right, or it is not there yet, as of packets that stay on the host or were
	// merged. Otherwise it is the reader's to check; the kernel will only afterwards.
	Checked bool
}

// Stats of one ring.
type Stats struct {
	// Packets that passed the filter, dropped ones included, and IPv6 packets with
	// extension headers of which the reader sees only those to a server.
	Packets uint64
	Drops   uint64 // packets for which the ring had no room
	Freezes uint64 // how often it filled up
}
