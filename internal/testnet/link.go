package testnet

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Connect joins two namespaces by a veth pair, with an address at each end, and
// sets it up.
func Connect(a *NS, devA, cidrA string, b *NS, devB, cidrB string) error {
	veth := &netlink.Veth{
		LinkAttrs:     netlink.NewLinkAttrs(),
		PeerName:      devB,
		PeerNamespace: netlink.NsFd(b.handle),
	}
	veth.Name = devA
	if err := a.nl.LinkAdd(veth); err != nil {
		return fmt.Errorf("veth %s/%s to %s/%s: %w", a.name, devA, b.name, devB, err)
	}
	return setUpEnds(a, devA, cidrA, b, devB, cidrB)
}

func setUpEnds(a *NS, devA, cidrA string, b *NS, devB, cidrB string) error {
	for _, end := range []struct {
		ns        *NS
		dev, cidr string
	}{{a, devA, cidrA}, {b, devB, cidrB}} {
		if err := end.ns.AddAddr(end.dev, end.cidr); err != nil {
			return err
		}
		if err := end.ns.up(end.dev); err != nil {
			return err
		}
	}
	return errors.Join(a.settle(devA), b.settle(devB))
}

// settle waits until the kernel has done what it does some time after a device is
// up and has addresses: given it a link-local one, and made all of them local.
func (n *NS) settle(dev string) error {
	if _, err := os.Stat("/proc/sys/net/ipv6"); err != nil {
		return nil // without IPv6 there is nothing to wait for
	}
	link, err := n.nl.LinkByName(dev)
	if err != nil {
		return fmt.Errorf("%s: %s: %w", n.name, dev, err)
	}
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); <-time.After(time.Millisecond) {
		settled, err := n.settled(link)
		if settled || err != nil {
			return err
		}
	}
	return fmt.Errorf("%s: addresses of %s cannot be used", n.name, dev)
}

func (n *NS) settled(link netlink.Link) (bool, error) {
	addrs, err := n.nl.AddrList(link, netlink.FAMILY_V6)
	if err != nil {
		return false, fmt.Errorf("%s: addresses: %w", n.name, err)
	}
	routes, err := n.nl.RouteListFiltered(netlink.FAMILY_V6,
		&netlink.Route{Table: unix.RT_TABLE_LOCAL}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return false, fmt.Errorf("%s: local routes: %w", n.name, err)
	}
	linkLocal := false
	for _, a := range addrs {
		local := slices.ContainsFunc(routes, func(r netlink.Route) bool {
			return r.Type == unix.RTN_LOCAL && r.Dst != nil && r.Dst.IP.Equal(a.IP)
		})
		if !local || a.Flags&unix.IFA_F_TENTATIVE != 0 {
			return false, nil
		}
		linkLocal = linkLocal || a.IP.IsLinkLocalUnicast()
	}
	return linkLocal, nil
}

// AddAddr gives dev one more address, which can be used at once.
func (n *NS) AddAddr(dev, cidr string) error {
	link, err := n.nl.LinkByName(dev)
	if err != nil {
		return fmt.Errorf("%s: %s: %w", n.name, dev, err)
	}
	addr, err := netlink.ParseAddr(cidr)
	if err != nil {
		return fmt.Errorf("%s: address %s: %w", n.name, cidr, err)
	}
	if addr.IP.To4() == nil {
		addr.Flags = unix.IFA_F_NODAD
	}
	if err := n.nl.AddrAdd(link, addr); err != nil {
		return fmt.Errorf("%s: address %s on %s: %w", n.name, cidr, dev, err)
	}
	if addr.Flags != 0 && link.Attrs().OperState == netlink.OperUp {
		return n.settle(dev)
	}
	return nil
}

func (n *NS) up(dev string) error {
	link, err := n.nl.LinkByName(dev)
	if err != nil {
		return fmt.Errorf("%s: %s: %w", n.name, dev, err)
	}
	if err := n.nl.LinkSetUp(link); err != nil {
		return fmt.Errorf("%s: set %s up: %w", n.name, dev, err)
	}
	return nil
}

// Route sends packets for dst, a CIDR or "default", to the next hop via. A
// default route is of via's family.
func (n *NS) Route(dst, via string) error {
	route := &netlink.Route{Gw: net.ParseIP(via)}
	if route.Gw == nil {
		return fmt.Errorf("%s: next hop %q is not an address", n.name, via)
	}
	if dst == "default" {
		dst = "0.0.0.0/0"
		if route.Gw.To4() == nil {
			dst = "::/0"
		}
	}
	_, ipnet, err := net.ParseCIDR(dst)
	if err != nil {
		return fmt.Errorf("%s: route: %w", n.name, err)
	}
	route.Dst = ipnet
	if err := n.nl.RouteAdd(route); err != nil {
		return fmt.Errorf("%s: route %s via %s: %w", n.name, dst, via, err)
	}
	return nil
}

// Sysctl sets a variable such as "net.ipv4.ip_forward".
func (n *NS) Sysctl(key, value string) error {
	var err error
	n.Do(func() {
		path := "/proc/sys/" + strings.ReplaceAll(key, ".", "/")
		err = os.WriteFile(path, []byte(value), 0)
	})
	if err != nil {
		return fmt.Errorf("%s: %w", n.name, err)
	}
	return nil
}

// SetOffloads switches segmentation, receive merging and checksums of dev on or
// off, all that a network card would do for its host.
func SetOffloads(n *NS, dev string, on bool) error {
	state := "off"
	if on {
		state = "on"
	}
	args := []string{"-K", dev}
	for _, f := range []string{"rx", "tx", "sg", "tso", "gso", "gro"} {
		args = append(args, f, state)
	}
	_, err := n.Output("ethtool", args...)
	return err
}

// SetMergeMax lets dev merge packets, and take them from its host in one piece, of up
// to size bytes: beyond 64 KiB since Linux 5.19 for IPv6 and 6.3 for IPv4 (BIG TCP).
func SetMergeMax(n *NS, dev string, size int) error {
	link, err := n.nl.LinkByName(dev)
	if err != nil {
		return fmt.Errorf("%s: %s: %w", n.name, dev, err)
	}
	for _, set := range []func(netlink.Link, int) error{
		n.nl.LinkSetGSOMaxSize, n.nl.LinkSetGROMaxSize, n.nl.LinkSetGSOIPv4MaxSize, n.nl.LinkSetGROIPv4MaxSize,
	} {
		if err := set(link, size); err != nil {
			return fmt.Errorf("%s: merge %d bytes on %s: %w", n.name, size, dev, err)
		}
	}
	return nil
}
