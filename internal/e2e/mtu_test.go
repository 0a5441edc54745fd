//go:build netns

package e2e

import (
	"testing"

	"flowtwin/internal/e2e/traffic"
	"flowtwin/internal/testnet"
)

// Between the two hosts is a VPN with the smallest MTU that there is, and neither
// host knows: what is larger vanishes, or is answered by an ICMP error.
func TestTunnelThroughAVPN(t *testing.T) {
	t.Parallel()
	s := newScene(t, testnet.LabConfig{}, func(l *testnet.Lab) {
		l.Router.Run(t, "ip", "link", "set", "eth2", "mtu", "1280")
	})
	online, target := s.serve(port, testnet.TargetAddr+port)
	copier, responder := s.copies(httpMap)
	stats := s.make(traffic.Load{Name: "VPN", Clients: 5, Rounds: 4, Requests: 10, Bodies: []int{0, 100, 9000}}, s.dialer(port))
	s.same(online, target)
	s.exact(s.end(copier, responder), stats)
}
