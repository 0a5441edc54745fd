package netstack

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// testAllocator returns an allocator over prefixes and its clock.
func testAllocator(t *testing.T, shards int, prefixes ...string) (*allocator, *time.Duration) {
	t.Helper()
	var pool []netip.Prefix
	for _, p := range prefixes {
		pool = append(pool, netip.MustParsePrefix(p))
	}
	v4, v6, err := newPools(pool)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Hour
	return newAllocator(v4, v6, shards, func() time.Duration { return now }), &now
}

// The model: a tuple is handed out only when it is neither held nor released
// within the last minute, whatever happens; the client's port is kept when it is
// free; the account agrees.
func TestAllocatorModel(t *testing.T) {
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 1))
		a, now := testAllocator(t, 1+rng.IntN(5), "198.18.0.0/30", "198.18.9.9/32", "2001:2::/127")
		var held []Lease
		heldBy, busyUntil := map[netip.AddrPort]bool{}, map[netip.AddrPort]time.Duration{}
		moved := 0
		for range 20_000 {
			switch rng.IntN(10) {
			default:
				c := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(rng.IntN(20))}), uint16(rng.IntN(300)))
				v6 := rng.IntN(3) == 0
				l, err := a.acquire(c, rng.IntN(3), v6)
				if err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
				if heldBy[l.Client] || busyUntil[l.Client] > *now {
					t.Fatalf("seed %d: %v handed out while in use or waiting", seed, l.Client)
				}
				if l.Client.Port() != c.Port() {
					moved++
					if l.Client.Port() < firstPort {
						t.Fatalf("seed %d: chose port %d", seed, l.Client.Port())
					}
				}
				if l.Client.Addr().Is6() != v6 || l.Shard != l.key.shard(a.shards) {
					t.Fatalf("seed %d: %+v", seed, l)
				}
				heldBy[l.Client] = true
				held = append(held, l)
			case 0, 1, 2:
				if len(held) > 0 {
					i := rng.IntN(len(held))
					l := held[i]
					held = slices.Delete(held, i, i+1)
					delete(heldBy, l.Client)
					if rng.IntN(4) > 0 {
						a.retire(l.key)
						busyUntil[l.Client] = *now + time.Minute
					} else {
						a.release(l.key)
					}
				}
			case 3:
				*now += time.Duration(rng.IntN(1000)) * time.Millisecond
			}
		}
		var s Stats
		a.addStats(&s)
		waiting := 0
		for _, until := range busyUntil {
			if until > *now {
				waiting++
			}
		}
		if s.TuplesInUse != len(held) || s.TuplesWaiting < waiting || int(s.TuplesMoved) < moved {
			t.Errorf("seed %d: stats %+v, want %d in use, at least %d waiting and %d moved", seed, s, len(held), waiting, moved)
		}
		*now += timeWait
		if a.addStats(&s); s.TuplesWaiting != 0 || len(a.taken) != len(held) {
			t.Errorf("seed %d: %+v after the time is over", seed, s)
		}
	}
}

// A thousand copies of a client must look like a thousand clients: addresses of
// their own, the client's port, the same ones the next time.
func TestCopiesHaveAddressesOfTheirOwn(t *testing.T) {
	const copies = 1000
	c := netip.MustParseAddrPort("192.0.2.1:40000")
	for _, pool := range [][]string{{"198.18.0.0/15"}, {"198.18.0.0/19", "10.9.9.0/28"}, {"2001:2::/48"}} {
		var runs [2][]netip.AddrPort
		for run := range runs {
			a, _ := testAllocator(t, 3, pool...)
			seen := map[netip.Addr]bool{}
			for i := range copies {
				l, err := a.acquire(c, i, pool[0] == "2001:2::/48")
				if err != nil {
					t.Fatal(err)
				}
				runs[run] = append(runs[run], l.Client)
				if l.Client.Port() != 40000 {
					t.Fatalf("pool %v: copy %d is %v", pool, i, l.Client)
				}
				seen[l.Client.Addr()] = true
			}
			if len(seen) != copies {
				t.Errorf("pool %v: %d copies have %d addresses", pool, copies, len(seen))
			}
		}
		if !slices.Equal(runs[0], runs[1]) {
			t.Errorf("pool %v: another run gives other addresses", pool)
		}
	}
	// As many as a pool of one address has ports for, all different.
	a, _ := testAllocator(t, 2, "198.18.0.1/32")
	seen := map[netip.AddrPort]bool{}
	for i := range copies {
		l, err := a.acquire(c, i, false)
		if err != nil || seen[l.Client] {
			t.Fatalf("copy %d: %v, %v", i, l.Client, err)
		}
		seen[l.Client] = true
	}
}

func TestOneAddressServesAllItsPorts(t *testing.T) {
	a, now := testAllocator(t, 2, "198.18.0.1/32")
	seen := map[uint16]bool{}
	c := netip.MustParseAddrPort("192.0.2.1:40000")
	const all = 1<<16 - firstPort
	for i := range all {
		l, err := a.acquire(c, 0, false)
		if err != nil {
			t.Fatalf("after %d: %v", i, err)
		}
		if seen[l.Client.Port()] {
			t.Fatalf("port %d twice", l.Client.Port())
		}
		seen[l.Client.Port()] = true
	}
	if _, err := a.acquire(c, 0, false); !errors.Is(err, ErrNoTuple) {
		t.Fatalf("one more: %v", err)
	}
	if l, err := a.acquire(netip.MustParseAddrPort("192.0.2.1:80"), 0, false); err != nil || l.Client.Port() != 80 {
		t.Errorf("a client's own low port: %v, %v", l.Client, err)
	}
	a.retire(newKey(false, 0, 5555))
	if _, err := a.acquire(c, 0, false); !errors.Is(err, ErrNoTuple) {
		t.Errorf("within TIME_WAIT: %v", err)
	}
	*now += timeWait
	if l, err := a.acquire(c, 0, false); err != nil || l.Client.Port() != 5555 {
		t.Errorf("after TIME_WAIT: %v, %v", l.Client, err)
	}
	var s Stats
	if a.addStats(&s); s.TuplesRefused != 2 {
		t.Errorf("stats %+v", s)
	}
}

