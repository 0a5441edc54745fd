package responder

import (
	"net/netip"
	"testing"

	"flowtwin/tunnel"
)

// A second copier that was started by mistake makes everything arrive twice, and no sum
// is wrong: somebody has to say it. What is only alike must not be accused.
func TestCopiersOfTheSame(t *testing.T) {
	target, other := netip.MustParseAddrPort("10.0.0.9:80"), netip.MustParseAddrPort("10.0.0.9:81")
	one, two := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	hello := func(name, remote string, maps ...tunnel.Map) tunnel.Hello {
		return tunnel.Hello{Name: name, Remote: netip.MustParseAddrPort(remote), Maps: maps}
	}
	first := hello("web1", "10.0.0.1:4000", tunnel.Map{Port: 80, Target: target})
	for name, tt := range map[string]struct {
		second tunnel.Hello
		want   bool
	}{
		"the same":               {hello("web1", "10.0.0.1:4001", tunnel.Map{Port: 81, Target: target}, tunnel.Map{Port: 80, Target: target}), true},
		"one of the addresses":   {hello("web1", "10.0.0.1:4001", tunnel.Map{Server: one, Port: 80, Target: target}), true},
		"another host":           {hello("web2", "10.0.0.2:4000", tunnel.Map{Port: 80, Target: target}), false},
		"another, behind a NAT":  {hello("web2", "10.0.0.1:4001", tunnel.Map{Port: 80, Target: target}), false},
		"a clone of its machine": {hello("web1", "10.0.0.2:4000", tunnel.Map{Port: 80, Target: target}), false},
		"another port":           {hello("web1", "10.0.0.1:4001", tunnel.Map{Port: 81, Target: target}), false},
		"another target":         {hello("web1", "10.0.0.1:4001", tunnel.Map{Port: 80, Target: other}), false},
	} {
		t.Run(name, func(t *testing.T) {
			if _, ok := common(first, tt.second); ok != tt.want {
				t.Errorf("the same: %t, want %t", ok, tt.want)
			}
		})
	}
	a := hello("web1", "10.0.0.1:1", tunnel.Map{Server: one, Port: 80, Target: target})
	if _, ok := common(a, hello("web1", "10.0.0.1:2", tunnel.Map{Server: two, Port: 80, Target: target})); ok {
		t.Error("two addresses of one host are taken for the same")
	}
}
