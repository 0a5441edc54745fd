package netstack

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"net/netip"
)

// tupleKey is an outward address and port in eight bytes: a pool's address is
// its index within the pool. It is free of pointers, so that millions of waiting
// tuples cost the garbage collector nothing.
//
//	bit 49: original   bit 48: IPv6   bits 16–47: index of the address   bits 0–15: port
//
// For a client's original address, which is of no pool, the index is the IPv4
// address itself, or a hash of the IPv6 address: two addresses of the same hash
// share their ports.
type tupleKey uint64

const (
	keyV6       tupleKey = 1 << 48
	keyOriginal tupleKey = 1 << 49
)

func newKey(v6 bool, index uint32, port uint16) tupleKey {
	k := tupleKey(index)<<16 | tupleKey(port)
	if v6 {
		k |= keyV6
	}
	return k
}

// originalKey names an address that is of no pool.
func originalKey(v6 bool, addr []byte, port uint16) tupleKey {
	if !v6 {
		return newKey(false, binary.BigEndian.Uint32(addr), port) | keyOriginal
	}
	return newKey(true, uint32(hashClient(netip.AddrFrom16([16]byte(addr)))), port) | keyOriginal
}

func (k tupleKey) v6() bool                 { return k&keyV6 != 0 }
func (k tupleKey) original() bool           { return k&keyOriginal != 0 }
func (k tupleKey) index() uint32            { return uint32(k >> 16) }
func (k tupleKey) port() uint16             { return uint16(k) }
func (k tupleKey) address() uint64          { return uint64(k >> 16) }
func (k tupleKey) shard(n int) int          { return int(mix(uint64(k)) % uint64(n)) }
func (k tupleKey) onPort(p uint16) tupleKey { return k&^0xffff | tupleKey(p) }

// mix spreads the bits of x over the whole word (the finalizer of splitmix64).
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// hashClient returns a hash of a client's address that is the same in every run,
// so that a client keeps its outward address across restarts.
func hashClient(a netip.Addr) uint64 {
	b := a.As16()
	h := mix(binary.LittleEndian.Uint64(b[:8]) + 0x9e3779b97f4a7c15)
	return mix(h ^ bits.RotateLeft64(binary.LittleEndian.Uint64(b[8:]), 32))
}

// A pool numbers the addresses of some prefixes of one family, and turns numbers
// into addresses and back without a table.
type pool struct {
	parts  []poolPart
	size   uint32 // addresses in all parts
	stride uint64 // from the address of one copy of a client to the next one's
}

// poolPart is one prefix. Of a prefix larger than 2^31 addresses only the lowest
// 2^31 are used.
type poolPart struct {
	prefix netip.Prefix
	first  uint32 // index of its first address
	count  uint32
	base4  uint32 // the first address of an IPv4 prefix
}

const maxPoolSize = 1 << 31

// newPools splits the prefixes by family and checks them.
func newPools(prefixes []netip.Prefix) (v4, v6 pool, err error) {
	for i, p := range prefixes {
		if !p.IsValid() {
			return v4, v6, fmt.Errorf("pool: entry %d is not a prefix", i+1)
		}
		if p.Addr().Is4In6() {
			return v4, v6, fmt.Errorf("pool %v: write an IPv4 prefix in its own form", p)
		}
		p = p.Masked()
		for _, q := range prefixes[:i] {
			if p.Overlaps(q) {
				return v4, v6, fmt.Errorf("pool: %v and %v overlap", q, p)
			}
		}
		if a := p.Addr(); a.IsLoopback() || a.IsMulticast() || a.IsUnspecified() || a.IsLinkLocalUnicast() {
			return v4, v6, fmt.Errorf("pool %v: not a range of ordinary unicast addresses", p)
		}
		to := &v4
		if p.Addr().Is6() {
			to = &v6
		}
		if err := to.add(p); err != nil {
			return v4, v6, err
		}
	}
	v4.stride, v6.stride = strideOf(uint64(v4.size)), strideOf(uint64(v6.size))
	return v4, v6, nil
}

// strideOf returns a step that meets each of size addresses once before any of them
// twice, and leaves wide gaps: near the golden section, without a common factor.
func strideOf(size uint64) uint64 {
	for step := size * 618 / 1000; step > 1; step-- {
		if gcd(step, size) == 1 {
			return step
		}
	}
	return 1
}

func gcd(a, b uint64) uint64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

var errPoolTooLarge = errors.New("pool: more than 2^31 addresses")

func (p *pool) add(prefix netip.Prefix) error {
	hostBits := min(prefix.Addr().BitLen()-prefix.Bits(), 31)
	count := uint32(1) << hostBits
	if uint64(p.size)+uint64(count) > maxPoolSize {
		return fmt.Errorf("%w with %v", errPoolTooLarge, prefix)
	}
	part := poolPart{prefix: prefix, first: p.size, count: count}
	if prefix.Addr().Is4() {
		b := prefix.Addr().As4()
		part.base4 = binary.BigEndian.Uint32(b[:])
	}
	p.parts = append(p.parts, part)
	p.size += count
	return nil
}

// addr returns the address numbered index, which must be below size.
func (p *pool) addr(index uint32) netip.Addr {
	for _, part := range p.parts {
		if n := index - part.first; n < part.count {
			return addToAddr(part.prefix.Addr(), n)
		}
	}
	panic("netstack: address number beyond the pool")
}

// usable reports whether the address may be a client's: the lowest and highest
// of an IPv4 prefix look like a network's and its broadcast address, and IPv6's
// lowest is the subnet-router anycast address. Very small prefixes use all.
func (p *pool) usable(index uint32) bool {
	for _, part := range p.parts {
		if n := index - part.first; n < part.count {
			if part.count <= 2 {
				return true
			}
			return n != 0 && (n != part.count-1 || part.prefix.Addr().Is6())
		}
	}
	return false
}

// indexOf returns the number of an address of the pool.
func (p *pool) indexOf(a netip.Addr) (uint32, bool) {
	for _, part := range p.parts {
		if part.prefix.Contains(a) {
			n, ok := addrOffset(part.prefix.Addr(), a)
			return part.first + n, ok && n < part.count
		}
	}
	return 0, false
}

// addToAddr adds n to the last 32 bits of a, which are zero where n is not.
func addToAddr(a netip.Addr, n uint32) netip.Addr {
	if a.Is4() {
		b := a.As4()
		binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])+n)
		return netip.AddrFrom4(b)
	}
	b := a.As16()
	binary.BigEndian.PutUint32(b[12:], binary.BigEndian.Uint32(b[12:])+n)
	return netip.AddrFrom16(b)
}

// addrOffset returns how far a lies above base; false when beyond 32 bits.
func addrOffset(base, a netip.Addr) (uint32, bool) {
	x, y := base.As16(), a.As16()
	if [12]byte(x[:12]) != [12]byte(y[:12]) {
		return 0, false
	}
	return binary.BigEndian.Uint32(y[12:]) - binary.BigEndian.Uint32(x[12:]), true
}

// indexOf4 is indexOf for an IPv4 address as a number.
func (p *pool) indexOf4(a uint32) (uint32, bool) {
	for i := range p.parts {
		if n := a - p.parts[i].base4; n < p.parts[i].count {
			return p.parts[i].first + n, true
		}
	}
	return 0, false
}
