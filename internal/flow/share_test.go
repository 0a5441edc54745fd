package flow_test

import (
	"fmt"
	"math"
	"net/netip"
	"testing"

	"flowtwin/internal/flow"
	"flowtwin/internal/packet"
)

func client(a string) packet.Addr { return packet.AddrFrom(netip.MustParseAddr(a)) }

// A load tool's connections differ in their ports alone, and those of an office's
// clients perhaps in the last byte of the address: a percentage must be one of
// these too, not of the hash's values only.
func TestSampledIsUniform(t *testing.T) {
	populations := map[string]func(int) (packet.Addr, uint16){
		"ports of one client":     func(i int) (packet.Addr, uint16) { return client("10.1.2.3"), uint16(20_000 + i) },
		"even ports of one":       func(i int) (packet.Addr, uint16) { return client("10.1.2.3"), uint16(20_000 + 2*i) },
		"ports of an IPv6 client": func(i int) (packet.Addr, uint16) { return client("2001:db8::7"), uint16(20_000 + i) },
		"addresses of one port": func(i int) (packet.Addr, uint16) {
			return client(fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255)), 40_000
		},
		"IPv6 addresses of one port": func(i int) (packet.Addr, uint16) {
			return client(fmt.Sprintf("2001:db8::%x", i)), 40_000
		},
		"IPv6 networks": func(i int) (packet.Addr, uint16) {
			return client(fmt.Sprintf("2001:db8:%x::1", i)), 40_000
		},
	}
	const n = 20_000
	for name, member := range populations {
		for _, percent := range []float64{0.5, 10, 25, 50, 90} {
			share, got := flow.Sampled(percent), 0.0
			for i := range n {
				a, port := member(i)
				if share.Takes(&a, port) {
					got++
				}
			}
			// Five standard deviations of as many coins.
			want := n * percent / 100
			if most := 5 * math.Sqrt(want*(1-percent/100)); math.Abs(got-want) > most {
				t.Errorf("%v %% of %s: %v of %d, want %v ± %.0f", percent, name, got, n, want, most)
			}
		}
	}
}

// 256 clients of one network, each with the same port: too few for percentages to
// come out well, but none may be far off.
func TestSampledOfSmallNetworks(t *testing.T) {
	total := 0
	for network := range 100 {
		share, got := flow.Sampled(10), 0
		for i := range 256 {
			a := client(fmt.Sprintf("192.168.%d.%d", network, i))
			if share.Takes(&a, 33_000) {
				got++
			}
		}
		if got < 4 || got > 55 {
			t.Errorf("192.168.%d.0/24: %d of 256", network, got)
		}
		total += got
	}
	if total < 2300 || total > 2820 {
		t.Errorf("%d of %d", total, 100*256)
	}
}

// The choice must be the same after a restart, an upgrade too: these values are
// for good.
func TestHashStays(t *testing.T) {
	for _, tt := range []struct {
		addr string
		port uint16
		want uint32
	}{{"10.1.2.3", 40_000, 0x40088c11}, {"2001:db8::1", 443, 0x4f76d430}} {
		a := client(tt.addr)
		if got := flow.Sampled(1).Hash(&a, tt.port); got != tt.want {
			t.Errorf("%s:%d hashes to %#x, want %#x", tt.addr, tt.port, got, tt.want)
		}
	}
}

func TestSampledGrows(t *testing.T) {
	before := 0
	for _, percent := range []float64{0, 0.1, 1, 10, 99, 100} {
		n := 0
		for i := range 10_000 {
			a, port := client(fmt.Sprintf("10.0.%d.%d", i>>8, i&255)), uint16(i)
			took := flow.Sampled(percent).Takes(&a, port)
			if took {
				n++
			}
			if !took && percent > 0 && flow.Sampled(percent/2).Takes(&a, port) {
				t.Fatalf("in %v %% but not in %v %%", percent/2, percent)
			}
		}
		if n < before || percent == 0 && n > 0 || percent == 100 && n < 10_000 {
			t.Errorf("%v %%: %d of 10000, %d of less", percent, n, before)
		}
		before = n
		if got := flow.Sampled(percent).Percent(); got != percent {
			t.Errorf("%v %% says that it is %v", percent, got)
		}
	}
}

// Every client belongs to one target, with all its connections, whatever is
// sampled of them.
func TestSplitCoversAll(t *testing.T) {
	for _, n := range []int{1, 2, 3, 7} {
		parts, sampled := make([]int, n), make([]int, n)
		const clients = 21_000
		for i := range clients {
			a := client(fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255))
			in := 0
			for k := range n {
				if !flow.Split(k, n).Takes(&a, uint16(i)) {
					continue
				}
				in++
				parts[k]++
				if (flow.Choice{flow.Split(k, n), flow.Sampled(50)}).Takes(&a, uint16(i)) {
					sampled[k]++
				}
			}
			if in != 1 {
				t.Fatalf("client %v is in %d of %d parts", a, in, n)
			}
		}
		for k := range n {
			if want := clients / n; parts[k] < want*9/10 || parts[k] > want*11/10 {
				t.Errorf("part %d of %d has %d clients of %d", k, n, parts[k], clients)
			}
			if want := parts[k] / 2; sampled[k] < want*9/10 || sampled[k] > want*11/10 {
				t.Errorf("half of part %d of %d: %d of %d", k, n, sampled[k], parts[k])
			}
		}
	}
}
