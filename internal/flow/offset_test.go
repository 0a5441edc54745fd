package flow_test

import (
	"testing"

	"flowtwin/internal/flow"
	"flowtwin/internal/packet"
)

func TestOffset64(t *testing.T) {
	var o flow.Offset64
	o.Start(0xfffffff0)
	steps := []struct {
		seq  packet.Seq
		want uint64
	}{
		{0xfffffff0, 0},
		{0xfffffff8, 8},
		{8, 24},          // wrapped
		{0xfffffff9, 24}, // an old acknowledgement
		{0x50000000, 24}, // beyond any window: forged
		{0x40000000, 1073741840},
		{0x80000000, 2147483664},
		{0xc0000000, 3221225488},
		{0, 4294967312}, // more than 4 GiB
		{0x10, 4294967328},
	}
	for _, s := range steps {
		if got := o.Advance(s.seq); got != s.want || o.High() != s.want {
			t.Errorf("Advance(%#x) = %d, High %d, want %d", s.seq, got, o.High(), s.want)
		}
	}
	if got := o.At(0); got != 4294967312 {
		t.Errorf("At = %d", got)
	}
	o.Start(100)
	if got := o.At(99); got != -1 {
		t.Errorf("At before the start = %d, want -1", got)
	}
}
