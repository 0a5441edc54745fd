package netstack

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// occupyOldTuples lets the tuples wait that the host's sockets still remember
// from an earlier run, in TIME_WAIT or any other state, and returns their number.
// With original addresses these may be all that the host has.
func occupyOldTuples(a *allocator, original bool) (int, error) {
	n := 0
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		sockets, err := netlink.SocketDiagTCP(family)
		if err != nil {
			return n, fmt.Errorf("list the host's TCP sockets: %w", err)
		}
		for _, s := range sockets {
			ip, ok := netip.AddrFromSlice(s.ID.Destination)
			if ok && a.occupy(netip.AddrPortFrom(ip, s.ID.DestinationPort), original) {
				n++
			}
		}
	}
	return n, nil
}
