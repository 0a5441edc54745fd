package flow

import (
	"net/netip"
	"testing"

	"flowtwin/internal/packet"
)

// Tuples of one client differ in a port only, those of a subnet in a byte or
// two; both must spread over the whole hash, of which the index uses the upper
// half's low bits.
func TestHashSpreads(t *testing.T) {
	const flows, buckets = 1 << 16, 1 << 17
	families := map[string]func(n int) (client, server netip.Addr, port int){
		"ports of one IPv4 client": func(n int) (netip.Addr, netip.Addr, int) {
			return netip.AddrFrom4([4]byte{10, 0, 0, 1}), netip.AddrFrom4([4]byte{10, 0, 0, 2}), n
		},
		"IPv4 clients": func(n int) (netip.Addr, netip.Addr, int) {
			return netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)}), netip.AddrFrom4([4]byte{10, 1, 0, 2}), 4000
		},
		"IPv6 clients": func(n int) (netip.Addr, netip.Addr, int) {
			return netip.AddrFrom16([16]byte{32, 1, 7: byte(n >> 8), 15: byte(n)}), netip.AddrFrom16([16]byte{32, 1}), 4000
		},
	}
	for name, family := range families {
		t.Run(name, func(t *testing.T) {
			s := newSeed()
			var home [buckets]uint8
			tags := map[uint32]bool{}
			most := uint8(0)
			for n := range flows {
				client, server, port := family(n)
				k := Tuple{Client: packet.AddrFrom(client), Server: packet.AddrFrom(server), ClientPort: uint16(port), ServerPort: 80}
				tag := uint32(s.hash(&k) >> 32)
				tags[tag] = true
				home[tag%buckets]++
				most = max(most, home[tag%buckets])
			}
			// Thrown at random: 0.5 equal tags are to be expected, and 6 or 7 in the
			// fullest bucket; more than these come once in millions of runs.
			if len(tags) < flows-10 || most > 13 {
				t.Errorf("%d different tags of %d, up to %d tuples in one bucket", len(tags), flows, most)
			}
		})
	}
}
