package netstack

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ErrUsers says that others are connected to a target which is to see original
// addresses: the answers to them would be taken too.
var ErrUsers = errors.New("target serves others")

const (
	// ruleProtocol marks the rules that are ours, as "ip rule" shows it, and
	// answersTable plus the number of the device is the table they lead to: one that
	// has no route is that of a responder which was killed.
	ruleProtocol = 74
	answersTable = 0x46_000000
	maxIndex     = 1<<24 - 1
	// rulePriority is behind the table of local addresses and before what hosts have.
	rulePriority = 100
	maxAnswers   = 256 // targets: the kernel looks at each rule for each connection
)

// answers lead what targets send to original addresses to the device. For each
// target there is one rule:
//
//	from TARGET ipproto tcp sport PORT lookup TABLE;  TABLE: default dev TUN
//
// What goes to the host's own addresses is not concerned. The routes end with the
// device, however the process ends. Rules do not: those of a killed responder lead
// to an empty table, where the kernel goes on to the next rule, until the next
// responder removes them.
type answers struct {
	device *device
	table  int
	force  bool
	pools  [2]*pool

	mu      sync.Mutex
	targets map[netip.AddrPort]*netlink.Rule
	closed  bool    // no rule is made any more
	routed  [2]bool // by family
	// orphans are targets of rules that a killed responder has left: the connections
	// that they have may be that one's.
	orphans map[netip.AddrPort]bool
}

func (a *answers) init(d *device, cfg *Config, alloc *allocator) error {
	a.device, a.table, a.force = d, answersTable+d.index, cfg.Force
	a.pools = [2]*pool{&alloc.v4, &alloc.v6}
	a.targets = make(map[netip.AddrPort]*netlink.Rule)
	a.orphans = make(map[netip.AddrPort]bool)
	if cfg.Original && d.index > maxIndex {
		return fmt.Errorf("device number %d is too high for original addresses", d.index)
	}
	return a.tidy()
}

// tidy removes the rules that killed responders have left.
func (a *answers) tidy() error {
	a.device.asking.Lock()
	defer a.device.asking.Unlock()
	nl := a.device.netlink
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		rules, err := nl.RuleList(family)
		if err != nil {
			return fmt.Errorf("list routing rules: %w", err)
		}
		for _, r := range rules {
			if r.Protocol != ruleProtocol || r.Priority != rulePriority || r.Table&^maxIndex != answersTable {
				continue
			}
			routes, err := nl.RouteListFiltered(family, &netlink.Route{Table: r.Table}, netlink.RT_FILTER_TABLE)
			if err != nil {
				return fmt.Errorf("list routes: %w", err)
			}
			if len(routes) > 0 {
				continue // of another responder, which lives
			}
			if err := nl.RuleDel(&r); err != nil && !errors.Is(err, unix.ENOENT) {
				return fmt.Errorf("remove a dead responder's rule: %w", err)
			}
			if src, ok := prefixOf(r.Src); ok && r.Sport != nil {
				a.orphans[netip.AddrPortFrom(src.Addr(), r.Sport.Start)] = true
			}
		}
	}
	return nil
}

// lead has the target's answers come to the device. It refuses when that cannot
// be, or when others are connected to the target.
func (a *answers) lead(target netip.AddrPort) (err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.device.asking.Lock()
	defer a.device.asking.Unlock()
	switch {
	case a.closed || a.device.netlink == nil:
		return os.ErrClosed
	case a.targets[target] != nil:
		return nil
	case len(a.targets) >= maxAnswers:
		return fmt.Errorf("%w: %v: original addresses work for %d targets at most", ErrTarget, target, maxAnswers)
	}
	if !a.force && !a.orphans[target] {
		if err := a.checkUsers(target); err != nil {
			return err
		}
	}
	if err := a.route(target.Addr().Is6()); err != nil {
		return fmt.Errorf("route for original addresses: %w", err)
	}
	rule := a.ruleFor(target)
	if err := a.device.netlink.RuleAdd(rule); err != nil {
		return fmt.Errorf("rule for original addresses: %w", err)
	}
	if err := a.check(target); err != nil {
		return errors.Join(err, a.device.netlink.RuleDel(rule))
	}
	a.targets[target] = rule
	return nil
}

func (a *answers) ruleFor(target netip.AddrPort) *netlink.Rule {
	r := netlink.NewRule()
	r.Family = netlink.FAMILY_V4
	if target.Addr().Is6() {
		r.Family = netlink.FAMILY_V6
	}
	bits := target.Addr().BitLen()
	r.Priority, r.Table, r.Protocol = rulePriority, a.table, ruleProtocol
	r.Src = &net.IPNet{IP: target.Addr().AsSlice(), Mask: net.CIDRMask(bits, bits)}
	r.IPProto = unix.IPPROTO_TCP
	r.Sport = netlink.NewRulePortRange(target.Port(), target.Port())
	return r
}

