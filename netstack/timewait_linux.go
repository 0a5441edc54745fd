package netstack

import (
	"golang.org/x/sys/unix"
)

// occupyOldTuples lets the tuples wait that the host's sockets still remember
// from an earlier run, in TIME_WAIT or any other state, and returns their number.
// With original addresses these may be all that the host has.
func occupyOldTuples(a *allocator, original bool) (int, error) {
	n := 0
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		err := sockets(family, otherStates, func(s hostSocket) {
			if a.occupy(s.peer, original) {
				n++
			}
		})
		if err != nil {
			return n, err
		}
	}
	return n, nil
}