func TestExhaustedAddressMovesToTheNext(t *testing.T) {
	a, _ := testAllocator(t, 1, "198.18.0.0/31")
	c := netip.MustParseAddrPort("192.0.2.1:40000")
	first, err := a.acquire(c, 0, false)
	if err != nil {
		t.Fatal(err)
	}
	for range 1<<16 - firstPort - 1 {
		if l, err := a.acquire(c, 0, false); err != nil || l.Client.Addr() != first.Client.Addr() {
			t.Fatalf("%v, %v", l.Client, err)
		}
	}
	if l, err := a.acquire(c, 0, false); err != nil || l.Client.Addr() == first.Client.Addr() || l.Client.Port() != 40000 {
		t.Errorf("%v, %v: want the other address, same port", l.Client, err)
	}
}

// Which address a client gets must not depend on the run.
func TestClientKeepsItsAddress(t *testing.T) {
	for addr, want := range map[string]string{
		"192.0.2.1":   "198.19.49.150",
		"2001:db8::1": "198.19.123.183",
	} {
		a, _ := testAllocator(t, 3, "198.18.0.0/15")
		l, err := a.acquire(netip.AddrPortFrom(netip.MustParseAddr(addr), 1234), 0, false)
		if err != nil {
			t.Fatal(err)
		}
		if got := l.Client.Addr().String(); got != want {
			t.Errorf("%s got %s, want %s", addr, got, want)
		}
	}
}

// Clients spread over the pool, its network and broadcast addresses excepted.
func TestClientsSpread(t *testing.T) {
	a, _ := testAllocator(t, 1, "198.18.0.0/24")
	n := map[netip.Addr]int{}
	for i := range 25_400 {
		l, err := a.acquire(netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), uint16(20000+i)), 0, false)
		if err != nil {
			t.Fatal(err)
		}
		n[l.Client.Addr()]++
	}
	if len(n) != 254 {
		t.Errorf("%d addresses in use, want 254", len(n))
	}
	for addr, count := range n {
		if b := addr.As4()[3]; count > 300 || b == 0 || b == 255 {
			t.Errorf("%v has %d clients", addr, count)
		}
	}
}

func TestPoolRefusesNonsense(t *testing.T) {
	for _, prefixes := range [][]string{
		{"198.18.0.0/15", "198.19.0.0/16"},
		{"127.0.0.0/8"},
		{"224.0.0.0/4"},
		{"0.0.0.0/8"},
		{"::/0"},
		{"fe80::/64"},
		{"::ffff:198.18.0.0/111"},
		{"10.0.0.0/1", "192.0.0.0/2"},
	} {
		var pool []netip.Prefix
		for _, p := range prefixes {
			pool = append(pool, netip.MustParsePrefix(p))
		}
		if _, _, err := newPools(pool); err == nil {
			t.Errorf("pool %v accepted", prefixes)
		}
	}
}

func TestPoolNumbersItsAddresses(t *testing.T) {
	v4, v6, err := newPools([]netip.Prefix{
		netip.MustParsePrefix("198.18.0.0/30"), netip.MustParsePrefix("2001:2::/48"), netip.MustParsePrefix("203.0.113.7/32"),
	})
	if err != nil {
		t.Fatal(err)
	}
	for i := range v4.size {
		if n, ok := v4.indexOf(v4.addr(i)); n != i || !ok {
			t.Errorf("address %d is %v, which is number %d (%v)", i, v4.addr(i), n, ok)
		}
	}
	for _, i := range []uint32{0, 1, 77, 1<<31 - 1} {
		if n, ok := v6.indexOf(v6.addr(i)); n != i || !ok {
			t.Errorf("address %d is %v, which is number %d (%v)", i, v6.addr(i), n, ok)
		}
	}
	for _, a := range []string{"198.18.0.4", "203.0.113.8", "10.0.0.1"} {
		if _, ok := v4.indexOf(netip.MustParseAddr(a)); ok {
			t.Errorf("%s is of the pool", a)
		}
	}
	for _, a := range []string{"2001:2:0:1::1", "2001:2:1::", "2001:2::8000:0"} {
		if n, ok := v6.indexOf(netip.MustParseAddr(a)); ok {
			t.Errorf("%s is number %d of the pool", a, n)
		}
	}
}

func TestFIFOGivesBackInOrderAndFreesChunks(t *testing.T) {
	var f fifo
	for i := range 5000 {
		f.push(tupleKey(i), time.Duration(i)*time.Second)
	}
	for i := range 5000 {
		if _, ok := f.popUntil(time.Duration(i-1) * time.Second); ok {
			t.Fatalf("popped %d too early", i)
		}
		if k, ok := f.popUntil(time.Duration(i) * time.Second); k != tupleKey(i) || !ok {
			t.Fatalf("popped %d (%v), want %d", k, ok, i)
		}
	}
	if f.head != nil || f.tail != nil || f.length != 0 {
		t.Error("memory kept")
	}
}
