package netstack

import "encoding/binary"

// unreachable takes an ICMP message of the kernel: a firewall that rejects, a
// missing route, or an address that is no longer the host's (see lifetime) ends a
// connection attempt at once, as it would a kernel's client's connect. Established
// connections do not listen to ICMP. It reports whether b was about a session.
func (r *reader) unreachable(b []byte) bool {
	inner := unreachableOf(b)
	if inner == nil {
		return false
	}
	var src, dst, ports []byte
	v6 := inner[0]>>4 == 6
	if v6 {
		if len(inner) < ip6Header+4 || inner[6] != protoTCP {
			return false
		}
		src, dst, ports = inner[8:24], inner[24:40], inner[ip6Header:]
	} else {
		ihl := int(inner[0]&15) * 4
		if len(inner) < ihl+4 || inner[9] != protoTCP {
			return false
		}
		src, dst, ports = inner[12:16], inner[16:20], inner[ihl:]
	}
	key, ok := r.net.keyOf(v6, src, binary.BigEndian.Uint16(ports))
	if !ok {
		return false
	}
	c := r.net.stacks[key.shard(len(r.net.stacks))].outward.find(key)
	if c == nil || !c.path.from(dst, binary.BigEndian.Uint16(ports[2:])) || !c.path.to(src) {
		return false
	}
	if c.openAt.Load() == 0 {
		c.rejected.Store(true)
		c.mark()
	}
	return true
}

// unreachableOf returns the packet that a destination-unreachable or time-exceeded
// message is about, or nil when b is something else.
func unreachableOf(b []byte) []byte {
	const (
		icmp4, icmp6       = 1, 58
		unreach4, unreach6 = 3, 1
		exceed4, exceed6   = 11, 3
		needsFragmentation = 4
		icmpHeader         = 8
	)
	var at int
	switch {
	case len(b) >= ip4Header && b[0]>>4 == 4 && b[9] == icmp4:
		at = int(b[0]&15) * 4
		if len(b) < at+icmpHeader+ip4Header || b[at] != exceed4 && (b[at] != unreach4 || b[at+1] == needsFragmentation) {
			return nil
		}
	case len(b) >= ip6Header && b[0]>>4 == 6 && b[6] == icmp6:
		at = ip6Header
		if len(b) < at+icmpHeader+ip6Header || b[at] != unreach6 && b[at] != exceed6 {
			return nil
		}
	default:
		return nil
	}
	inner := b[at+icmpHeader:]
	if inner[0]>>4 != b[0]>>4 {
		return nil
	}
	return inner
}
