package flow_test

import (
	"bytes"
	"fmt"
	"testing"

	"flowtwin/internal/flow"
	"flowtwin/internal/packet"
)

// started returns an assembler at sequence number 1000 and its store.
func started() (*flow.Assembler, *flow.Store) {
	a := new(flow.Assembler)
	a.Start(1000)
	return a, flow.NewStore(1 << 20)
}

// run offers segments and returns all results, separated by bars.
func run(t *testing.T, a *flow.Assembler, st *flow.Store, segments ...segment) string {
	t.Helper()
	var out []string
	for i, s := range segments {
		fresh, v := a.Add(st, s.seq, []byte(s.data), flow.Meta{Time: int64(i + 1)})
		if v != s.want {
			t.Errorf("segment %d (%q at %d): %v, want %v", i, s.data, s.seq, v, s.want)
		}
		if v == flow.InOrder {
			out = append(out, string(fresh))
		}
		for {
			b, _, ok := a.Pop(st)
			if !ok {
				break
			}
			out = append(out, string(b))
		}
	}
	return fmt.Sprintf("%s", out)
}

type segment struct {
	seq  packet.Seq
	data string
	want flow.Verdict
}

func TestAssembler(t *testing.T) {
	tests := []struct {
		name     string
		segments []segment
		want     string
		tally    flow.Tally
	}{
		{"in order", []segment{{1000, "ab", 0}, {1002, "cd", 0}}, "[ab cd]", flow.Tally{}},
		{
			"retransmission, grown by new bytes",
			[]segment{{1000, "ab", 0}, {1000, "ab", flow.Old}, {1000, "abcd", 0}},
			"[ab cd]",
			flow.Tally{OldBytes: 4, OldSegments: 1},
		},
		{
			"keep-alive probe with its garbage byte",
			[]segment{{1000, "ab", 0}, {1001, "\x00", flow.Old}, {1002, "c", 0}},
			"[ab c]",
			flow.Tally{OldBytes: 1, OldSegments: 1},
		},
		{
			"two swapped",
			[]segment{{1002, "cd", flow.Early}, {1000, "ab", 0}},
			"[ab cd]",
			flow.Tally{},
		},
		{
			"a lost one comes again together with what followed it",
			[]segment{{1002, "cd", flow.Early}, {1000, "abcd", 0}},
			"[ab cd]",
			flow.Tally{OldBytes: 2},
		},
		{
			"a retransmission over two stored ones and the gaps around them: the first contents stand",
			[]segment{{1002, "CD", flow.Early}, {1005, "F", flow.Early}, {1000, "abcdefgh", 0}},
			"[abCDeFgh]",
			flow.Tally{OldBytes: 3, OldSegments: 2, Conflicts: 2},
		},
		{
			"the same, itself early",
			[]segment{{1003, "DE", flow.Early}, {1006, "G", flow.Early}, {1001, "bcdefgh", flow.Early}, {1000, "a", 0}},
			"[a bcDEfGh]",
			flow.Tally{OldBytes: 3, OldSegments: 2, Conflicts: 2},
		},
		{
			"between stored ones, overlapping both",
			[]segment{{1002, "cd", flow.Early}, {1006, "gh", flow.Early}, {1003, "XefX", flow.Early}, {1000, "ab", 0}},
			"[ab cd ef gh]",
			flow.Tally{OldBytes: 2, Conflicts: 2},
		},
		{
			"inside several adjacent stored ones",
			[]segment{{1002, "cd", flow.Early}, {1004, "ef", flow.Early}, {1003, "de", flow.Old}, {1000, "ab", 0}},
			"[ab cd ef]",
			flow.Tally{OldBytes: 2, OldSegments: 1},
		},
		{
			"of another connection",
			[]segment{{1000 + 1<<30 + 1, "x", flow.Outside}, {0xc0000000, "x", flow.Outside}, {1000 + 1<<30, "z", flow.Early}, {1000, "a", 0}},
			"[a]",
			flow.Tally{},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a, st := started()
			if got := run(t, a, st, tt.segments...); got != tt.want {
				t.Errorf("returned %s, want %s", got, tt.want)
			}
			if got := st.Tally(); got != tt.tally {
				t.Errorf("tally %+v, want %+v", got, tt.tally)
			}
		})
	}
}

func TestAssemblerKeepsMeta(t *testing.T) {
	a, st := started()
	add := func(seq packet.Seq, data string, m flow.Meta) { a.Add(st, seq, []byte(data), m) }
	add(1010, "kl", flow.Meta{Seen: 7, Time: 70})
	add(1004, "ef", flow.Meta{Seen: 5, Time: 50})
	add(1003, "defg", flow.Meta{Seen: 9, Time: 90}) // covers the one before
	if since, ok := a.Oldest(st); !ok || since != 50 {
		t.Errorf("Oldest = %d, %v, want 50", since, ok)
	}
	add(1000, "abc", flow.Meta{})
	if b, m, ok := a.Pop(st); !ok || string(b) != "defg" || m != (flow.Meta{Seen: 5, Time: 50}) {
		t.Errorf("Pop = %q, %+v, %v", b, m, ok)
	}
	if since, ok := a.Oldest(st); !ok || since != 70 {
		t.Errorf("Oldest = %d, %v once the older one is gone, want 70", since, ok)
	}
	if missing, ok := a.Gap(st); !ok || missing != 3 {
		t.Errorf("Gap = %d, %v, want 3", missing, ok)
	}
	if segments, size := a.Drop(st); segments != 1 || size != 2 {
		t.Errorf("Drop = %d, %d, want 1, 2", segments, size)
	}
	if _, ok := a.Oldest(st); ok {
		t.Error("Oldest of nothing")
	}
}

