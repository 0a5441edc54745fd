// Package capture brings packets in: AF_PACKET TPACKET_V3 rings of the online
// server's interfaces.
package capture

import (
	"log/slog"
	"net/netip"
	"time"
)

// CONTRACT FILE: signatures agreed between packages; capture's owner moves them
// into files of one idea each and writes the bodies.

// A Match selects the packets of one server address: to it whole, from it cut to
// the headers.
type Match struct {
	Addr netip.Addr // zero: any
	Port uint16
}

// Config configures Open.
type Config struct {
	Interfaces []string // names; empty: all that are up, now and later, but FlowTwin's own TUN devices
	Matches    []Match
	Rings      int           // one per shard, hashed by flow (PACKET_FANOUT_HASH) when > 1
	RingBytes  int           // per ring, default 8 MiB
	Block      int           // bytes, default 1 MiB (256 KiB holds several super-packets)
	Retire     time.Duration // a packet waits at most so long for its block, default 1 ms
	Log        *slog.Logger
}

// A Set is the rings of one capture.
type Set struct{}

// Open opens and starts all rings. Errors name the interface or capability.
func Open(cfg Config) (*Set, error) { panic("todo") }

// Ring returns ring i.
func (s *Set) Ring(i int) *Ring { panic("todo") }

// Close wakes all readers and frees the rings once each has returned from Next.
func (s *Set) Close() error { panic("todo") }

// A Ring is read by one goroutine.
type Ring struct{}

// Packet is one captured packet, lent until the block it came from is released.
type Packet struct {
	Data     []byte // from the IP header on (VLAN tags skipped)
	WireLen  int    // of the same bytes, before the filter cut them
	Time     int64  // ns since the epoch, from the kernel
	Iface    int32
	ToServer bool // by the match; false: from the server
}

// Next releases the block it returned before and waits for the next one: true
// with a block to walk by Packet, false after timeout or Wake without one.
// os.ErrClosed once the set is closed.
func (r *Ring) Next(timeout time.Duration) (bool, error) { panic("todo") }

// Packet fills p with the next packet of the block, or reports false at its end.
func (r *Ring) Packet(p *Packet) bool { panic("todo") }

// Wake makes a Next that waits, or the next one, return early. Any goroutine.
func (r *Ring) Wake() { panic("todo") }

// Stats are the kernel's counts since Open, accumulated (the kernel resets its
// own at every read). Any goroutine.
func (r *Ring) Stats() Stats { panic("todo") }

// Stats of one ring.
type Stats struct {
	Packets uint64 // that passed the filter, dropped ones included
	Drops   uint64 // for which the ring had no room
	Freezes uint64
}
