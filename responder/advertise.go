package responder

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// What an invite has room for.
const (
	maxAdvertised    = 16
	maxAdvertisedLen = 255
)

// hostAddr is an address of this host.
type hostAddr struct {
	addr  netip.Addr
	iface string
}

// advertised returns the addresses for the invite: what was given, with our port
// where it names none, or those that the socket can be reached at, of which first
// are the ones to try first.
func advertised(cfg *Config, bound netip.AddrPort, local []hostAddr, first []netip.Addr) ([]string, error) {
	addrs := withPort(cfg.Advertise, bound.Port())
	switch {
	case len(addrs) > maxAdvertised:
		return nil, fmt.Errorf("config: Advertise: %d addresses, an invite has room for %d", len(addrs), maxAdvertised)
	case len(addrs) > 0:
		for _, a := range addrs {
			if len(a) > maxAdvertisedLen {
				return nil, fmt.Errorf("config: Advertise: %.20q… has %d bytes, at most %d find room", a, len(a), maxAdvertisedLen)
			}
		}
		return addrs, nil
	case !bound.Addr().IsUnspecified():
		return []string{bound.String()}, nil
	}
	// A socket for 0.0.0.0 says itself that it is one for both families.
	host, _, _ := net.SplitHostPort(cfg.Listen) // it is bound, so that it can be split
	asked, _ := netip.ParseAddr(host)           // empty, or a name: both
	local = slices.Clone(local)
	local = slices.DeleteFunc(local, func(l hostAddr) bool {
		return l.addr.IsLoopback() || l.addr.IsLinkLocalUnicast() || asked.Is4() && !l.addr.Is4()
	})
	slices.SortStableFunc(local, func(a, b hostAddr) int { return cmp.Compare(rank(a, first), rank(b, first)) })
	for _, l := range local[:min(len(local), maxAdvertised)] {
		addrs = append(addrs, netip.AddrPortFrom(l.addr, bound.Port()).String())
	}
	if len(addrs) == 0 {
		addrs = []string{netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), bound.Port()).String()}
	}
	return addrs, nil
}

func withPort(given []string, port uint16) (addrs []string) {
	for _, a := range given {
		if _, _, err := net.SplitHostPort(a); err != nil {
			a = net.JoinHostPort(strings.Trim(a, "[]"), strconv.Itoa(int(port)))
		}
		addrs = append(addrs, a)
	}
	return addrs
}

// rank says how late a copier should try an address.
func rank(a hostAddr, first []netip.Addr) int {
	if i := slices.Index(first, a.addr); i >= 0 {
		return i
	}
	for _, inside := range []string{"docker", "br-", "veth", "virbr", "podman", "cni", "flannel", "cali", "kube", "lxc", "lxd"} {
		if strings.HasPrefix(a.iface, inside) {
			return len(first) + 1 // most often for this host's own guests
		}
	}
	return len(first)
}

// hostAddrs returns the addresses of interfaces that are up.
func hostAddrs() ([]hostAddr, error) {
	ifaces, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("interfaces of this host: %w", err)
	}
	var addrs []hostAddr
	for _, i := range ifaces {
		list, err := i.Addrs()
		if err != nil || i.Flags&net.FlagUp == 0 {
			continue // gone in the meantime, or of no use
		}
		for _, a := range list {
			if n, ok := a.(*net.IPNet); ok {
				if ip, ok := netip.AddrFromSlice(n.IP); ok {
					addrs = append(addrs, hostAddr{ip.Unmap(), i.Name})
				}
			}
		}
	}
	return addrs, nil
}

// routed returns the addresses of this host that the default routes use: those
// that others most likely reach it at. No packet is sent.
func routed() (addrs []netip.Addr) {
	for _, far := range []string{"192.0.2.1:9", "[2001:db8::1]:9"} { // documentation's: only default routes lead there
		c, err := net.Dial("udp", far)
		if err != nil {
			continue
		}
		if a, err := netip.ParseAddrPort(c.LocalAddr().String()); err == nil {
			addrs = append(addrs, a.Addr().Unmap())
		}
		_ = c.Close() // nothing was sent
	}
	return addrs
}
