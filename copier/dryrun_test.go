package copier

import (
	"bufio"
	"strings"
	"testing"

	"flowtwin/internal/packet"
	"flowtwin/tunnel/frame"
)

// What a dry run says must be what a replay brings: each turn counts once, also where
// requests are left out of a pipeline and nobody knows what was seen, and each copy.
func TestDryRunCounts(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	l := &dryLane{
		shard: &shard{player: &player{}}, out: bufio.NewWriter(&out), flows: map[uint32]*dryFlow{}, amount: newAmount(3, 0),
	}
	o := frame.Open{}
	o.Key.Client = packet.Addr{15: 1}
	l.Open(1, &o)
	for _, seen := range []uint64{0, seenUnknown, 0, seenUnknown, 0, 50, 50} {
		l.Data(1, seen, 0, []byte(ask("k")))
	}
	l.Fin(1, 50, false)
	if s := l.sum; s.turns != 4 || s.requests != 7 || s.sessions != 3 || s.copied != 21 {
		t.Errorf("%d turns, %d requests, %d sessions, %d requests in all of them", s.turns, s.requests, s.sessions, s.copied)
	}
}
