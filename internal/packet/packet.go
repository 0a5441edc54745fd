// Package packet reads IPv4 and IPv6 TCP packets in place.
//
// It is the vocabulary every other package speaks: what the copier captures on
// the online server and what the responder sees on its TUN device are both
// looked at through a [View].
//
// Nothing here allocates, blocks, or logs. Malformed input is an ordinary
// value: parsing reports a [Fault] and the caller counts it.
//
// The package imports the standard library only, so that the copier never links
// a TCP stack it does not run.
package packet

import "net/netip"

// Addr is an IP address as 16 bytes, IPv4 in its IPv4-mapped form (RFC 4291,
// 2.5.5.2). It is free of pointers, so that tables keyed by it cost the garbage
// collector nothing.
type Addr [16]byte

// AddrFrom returns a, which must be valid, in this package's form; zones are
// dropped.
func AddrFrom(a netip.Addr) Addr { return a.As16() }

// Netip returns a as a netip.Addr, IPv4-mapped addresses as plain IPv4.
func (a Addr) Netip() netip.Addr { return netip.AddrFrom16(a).Unmap() }

// Is4 reports whether a is an IPv4 address.
func (a Addr) Is4() bool { return netip.AddrFrom16(a).Is4In6() }

// String returns a in the usual text form.
func (a Addr) String() string { return a.Netip().String() }

// Flags are the TCP control bits (RFC 9293, 3.1).
type Flags uint8

// The control bits that FlowTwin looks at.
const (
	FIN Flags = 1 << iota
	SYN
	RST
	PSH
	ACK
	URG
)

// Has reports whether all bits of m are set in f.
func (f Flags) Has(m Flags) bool { return f&m == m }
