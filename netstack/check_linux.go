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

// What Open finds missing on the host; the errors it returns wrap these and say
// what to do.
var (
	// ErrPrivilege says that the process lacks CAP_NET_ADMIN.
	ErrPrivilege = errors.New("CAP_NET_ADMIN is missing")
	// ErrNoTun says that /dev/net/tun is missing or cannot be opened.
	ErrNoTun = errors.New("no " + tunPath)
	// ErrOverlap says that the pool contains addresses the host already routes.
	ErrOverlap = errors.New("pool overlaps")
)

// checkHost looks at everything that Open needs, and changes nothing.
func checkHost(cfg *Config) error {
	if err := checkTun(); err != nil {
		return err
	}
	if err := checkCapability(); err != nil {
		return err
	}
	return checkOverlap(cfg.Pool)
}

// checkCapability asks for CAP_NET_ADMIN among the effective capabilities.
func checkCapability() error {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return os.NewSyscallError("capget", err)
	}
	if data[0].Effective&(1<<unix.CAP_NET_ADMIN) == 0 {
		return fmt.Errorf("%w: run as root, or: setcap cap_net_admin=ep on the program", ErrPrivilege)
	}
	return nil
}

func checkTun() error {
	fd, err := unix.Open(tunPath, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return explainTun(err)
	}
	return unix.Close(fd)
}

func explainTun(err error) error {
	var hint string
	switch {
	case errors.Is(err, os.ErrPermission):
		hint = "it may not be opened: run as root, or give read and write access to it"
	case errors.Is(err, os.ErrNotExist), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		hint = "load the module: modprobe tun; in a container pass the device: --device " + tunPath
	default: // it is there
		return fmt.Errorf("%s cannot be opened: %w", tunPath, err)
	}
	return fmt.Errorf("%w: %s: %w", ErrNoTun, hint, err)
}

// Shorter prefixes are ways into the internet, cut in pieces: 0.0.0.0/1 and
// 128.0.0.0/1, 2000::/3, or what a VPN makes of "all but the private ranges". The
// pool's own route goes before them.
const (
	broadBits4 = 8 // 10.0.0.0/8 is somebody's network
	broadBits6 = 7 // and so is fc00::/7
)

// checkOverlap refuses a pool that contains addresses which the host itself has,
// or that overlaps with a route, be it within the pool, equal or around it; default
// routes and those that are nearly as broad do not count.
func checkOverlap(prefixes []netip.Prefix) error {
	addrs, err := whole(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	for _, p := range prefixes {
		for _, a := range addrs {
			if ip, ok := netip.AddrFromSlice(a.IP); ok && p.Contains(ip.Unmap()) {
				return fmt.Errorf("%w: %v contains the host's own address %v: choose another with -c", ErrOverlap, p, ip.Unmap())
			}
		}
	}
	for _, table := range []int{unix.RT_TABLE_MAIN, unix.RT_TABLE_LOCAL} {
		routes, err := whole(func() ([]netlink.Route, error) {
			return netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: table}, netlink.RT_FILTER_TABLE)
		})
		if err != nil {
			return fmt.Errorf("list routes: %w", err)
		}
		for _, p := range prefixes {
			for _, r := range routes {
				if dst, ok := prefixOf(r.Dst); ok && meets(dst, p) {
					return fmt.Errorf("%w: %v meets the route %q: choose another with -c", ErrOverlap, p, routeText(r))
				}
			}
		}
	}
	return nil
}

// dumps is how often a list is asked for before it is given up.
const dumps = 20

// whole returns what list does when nothing has changed meanwhile: where containers
// come and go, the kernel says of many a list that it may lack something.
func whole[T any](list func() ([]T, error)) (all []T, err error) {
	for range dumps {
		all, err = list()
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return all, err
}

// meets reports whether a route to dst stands against a pool's prefix p.
func meets(dst, p netip.Prefix) bool {
	broad := broadBits4
	if isV6(dst) {
		broad = broadBits6
	}
	if dst.Bits() < broad && dst.Bits() < p.Bits() {
		return false
	}
	return dst.Overlaps(p) && !dst.Addr().IsMulticast()
}

func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	ip, ok := netip.AddrFromSlice(n.IP)
	ones, size := n.Mask.Size()
	if size == 32 {
		ip = ip.Unmap()
	}
	return netip.PrefixFrom(ip, ones), ok
}

// routeText names a route about as "ip route" does.
func routeText(r netlink.Route) string {
	s := r.Dst.String()
	if r.Gw != nil {
		s += " via " + r.Gw.String()
	}
	if link, err := netlink.LinkByIndex(r.LinkIndex); err == nil {
		s += " dev " + link.Attrs().Name
	}
	return s
}
