package netstack

import (
	"fmt"
	"net/netip"
)

// CheckTarget says why a target cannot be dialled, or nil: for a configuration to
// be refused at start. It asks the kernel, so that a target has to be an address
// of the host at this time, and its answers have to find the way back: with original
// addresses the first call for a target leads them to the device. Any goroutine.
func (n *Net) CheckTarget(target netip.AddrPort) error {
	if err := n.usable(target); err != nil {
		return err
	}
	ip := target.Addr().Unmap()
	local, err := n.device.isLocal(ip)
	if err != nil {
		return err
	}
	if !local {
		return fmt.Errorf("%w: %v is not an address of this host", ErrTarget, ip)
	}
	if err := n.device.checkRouting(ip, n.alloc.pool(ip.Is6())); err != nil || !n.cfg.Original {
		return err
	}
	return n.answers.lead(netip.AddrPortFrom(ip, target.Port()))
}

// usable is the part of CheckTarget that costs nothing. A loopback target is made
// to work.
func (n *Net) usable(target netip.AddrPort) error {
	ip := target.Addr().Unmap()
	switch {
	case !target.IsValid() || target.Port() == 0:
		return fmt.Errorf("%w: %v is not an address and port", ErrTarget, target)
	case ip.IsUnspecified() || ip.IsMulticast():
		return fmt.Errorf("%w: %v is not the address of a host", ErrTarget, ip)
	case ip.Is6() && ip.IsLoopback():
		return fmt.Errorf("%w: Linux refuses packets to ::1 from other devices; let the server listen on 127.0.0.1 or another address", ErrTarget)
	case ip.Is6() && ip.IsLinkLocalUnicast():
		return fmt.Errorf("%w: %v is valid on one link only", ErrTarget, ip)
	case ip.IsLoopback() && !n.cfg.Loopback:
		return fmt.Errorf("%w: %v needs the Loopback setting", ErrTarget, ip)
	case n.alloc.pool(ip.Is6()).size == 0:
		return fmt.Errorf("%w: the pool has no address of the family of %v", ErrTarget, ip)
	}
	if ip.IsLoopback() {
		if err := n.device.local.use(); err != nil {
			return fmt.Errorf("%w: %v needs route_localnet on %s, which cannot be set: %w; let the server listen on another address of the host", ErrTarget, ip, n.Name(), err)
		}
	}
	return nil
}

func (n *Net) checkTarget(l Lease, target netip.AddrPort) error {
	if err := n.usable(target); err != nil {
		return err
	}
	if l.key.v6() != target.Addr().Is6() {
		return fmt.Errorf("%w: the lease %v is of the other family", ErrTarget, l.Client)
	}
	return nil
}
