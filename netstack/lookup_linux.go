package netstack

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// anyClient is an address of documentation, which stands for any client.
func anyClient(v6 bool) netip.Addr {
	if v6 {
		return netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 15: 1})
	}
	return netip.AddrFrom4([4]byte{192, 0, 2, 1})
}

// check asks the kernel whether the target's answers to clients go to the device,
// and whether it takes clients' packets from there. The caller holds asking.
func (a *answers) check(target netip.AddrPort) error {
	family, client := netlink.FAMILY_V4, anyClient(target.Addr().Is6())
	if client.Is6() {
		family = netlink.FAMILY_V6
	}
	rules, err := a.device.netlink.RuleList(family)
	if err != nil {
		return fmt.Errorf("list routing rules: %w", err)
	}
	clients := []netip.Addr{client}
	narrow := false
	for _, r := range rules {
		switch dst, ok := prefixOf(r.Dst); {
		case r.Table == a.table && r.Sport != nil && r.Sport.Start == target.Port():
			narrow = true
		case ok && r.Priority <= rulePriority:
			clients = append(clients, dst.Addr())
		}
	}
	if !narrow {
		return fmt.Errorf("%w: this kernel has no routing rules for ports, which original addresses need (Linux 4.17)", ErrRouting)
	}
	for _, c := range clients {
		answer := routeQuery{dst: c, src: target.Addr(), sport: target.Port(), dport: 1024}
		link, err := a.device.lookup(&answer)
		if err != nil {
			return fmt.Errorf("%w: answers from %v to %v have no route: %w", ErrRouting, target, c, err)
		}
		if link != a.device.index {
			return fmt.Errorf("%w: answers from %v to %v do not go to %s: no rule before number %d, see ip rule, may hold for them",
				ErrRouting, target, c, a.device.name, rulePriority)
		}
	}
	request := routeQuery{dst: target.Addr(), src: client, sport: 1024, dport: target.Port(), in: a.device.index}
	if _, err := a.device.lookup(&request); errors.Is(err, unix.EXDEV) || errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("%w: the reverse path filter refuses clients' packets at %s: sysctl -w net.ipv4.conf.%[2]s.rp_filter=2", ErrRouting, a.device.name)
	}
	return nil
}

// routeQuery is one TCP packet whose way is asked for.
type routeQuery struct {
	src, dst     netip.Addr
	sport, dport uint16
	in           int // the device it comes in by, 0: it is the host's own
}

// Attributes of a route query that x/sys/unix does not name.
const (
	rtaIPProto = 27
	rtaSport   = 28
	rtaDport   = 29
)

// lookup returns the device by which a packet leaves. The library's own query
// knows no ports.
func (d *device) lookup(q *routeQuery) (link int, err error) {
	bits := uint8(q.dst.BitLen())
	family := uint8(unix.AF_INET)
	if q.dst.Is6() {
		family = unix.AF_INET6
	}
	req := nl.NewNetlinkRequest(unix.RTM_GETROUTE, unix.NLM_F_REQUEST)
	req.Sockets = d.routes
	req.AddData(&nl.RtMsg{RtMsg: unix.RtMsg{Family: family, Dst_len: bits, Src_len: bits}})
	port := func(p uint16) []byte { return binary.BigEndian.AppendUint16(nil, p) }
	for _, attr := range []*nl.RtAttr{
		nl.NewRtAttr(unix.RTA_DST, q.dst.AsSlice()),
		nl.NewRtAttr(unix.RTA_SRC, q.src.AsSlice()),
		nl.NewRtAttr(rtaIPProto, []byte{protoTCP}),
		nl.NewRtAttr(rtaSport, port(q.sport)),
		nl.NewRtAttr(rtaDport, port(q.dport)),
	} {
		req.AddData(attr)
	}
	if q.in != 0 {
		req.AddData(nl.NewRtAttr(unix.RTA_IIF, nl.Uint32Attr(uint32(q.in))))
	}
	msgs, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWROUTE)
	if err != nil {
		return 0, err
	}
	for _, m := range msgs {
		attrs, err := nl.ParseRouteAttr(m[unix.SizeofRtMsg:])
		if err != nil {
			return 0, err
		}
		for _, a := range attrs {
			if a.Attr.Type == unix.RTA_OIF && len(a.Value) == 4 {
				return int(binary.NativeEndian.Uint32(a.Value)), nil
			}
		}
	}
	return 0, unix.ENETUNREACH
}