// The server's acknowledgement of bytes that were never captured is the proof of
// a hole.
func TestAssemblerPassed(t *testing.T) {
	var unstarted flow.Assembler
	if unstarted.Passed(5) || unstarted.Started() {
		t.Error("passed before the start")
	}
	a, st := started()
	a.Add(st, 1000, make([]byte, 10), flow.Meta{})
	a.Add(st, 1020, make([]byte, 10), flow.Meta{})
	for ack, want := range map[packet.Seq]bool{1000: false, 1010: false, 1011: true, 1030: true, 999: false, 0x60000000: false, 0x90000000: false} {
		if got := a.Passed(ack); got != want {
			t.Errorf("Passed(%d) = %v, want %v", ack, got, want)
		}
	}
}

func TestAssemblerBrokenOwnershipPanics(t *testing.T) {
	tests := map[string]func(){
		"Add before Start": func() { new(flow.Assembler).Add(flow.NewStore(0), 0, []byte("x"), flow.Meta{}) },
		"Start over stored segments": func() {
			a, st := started()
			a.Add(st, 2000, []byte("x"), flow.Meta{})
			a.Start(5)
		},
	}
	for name, misuse := range tests {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			misuse()
		})
	}
}

func TestAssemblerDoesNotAllocate(t *testing.T) {
	a, st := started()
	payload := make([]byte, 1460)
	if n := testing.AllocsPerRun(100, func() { a.Add(st, a.Next(), payload, flow.Meta{}) }); n != 0 {
		t.Errorf("in order: %v allocations, want 0", n)
	}
	// Steady loss reuses what the first losses have taken.
	if n := testing.AllocsPerRun(100, func() { oneGap(a, st, payload) }); n != 0 {
		t.Errorf("out of order: %v allocations, want 0", n)
	}
}

// oneGap loses a segment, stores the next 10, and fills the gap.
func oneGap(a *flow.Assembler, st *flow.Store, payload []byte) {
	next := a.Next()
	for i := range 10 {
		a.Add(st, next.Add((i+1)*len(payload)), payload, flow.Meta{})
	}
	a.Add(st, next, payload, flow.Meta{})
	for {
		if _, _, ok := a.Pop(st); !ok {
			return
		}
	}
}

func BenchmarkAssembler(b *testing.B) {
	payload := bytes.Repeat([]byte("x"), 1460)
	b.Run("in order", func(b *testing.B) {
		a, st := started()
		b.ReportAllocs()
		for b.Loop() {
			a.Add(st, a.Next(), payload, flow.Meta{})
		}
	})
	b.Run("gap of 1 before 10", func(b *testing.B) {
		a, st := started()
		b.ReportAllocs()
		for b.Loop() {
			oneGap(a, st, payload)
		}
	})
	// A hostile client: crumbs with gaps between them, and again and again a
	// segment that lies over all of them.
	b.Run("worst case", func(b *testing.B) {
		st := flow.NewStore(64 << 20)
		var a flow.Assembler
		a.Start(0)
		for i := range 8192 {
			a.Add(st, packet.Seq(10+2*i), payload[:1], flow.Meta{})
		}
		large := make([]byte, 17_000)
		for b.Loop() {
			a.Add(st, 9, large, flow.Meta{})
		}
	})
}

// Who has waited longest gives way; a flow that gets on has begun to wait anew.
func TestWaiting(t *testing.T) {
	st := flow.NewStore(1 << 16)
	flows := make([]flow.Assembler, 3)
	for i := range flows {
		flows[i].Start(0)
		flows[i].Add(st, 10, []byte("a"), flow.Meta{Flow: uint32(i + 7)})
		flows[i].Add(st, 20, []byte("b"), flow.Meta{Flow: uint32(i + 7)})
	}
	want := func(n uint32) {
		t.Helper()
		if got, ok := st.Waiting(); !ok || got != n {
			t.Errorf("flow %d has waited longest, %v; want %d", got, ok, n)
		}
	}
	want(7)
	flows[0].Add(st, 0, make([]byte, 10), flow.Meta{})
	if _, _, ok := flows[0].Pop(st); !ok {
		t.Fatal("nothing to pop")
	}
	want(8)
	flows[2].Drop(st)
	flows[1].Drop(st)
	want(7)
	flows[0].Drop(st)
	if _, ok := st.Waiting(); ok {
		t.Error("a flow waits in an empty store")
	}
}

// Segments can wait for a beginning that is not certain yet.
func TestAdvance(t *testing.T) {
	st := flow.NewStore(1 << 16)
	var a flow.Assembler
	a.Start(99)
	if _, v := a.Add(st, 100, []byte("abc"), flow.Meta{}); v != flow.Early {
		t.Fatalf("verdict %v", v)
	}
	a.Advance(100)
	if b, _, ok := a.Pop(st); !ok || string(b) != "abc" || a.Next() != 103 {
		t.Errorf("popped %q, %v; next %d", b, ok, a.Next())
	}
}
