package netstack

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// States of the kernel's TCP sockets as bits, see sock_diag(7).
const (
	listenState = 1 << 10
	otherStates = 0xfff &^ listenState
)

// A hostSocket is a TCP socket of the host.
type hostSocket struct {
	local, peer netip.AddrPort
	only6       bool // it listens, and was told to take nothing of IPv4
}

// sockets calls f for each TCP socket of a family that is in one of the states, in
// the calling thread's network namespace. Only the kernel's tables of those are
// gone through: that of the listening ones is short where /proc/net/tcp, which
// has all, takes seconds of CPU.
func sockets(family uint8, states uint32, f func(hostSocket)) error {
	req := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
	req.AddData(&socketsRequest{family, states})
	err := req.ExecuteIter(unix.NETLINK_INET_DIAG, nl.SOCK_DIAG_BY_FAMILY, func(msg []byte) bool {
		if s, ok := parseSocket(msg); ok {
			f(s)
		}
		return true
	})
	if err != nil {
		return fmt.Errorf("list the host's TCP sockets: %w", err)
	}
	return nil
}

// socketsRequest is struct inet_diag_req_v2 of linux/inet_diag.h.
type socketsRequest struct {
	family uint8
	states uint32
}

// Len implements nl.NetlinkRequestData.
func (*socketsRequest) Len() int { return 56 }

// Serialize implements nl.NetlinkRequestData.
func (r *socketsRequest) Serialize() []byte {
	b := make([]byte, r.Len())
	b[0], b[1] = r.family, unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(b[4:], r.states)
	return b
}

// parseSocket reads a struct inet_diag_msg and the attributes behind it.
func parseSocket(msg []byte) (s hostSocket, ok bool) {
	const ports, source, target, end = 4, 8, 24, 72
	if len(msg) < end {
		return s, false
	}
	size := 4
	if msg[0] == unix.AF_INET6 {
		size = 16
	}
	from, _ := netip.AddrFromSlice(msg[source : source+size])
	to, _ := netip.AddrFromSlice(msg[target : target+size])
	s.local = netip.AddrPortFrom(from.Unmap(), binary.BigEndian.Uint16(msg[ports:]))
	s.peer = netip.AddrPortFrom(to.Unmap(), binary.BigEndian.Uint16(msg[ports+2:]))
	attrs, _ := nl.ParseRouteAttr(msg[end:]) // those before damage
	for _, a := range attrs {
		s.only6 = s.only6 || a.Attr.Type == netlink.INET_DIAG_SKV6ONLY && len(a.Value) > 0 && a.Value[0] != 0
	}
	return s, true
}

// Listening reports whether a socket of the host, in the calling thread's network
// namespace, takes connections to target.
func Listening(target netip.AddrPort) (bool, error) {
	target = netip.AddrPortFrom(target.Addr().Unmap(), target.Port())
	families := []uint8{unix.AF_INET6, unix.AF_INET} // a socket of both is listed as IPv6
	if target.Addr().Is6() {
		families = families[:1]
	}
	found := false
	for _, family := range families {
		err := sockets(family, listenState, func(s hostSocket) {
			local := s.local.Addr()
			same := local.Is6() == target.Addr().Is6() // a socket of IPv6 may be on ::ffff:0.0.0.0
			all := local.IsUnspecified() && (same || local.Is6() && !s.only6)
			found = found || s.local.Port() == target.Port() && (local == target.Addr() || all)
		})
		if found || err != nil {
			return found, err
		}
	}
	return false, nil
}
