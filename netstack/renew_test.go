package netstack

import (
	"errors"
	"net/netip"
	"testing"
	"time"
)

// A session that reconnects lives on one stack: a tuple of another one would be
// answered there. And a tuple that was just used is one that the target remembers.
func TestRenewStaysOnTheShard(t *testing.T) {
	for name, prefix := range map[string]string{"many addresses": "198.18.0.0/15", "one address": "198.18.0.1/32"} {
		t.Run(name, func(t *testing.T) {
			v4, v6, err := newPools([]netip.Prefix{netip.MustParsePrefix(prefix)})
			if err != nil {
				t.Fatal(err)
			}
			a := newAllocator(v4, v6, 4, func() time.Duration { return 0 })
			first, err := a.acquire(netip.MustParseAddrPort("10.1.2.3:40000"), 0, false)
			if err != nil {
				t.Fatal(err)
			}
			seen := map[netip.AddrPort]bool{first.Client: true}
			n := 0
			for l := first; n < 70_000; n++ {
				if l, err = a.renew(l); err != nil {
					break
				}
				if l.Shard != first.Shard || l.key.shard(4) != first.Shard || seen[l.Client] {
					t.Fatalf("renewal %d: %+v after %+v, seen %v", n, l, first, seen[l.Client])
				}
				if n < 100 && l.Client.Addr() != first.Client.Addr() {
					t.Fatalf("renewal %d: another address, %v", n, l.Client)
				}
				seen[l.Client] = true
				if name == "many addresses" && n == 1000 {
					return
				}
			}
			// All that the shard has: about a quarter of the ports.
			if !errors.Is(err, ErrNoTuple) || n < 15_000 || n > 17_500 {
				t.Errorf("%d renewals of one address, %v", n, err)
			}
		})
	}
}
