package responder

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// A Rule allows targets: all addresses in Prefix, on Port or, when that is 0, on
// any port.
type Rule struct {
	Prefix netip.Prefix
	Port   uint16
}

// ParseRule reads addr, addr:port, addr/bits or [addr6]:port.
func ParseRule(s string) (Rule, error) {
	if p, err := netip.ParsePrefix(s); err == nil {
		return Rule{Prefix: p.Masked()}, nil
	}
	if a, err := netip.ParseAddr(strings.Trim(s, "[]")); err == nil && a.Zone() == "" {
		a = a.Unmap()
		return Rule{Prefix: netip.PrefixFrom(a, a.BitLen())}, nil
	}
	host, portText, err := net.SplitHostPort(s)
	if err != nil {
		return Rule{}, fmt.Errorf("%q is not an address, address:port or prefix", s)
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil || port == 0 {
		return Rule{}, fmt.Errorf("%q: port %q is not within 1..65535", s, portText)
	}
	r, err := ParseRule(host)
	if err != nil {
		return Rule{}, fmt.Errorf("%q: %q is not an address", s, host)
	}
	r.Port = uint16(port)
	return r, nil
}

// String returns r as ParseRule reads it.
func (r Rule) String() string {
	s := r.Prefix.String()
	if r.Prefix.IsSingleIP() {
		s = r.Prefix.Addr().String()
	}
	if r.Port != 0 {
		return net.JoinHostPort(s, strconv.Itoa(int(r.Port)))
	}
	return s
}

func (r Rule) allows(t netip.AddrPort) bool {
	return r.Prefix.Contains(t.Addr()) && (r.Port == 0 || r.Port == t.Port())
}

// allowed says why copiers may not send flows to t, or nil. local are this host's
// own addresses: sessions reach nothing else, their packets never leave the host.
func allowed(t netip.AddrPort, rules []Rule, local []netip.Addr) error {
	a := t.Addr()
	switch {
	case !t.IsValid() || a.IsUnspecified() || t.Port() == 0:
		return fmt.Errorf("target %s is not an address and port", t)
	case a == netip.IPv6Loopback():
		return fmt.Errorf("target %s: Linux takes no packets for ::1 from a device; use 127.0.0.1 or another address of the host", t)
	case !isLocal(a, local):
		return fmt.Errorf("target %s is not an address of the responder's host", t)
	}
	if len(rules) == 0 {
		return nil
	}
	for _, r := range rules {
		if r.allows(t) {
			return nil
		}
	}
	return fmt.Errorf("target %s is not allowed by --allow", t)
}

func isLocal(a netip.Addr, local []netip.Addr) bool {
	if a.Is4() && a.IsLoopback() {
		return true // all of 127.0.0.0/8
	}
	return slices.Contains(local, a)
}

// localAddrs returns the addresses of this host.
func localAddrs() ([]netip.Addr, error) {
	list, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("addresses of this host: %w", err)
	}
	var addrs []netip.Addr
	for _, a := range list {
		if n, ok := a.(*net.IPNet); ok {
			if ip, ok := netip.AddrFromSlice(n.IP); ok {
				addrs = append(addrs, ip.Unmap())
			}
		}
	}
	return addrs, nil
}

// loopback reports whether a rule allows a target in 127.0.0.0/8.
func loopback(rules []Rule) bool {
	if len(rules) == 0 {
		return true
	}
	for _, r := range rules {
		if r.Prefix.Overlaps(netip.MustParsePrefix("127.0.0.0/8")) {
			return true
		}
	}
	return false
}
