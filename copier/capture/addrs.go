package capture

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
)

// addrs returns the addresses of the namespace's interfaces, sorted.
func (w *watcher) addrs() ([]netip.Addr, error) {
	list, err := w.addrList()
	if err != nil {
		return nil, fmt.Errorf("capture: list addresses: %w", err)
	}
	var addrs []netip.Addr
	for _, a := range list {
		if addr, ok := netip.AddrFromSlice(a.IP); ok {
			addrs = append(addrs, addr.Unmap())
		}
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	return slices.Compact(addrs), nil
}

func (w *watcher) addrList() ([]netlink.Addr, error) {
	return whole(func() ([]netlink.Addr, error) { return w.handle.AddrList(nil, netlink.FAMILY_ALL) })
}

// elsewhere returns those of matches whose server is none of this host's addresses.
func elsewhere(matches []Match, addrs []netip.Addr) []Match {
	var foreign []Match
	for _, m := range matches {
		a := m.Addr.Unmap().WithZone("")
		if _, here := slices.BinarySearchFunc(addrs, a, netip.Addr.Compare); m.Addr.IsValid() && !here && !a.IsLoopback() {
			foreign = append(foreign, m)
		}
	}
	return foreign
}

// tellMirror warns of matches without an address on interfaces without one, such as
// mirror ports: nothing there is directed to this host.
func (s *Set) tellMirror() error {
	unnamed := slices.ContainsFunc(s.cfg.Matches, func(m Match) bool { return !m.Addr.IsValid() })
	if len(s.cfg.Interfaces) == 0 || !unnamed {
		return nil
	}
	list, err := s.watch.addrList()
	if err != nil {
		return fmt.Errorf("capture: list addresses: %w", err)
	}
	for _, f := range s.at.ifs {
		if slices.ContainsFunc(list, func(a netlink.Addr) bool { return a.LinkIndex == f.index && !a.IP.IsLinkLocalUnicast() }) {
			return nil
		}
	}
	s.cfg.Log.Warn("interface has no address: maps without their server's address find nothing there; name it, as in -x 10.1.0.5:80-…",
		"iface", s.cfg.Interfaces)
	return nil
}
