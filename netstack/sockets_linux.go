package netstack

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// States of the kernel's TCP sockets as bits, see sock_diag(7).
const (
	listenState = 1 << 10
	otherStates = 0xfff &^ listenState
)

// sockets calls f for each TCP socket of a family that is in one of the states, in
// the calling thread's network namespace. Only the kernel's tables of those are
// gone through: that of the listening ones is short where /proc/net/tcp, which
// has all, takes seconds of CPU.
func sockets(family uint8, states uint32, f func(local, peer netip.AddrPort)) error {
	req := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
	req.AddData(&socketsRequest{family, states})
	err := req.ExecuteIter(unix.NETLINK_INET_DIAG, nl.SOCK_DIAG_BY_FAMILY, func(msg []byte) bool {
		if local, peer, ok := parseSocket(msg); ok {
			f(local, peer)
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

// parseSocket reads the addresses of a struct inet_diag_msg.
func parseSocket(msg []byte) (local, peer netip.AddrPort, ok bool) {
	const ports, source, target, end = 4, 8, 24, 40
	if len(msg) < end {
		return local, peer, false
	}
	size := 4
	if msg[0] == unix.AF_INET6 {
		size = 16
	}
	from, _ := netip.AddrFromSlice(msg[source : source+size])
	to, _ := netip.AddrFromSlice(msg[target : target+size])
	local = netip.AddrPortFrom(from.Unmap(), binary.BigEndian.Uint16(msg[ports:]))
	peer = netip.AddrPortFrom(to.Unmap(), binary.BigEndian.Uint16(msg[ports+2:]))
	return local, peer, true
}

// Listening reports whether a socket of the host, in the calling thread's network
// namespace, takes connections to target. One for all addresses of IPv6 is taken for
// one of both families, which it may have been told not to be.
func Listening(target netip.AddrPort) (bool, error) {
	target = netip.AddrPortFrom(target.Addr().Unmap(), target.Port())
	families := []uint8{unix.AF_INET6, unix.AF_INET} // a socket of both is listed as IPv6
	if target.Addr().Is6() {
		families = families[:1]
	}
	found := false
	for _, family := range families {
		err := sockets(family, listenState, func(local, _ netip.AddrPort) {
			if local.Port() == target.Port() && (local.Addr() == target.Addr() || local.Addr().IsUnspecified()) {
				found = true
			}
		})
		if found || err != nil {
			return found, err
		}
	}
	return false, nil
}
