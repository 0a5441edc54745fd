package netstack

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/tun"
)

const (
	tunPath = "/dev/net/tun"
	// txQueue is how many packets of the target each queue of the device holds
	// while its reader is busy. The default of 500 overflows when some thousand
	// sessions are answered at once, and TCP retransmits.
	txQueue = 16384
	// maxQueues is the kernel's limit of queues of a TUN device.
	maxQueues = 256
)

// A device is the TUN device: one queue for each shard. It is not persistent: the
// kernel removes it, and with it its routes and settings, when the last queue is
// closed or the process dies.
type device struct {
	name   string
	index  int
	queues []tun.Device
	local  localnet

	asking  sync.Mutex      // guards netlink
	netlink *netlink.Handle // of the device's network namespace; nil when closed
	routes  map[int]*nl.SocketHandle
}

// openDevice makes the device and sets it up. The host must have been checked. It
// may take IPv6 out of cfg.Pool.
func openDevice(cfg *Config) (_ *device, err error) {
	d := &device{name: cfg.Name}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.close())
		}
	}()
	if d.netlink, err = netlink.NewHandle(unix.NETLINK_ROUTE, unix.NETLINK_INET_DIAG); err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	s, err := nl.Subscribe(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	d.routes = map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: s}}
	for range cfg.Shards {
		q, name, err := openQueue(d.name, cfg.Shards > 1)
		if err != nil {
			return nil, err
		}
		d.queues, d.name = append(d.queues, q), name
	}
	if err := d.setUp(cfg); err != nil {
		return nil, fmt.Errorf("set up %s: %w", d.name, err)
	}
	return d, nil
}

// openQueue attaches one more queue to the device called name, making it when
// there is none; in a new device's name %d is filled in by the kernel.
func openQueue(name string, multi bool) (tun.Device, string, error) {
	fd, err := unix.Open(tunPath, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, "", explainTun(os.NewSyscallError("open", err))
	}
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return nil, "", errors.Join(fmt.Errorf("device name %q: %w", name, err), unix.Close(fd))
	}
	flags := uint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if multi {
		flags |= unix.IFF_MULTI_QUEUE
	}
	ifr.SetUint16(flags)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		return nil, "", errors.Join(fmt.Errorf("make TUN device %s: %w", name, os.NewSyscallError("TUNSETIFF", err)), unix.Close(fd))
	}
	q, name, err := tun.CreateUnmonitoredTUNFromFD(fd)
	if err != nil {
		return nil, "", errors.Join(fmt.Errorf("open TUN device: %w", err), unix.Close(fd))
	}
	return q, name, nil
}

// close removes the device and wakes its readers.
func (d *device) close() error {
	var errs []error
	for _, q := range d.queues {
		errs = append(errs, q.Close())
	}
	d.queues = nil
	d.asking.Lock()
	if d.netlink != nil {
		d.netlink.Close()
		d.netlink = nil
		for _, s := range d.routes {
			s.Close()
		}
	}
	d.asking.Unlock()
	errs = append(errs, d.local.close())
	return errors.Join(errs...)
}

// setUp gives the device its settings and routes.
func (d *device) setUp(cfg *Config) error {
	link, err := netlink.LinkByName(d.name)
	if err != nil {
		return err
	}
	d.index = link.Attrs().Index
	if cfg.Line.single() {
		if err := d.noSegmentation(); err != nil {
			return err
		}
	}
	if err := netlink.LinkSetMTU(link, cfg.MTU); err != nil {
		return fmt.Errorf("set MTU %d: %w", cfg.MTU, err)
	}
	if err := netlink.LinkSetTxQLen(link, txQueue); err != nil {
		return fmt.Errorf("set transmit queue: %w", err)
	}
	if err := d.settings(cfg); err != nil {
		return err
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("set up: %w", err)
	}
	for _, p := range cfg.Pool {
		if err := addRoute(link, p); err != nil {
			return fmt.Errorf("route %v: %w", p, err)
		}
	}
	return nil
}

// addRoute adds the connected route of one prefix. The device has no address of
// its own: it would only add more routes, and nobody asks for one.
func addRoute(link netlink.Link, p netip.Prefix) error {
	p = p.Masked()
	dst := &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
	r := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: dst, Protocol: unix.RTPROT_KERNEL}
	if p.Addr().Is4() {
		r.Scope = netlink.SCOPE_LINK
	}
	return netlink.RouteAdd(r)
}

// noSegmentation has the kernel cut what the target sends into packets before the
// device, as on a wire.
func (d *device) noSegmentation() error {
	for _, q := range d.queues {
		raw, err := q.File().SyscallConn()
		if err != nil {
			return err
		}
		var set error
		err = raw.Control(func(fd uintptr) { set = unix.IoctlSetInt(int(fd), unix.TUNSETOFFLOAD, unix.TUN_F_CSUM) })
		if err = errors.Join(err, set); err != nil {
			return fmt.Errorf("switch segmentation off: %w", err)
		}
	}
	return nil
}