// route makes the table's only route of a family.
func (a *answers) route(v6 bool) error {
	i, zero := 0, netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	if v6 {
		i, zero = 1, netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	if a.routed[i] {
		return nil
	}
	dst := &net.IPNet{IP: zero.Addr().AsSlice(), Mask: net.CIDRMask(0, zero.Addr().BitLen())}
	r := &netlink.Route{LinkIndex: a.device.index, Dst: dst, Table: a.table, Protocol: ruleProtocol}
	if !v6 {
		r.Scope = netlink.SCOPE_LINK
	}
	err := a.device.netlink.RouteAdd(r)
	a.routed[i] = err == nil
	return err
}

// checkUsers refuses a target with connections that no responder has made.
func (a *answers) checkUsers(target netip.AddrPort) error {
	family := uint8(unix.AF_INET)
	if target.Addr().Is6() {
		family = unix.AF_INET6
	}
	own, err := a.device.addrs()
	if err != nil {
		return err
	}
	sockets, err := a.device.netlink.SocketDiagTCP(family)
	if family == unix.AF_INET && err == nil { // a socket of both families is listed as IPv6
		var more []*netlink.Socket
		more, err = a.device.netlink.SocketDiagTCP(unix.AF_INET6)
		sockets = append(sockets, more...)
	}
	if err != nil {
		return fmt.Errorf("list the host's TCP sockets: %w", err)
	}
	users, first := 0, netip.Addr{}
	for _, s := range sockets {
		if !a.usedByOther(s, target, own) {
			continue
		}
		if users++; users == 1 {
			first, _ = netip.AddrFromSlice(s.ID.Destination)
		}
	}
	if users > 0 {
		return fmt.Errorf("%w: %d connections to %v, one from %v, would lose their answers to the TUN device: choose another target, or say --client-address-force", ErrUsers, users, target, first.Unmap())
	}
	return nil
}

func (a *answers) usedByOther(s *netlink.Socket, target netip.AddrPort, own map[netip.Addr]struct{}) bool {
	switch s.State {
	case netlink.TCP_ESTABLISHED, netlink.TCP_SYN_RECV, netlink.TCP_NEW_SYN_REC, netlink.TCP_CLOSE_WAIT:
	default:
		return false
	}
	local, _ := netip.AddrFromSlice(s.ID.Source)
	peer, _ := netip.AddrFromSlice(s.ID.Destination)
	if peer = peer.Unmap(); s.ID.SourcePort != target.Port() || local.Unmap() != target.Addr() {
		return false
	}
	for _, p := range a.pools {
		if _, ok := p.indexOf(peer); ok {
			return false
		}
	}
	_, ours := own[peer]
	return !ours && !peer.IsLoopback()
}

// close removes the rules; none follows. When the device was lost they stay, as if we
// had been killed: no reset has reached the sockets that the target has for us, and it
// is by the rules that the next responder knows them from those of users.
func (a *answers) close(lost bool) error {
	if a.device == nil {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.device.asking.Lock()
	defer a.device.asking.Unlock()
	a.closed = true
	if lost {
		return nil
	}
	var errs []error
	for target, rule := range a.targets {
		if err := a.device.netlink.RuleDel(rule); err != nil && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("remove the rule of %v: %w", target, err))
		}
	}
	clear(a.targets)
	return errors.Join(errs...)
}

// keep leases a client's own address where the target can see it.
func (n *Net) keep(client netip.AddrPort, v6 bool) (Lease, bool) {
	ip := client.Addr()
	if ip.Is6() != v6 || !ip.IsGlobalUnicast() || n.own.has(ip, n.device) {
		return Lease{}, false
	}
	return n.alloc.keep(client)
}

// ownAddrs knows the host's own addresses: packets from them are refused by the
// kernel when they come in by a device.
type ownAddrs struct {
	mu    sync.Mutex
	until time.Time
	addrs map[netip.Addr]struct{}
}

// ownFor is how long they are taken to be the same. An address that is added
// meanwhile costs its own connections only.
const ownFor = 5 * time.Second

func (o *ownAddrs) has(a netip.Addr, d *device) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if now := time.Now(); now.After(o.until) && o.renew(d) {
		o.until = now.Add(ownFor)
	}
	_, ok := o.addrs[a]
	return ok
}

// renew asks for the addresses, unless the first ones are there and a target is
// being checked: that may take long.
func (o *ownAddrs) renew(d *device) bool {
	if o.addrs == nil {
		d.asking.Lock()
	} else if !d.asking.TryLock() {
		return false
	}
	defer d.asking.Unlock()
	if addrs, err := d.addrs(); err == nil { // else the old ones are better than none
		o.addrs = addrs
	}
	return true
}

// addrs returns the host's addresses; the caller holds asking.
func (d *device) addrs() (map[netip.Addr]struct{}, error) {
	if d.netlink == nil {
		return nil, os.ErrClosed
	}
	list, err := whole(func() ([]netlink.Addr, error) { return d.netlink.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	own := make(map[netip.Addr]struct{}, len(list))
	for _, a := range list {
		if ip, ok := netip.AddrFromSlice(a.IP); ok {
			own[ip.Unmap()] = struct{}{}
		}
	}
	return own, nil
}
