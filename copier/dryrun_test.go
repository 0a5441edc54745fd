package copier

import (
	"bufio"
	"bytes"
	"net/netip"
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

// Warnings come between the lines of connections, never within one: where both go to
// one terminal they would tear it.
func TestDryRunWritesWholeLines(t *testing.T) {
	t.Parallel()
	out := &lines{t: t}
	l := &dryLane{
		shard: &shard{player: &player{}}, out: bufio.NewWriter(out), flows: map[uint32]*dryFlow{}, amount: newAmount(1, 0),
	}
	for i := range uint32(1000) {
		o := frame.Open{}
		o.Key.Client = packet.AddrFrom(netip.MustParseAddr("2001:db8:1111:2222:3333:4444:5555:6666"))
		o.Key.Server = o.Key.Client
		l.Open(i, &o)
		l.Data(i, 0, 0, []byte(ask("k")))
		l.Fin(i, 0, false)
	}
	if out.writes < 10 {
		t.Errorf("%d writes for 1000 lines: nothing was tried", out.writes)
	}
}

// lines is a writer that wants whole lines.
type lines struct {
	t      *testing.T
	writes int
}

func (l *lines) Write(b []byte) (int, error) {
	l.writes++
	if !bytes.HasSuffix(b, []byte("\n")) {
		l.t.Errorf("a write ends with %q", b[max(0, len(b)-20):])
	}
	return len(b), nil
}
