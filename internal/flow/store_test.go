package flow_test

import (
	"fmt"
	"testing"

	"flowtwin/internal/flow"
	"flowtwin/internal/packet"
)

// One client cannot fill the store for all, neither with bytes nor with crumbs.
func TestStoreIsShared(t *testing.T) {
	for _, size := range []int{1, 1460, 64 << 10} {
		t.Run(fmt.Sprintf("segments of %d bytes", size), func(t *testing.T) {
			const budget = 16 << 20
			st := flow.NewStore(budget)
			var greedy, modest flow.Assembler
			greedy.Start(1)
			modest.Start(1)
			payload := make([]byte, size)
			n := 0
			for seq := packet.Seq(100); ; seq = seq.Add(2 * size) {
				if _, v := greedy.Add(st, seq, payload, flow.Meta{}); v == flow.StoreFull {
					break
				}
				n++
			}
			if st.Bytes() > budget/4 || n < 10 || n > 8192 {
				t.Errorf("one flow stores %d bytes in %d segments", st.Bytes(), n)
			}
			if _, v := modest.Add(st, 100, payload, flow.Meta{}); v != flow.Early {
				t.Errorf("another flow: %v, want early", v)
			}
			greedy.Drop(st)
			modest.Drop(st)
			if _, v := greedy.Add(st, 100, payload, flow.Meta{}); v != flow.Early {
				t.Errorf("after Drop: %v, want early", v)
			}
		})
	}
}

// What the store holds, spare buffers included, stays within its budget whatever
// sizes come and go.
func TestStoreStaysInBudget(t *testing.T) {
	const budget = 1 << 20
	st := flow.NewStore(budget)
	flows := make([]flow.Assembler, 64)
	for round := range 50 {
		size := 1 << (round % 17)
		for i := range flows {
			flows[i].Drop(st)
			flows[i].Start(0)
			for j := range 40 {
				flows[i].Add(st, packet.Seq(1+j*size), make([]byte, size), flow.Meta{})
			}
			if got := flow.StoreFootprint(st); got > budget {
				t.Fatalf("%d bytes held, budget %d", got, budget)
			}
			if got := flow.StoreNodes(st); got > budget/(64+128) {
				t.Fatalf("%d nodes, more than the budget pays for", got)
			}
		}
	}
}

// A flow that is never without a gap for hours still has its full share.
func TestStoreGivesBackWhatIsPopped(t *testing.T) {
	a, st := started()
	payload := make([]byte, 1000)
	for range 10_000 {
		next := a.Next()
		for _, seq := range []packet.Seq{next.Add(1000), next.Add(3000), next} {
			if _, v := a.Add(st, seq, payload, flow.Meta{}); v == flow.StoreFull {
				t.Fatalf("refused at %d with %d bytes stored", seq, st.Bytes())
			}
		}
		if _, _, ok := a.Pop(st); !ok || st.Len() == 0 {
			t.Fatal("the situation is not the one meant")
		}
	}
}

func TestStoreRefusesWhatIsTooLarge(t *testing.T) {
	st := flow.NewStore(64 << 20)
	var a flow.Assembler
	a.Start(0)
	if _, v := a.Add(st, 1, make([]byte, 512<<10), flow.Meta{}); v != flow.Early {
		t.Errorf("512 KiB: %v, want early", v)
	}
	if _, v := a.Add(st, 600<<10, make([]byte, 512<<10+1), flow.Meta{}); v != flow.StoreFull {
		t.Errorf("a byte more: %v, want store_full", v)
	}
}
