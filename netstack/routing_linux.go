package netstack

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ErrRouting says that the host's routing rules would send answers somewhere else
// than to the TUN device: pool addresses would appear on a real wire, and sessions
// get no answer.
var ErrRouting = errors.New("policy routing leads answers away from the TUN device")

// checkRouting asks the kernel where packets from src to the pool go, or, when src
// is the zero Addr, packets from no address in particular. Routes of the main
// table were compared before (checkOverlap); this finds the rules that come before
// that table, which depend on the source. Marks that an application puts on its
// sockets are beyond it.
func (d *device) checkRouting(src netip.Addr, p *pool) error {
	if p.size == 0 {
		return nil
	}
	d.asking.Lock()
	defer d.asking.Unlock()
	if d.netlink == nil {
		return os.ErrClosed
	}
	family := netlink.FAMILY_V4
	if isV6(p.parts[0].prefix) {
		family = netlink.FAMILY_V6
	}
	rules, err := d.netlink.RuleList(family)
	if err != nil {
		return fmt.Errorf("list routing rules: %w", err)
	}
	for _, part := range p.parts {
		for _, dst := range part.probes(rules) {
			if err := d.checkRoute(src, dst, part.prefix, rules); err != nil {
				return err
			}
		}
	}
	return nil
}

// probes returns addresses to check: the first and the last of the part, and one
// of each range that a rule treats apart.
func (p *poolPart) probes(rules []netlink.Rule) []netip.Addr {
	first, last := uint32(0), p.count-1
	if p.count > 2 {
		first, last = 1, p.count-2
	}
	addrs := []netip.Addr{addToAddr(p.prefix.Addr(), first)}
	if last != first {
		addrs = append(addrs, addToAddr(p.prefix.Addr(), last))
	}
	for _, r := range rules {
		if dst, ok := prefixOf(r.Dst); ok && dst.Bits() > p.prefix.Bits() && p.prefix.Contains(dst.Addr()) {
			addrs = append(addrs, dst.Addr())
		}
	}
	return addrs
}

func (d *device) checkRoute(src, dst netip.Addr, pool netip.Prefix, rules []netlink.Rule) error {
	var opts netlink.RouteGetOptions
	from := "answers"
	if src.IsValid() {
		opts.SrcAddr = src.AsSlice()
		from = fmt.Sprintf("answers from %v", src)
	}
	ip := "ip"
	if dst.Is6() {
		ip = "ip -6"
	}
	do := fmt.Sprintf("let the pool go before the host's rules: %s rule add to %v lookup main", ip, pool)
	routes, err := d.netlink.RouteGetWithOptions(dst.AsSlice(), &opts)
	if err != nil {
		return fmt.Errorf("%w: %s to %v have no route (%w): %s", ErrRouting, from, dst, err, do)
	}
	for _, r := range routes {
		if r.LinkIndex == d.index {
			continue
		}
		by := "another way"
		if link, err := d.netlink.LinkByIndex(r.LinkIndex); err == nil {
			by = "by " + link.Attrs().Name
		}
		return fmt.Errorf("%w: %s to %v would leave %s (%s): %s", ErrRouting, from, dst, by, tableText(r.Table, src, dst, rules), do)
	}
	return nil
}

// tableText names a table, and the first rule that may have led there.
func tableText(table int, src, dst netip.Addr, rules []netlink.Rule) string {
	for _, r := range rules {
		if r.Table == table && r.Invert == (!within(r.Src, src) || !within(r.Dst, dst)) {
			return fmt.Sprintf("table %d, ip rule %d: from %s", table, r.Priority, netText(r.Src))
		}
	}
	return fmt.Sprintf("table %d", table)
}

func within(n *net.IPNet, a netip.Addr) bool {
	p, ok := prefixOf(n)
	return !ok || p.Contains(a)
}

func netText(n *net.IPNet) string {
	p, ok := prefixOf(n)
	switch {
	case !ok:
		return "all"
	case p.IsSingleIP():
		return p.Addr().String()
	}
	return p.String()
}

// isLocal reports whether the kernel takes packets to a for the host itself.
func (d *device) isLocal(a netip.Addr) (bool, error) {
	d.asking.Lock()
	defer d.asking.Unlock()
	if d.netlink == nil {
		return false, os.ErrClosed
	}
	routes, err := d.netlink.RouteGet(a.AsSlice())
	switch {
	case errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.EACCES), errors.Is(err, unix.EINVAL):
		return false, nil // that is: no address of ours
	case err != nil:
		return false, fmt.Errorf("look up the route of %v: %w", a, err)
	}
	return len(routes) > 0 && routes[0].Type == unix.RTN_LOCAL, nil
}
