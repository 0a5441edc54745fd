package flow_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"flowtwin/internal/flow"
	"flowtwin/internal/packet"
)

// tuple returns the n-th of many tuples, of both address families, that differ
// in one field or another.
func tuple(n int) flow.Tuple {
	client := netip.AddrFrom4([4]byte{10, byte(n >> 10), byte(n >> 4), byte(n)})
	server := netip.MustParseAddr("192.168.44.137")
	if n%3 == 2 {
		client = netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, byte(n >> 16), 15: byte(n >> 8)})
		server = netip.MustParseAddr("2001:db8:1::1")
	}
	return flow.Tuple{
		Client: packet.AddrFrom(client), Server: packet.AddrFrom(server),
		ClientPort: uint16(n), ServerPort: uint16(80 + n%2),
	}
}

// The table does what a map does, and its slots are a dense numbering, through
// any history of insertions, unlinkings and frees: a deletion that leaves a hole
// in a probe sequence, or a growth that loses a cell, shows here.
func TestTableAgainstMap(t *testing.T) {
	const limit = 3000
	for round := range 4 {
		rnd := rand.New(rand.NewPCG(uint64(round), 1))
		table := flow.NewTable[int](limit)
		linked := map[flow.Tuple]uint32{}
		slots := map[uint32]int{} // in use: their values
		for step := range 60_000 {
			k := tuple(rnd.IntN(limit * 3 / 2))
			slot, known := linked[k]
			got, found := table.Find(&k)
			if found != known || known && got != slot {
				t.Fatalf("step %d: Find = %d, %v, want %d, %v", step, got, found, slot, known)
			}
			switch draw := rnd.IntN(10); {
			case !known:
				got, ok := table.Insert(&k)
				if ok != (len(slots) < limit) {
					t.Fatalf("step %d: Insert with %d in use: %v", step, len(slots), ok)
				}
				if !ok {
					for slot := range slots { // make room
						freeSlot(table, slot, linked, slots)
						break
					}
					continue
				}
				if _, used := slots[got]; used || got >= limit {
					t.Fatalf("step %d: slot %d given twice or out of range", step, got)
				}
				if *table.At(got) != 0 || table.Tuple(got) != k {
					t.Fatalf("step %d: slot %d holds %d for %v", step, got, *table.At(got), table.Tuple(got))
				}
				*table.At(got) = step + 1
				linked[k], slots[got] = got, step+1
			case draw < 2:
				table.Unlink(slot)
				delete(linked, k)
			case draw < 6:
				freeSlot(table, slot, linked, slots)
			}
			if table.Len() != len(slots) {
				t.Fatalf("step %d: Len = %d, want %d", step, table.Len(), len(slots))
			}
		}
		got := map[uint32]int{}
		var order []uint32
		for slot, value := range table.All() {
			got[slot] = *value
			order = append(order, slot)
		}
		if !maps.Equal(got, slots) || !slices.IsSorted(order) {
			t.Errorf("All gives %d records of %d", len(got), len(slots))
		}
		for k, slot := range linked {
			if got, ok := table.Find(&k); !ok || got != slot {
				t.Errorf("%v is lost", k)
			}
		}
	}
}

func freeSlot(table *flow.Table[int], slot uint32, linked map[flow.Tuple]uint32, slots map[uint32]int) {
	k := table.Tuple(slot)
	if got, ok := linked[k]; ok && got == slot {
		delete(linked, k)
	}
	table.Free(slot)
	delete(slots, slot)
}

// A new SYN on a live tuple: the old flow keeps its slot until its account is
// there, and freeing it must not take the new flow's tuple away.
func TestTableTupleBeginsAgainWhileOldFlowIsOutstanding(t *testing.T) {
	table := flow.NewTable[int](10)
	k := tuple(1)
	older, _ := table.Insert(&k)
	table.Unlink(older)
	table.Unlink(older)
	newer, ok := table.Insert(&k)
	if !ok || newer == older {
		t.Fatalf("Insert = %d, %v while slot %d is in use", newer, ok, older)
	}
	table.Free(older)
	if got, ok := table.Find(&k); !ok || got != newer {
		t.Errorf("Find = %d, %v, want %d", got, ok, newer)
	}
}

func TestTableNumbersStayDense(t *testing.T) {
	table := flow.NewTable[int](5000)
	for i := range 3000 {
		k := tuple(i)
		if slot, _ := table.Insert(&k); slot != uint32(i) {
			t.Fatalf("flow %d got slot %d", i, slot)
		}
	}
	*table.At(77) = 1
	table.Free(2000)
	table.Free(77)
	for _, want := range []uint32{77, 2000, 3000} {
		k := tuple(10_000 + int(want))
		if slot, _ := table.Insert(&k); slot != want || *table.At(slot) != 0 {
			t.Errorf("got slot %d with %d, want %d with 0", slot, *table.At(slot), want)
		}
	}
}

func TestTableAllWhileFreeing(t *testing.T) {
	table := flow.NewTable[int](100)
	for i := range 100 {
		k := tuple(i)
		table.Insert(&k)
	}
	seen := 0
	for slot := range table.All() {
		table.Free(slot)
		seen++
	}
	if seen != 100 || table.Len() != 0 {
		t.Errorf("saw %d, %d left", seen, table.Len())
	}
}

func TestTableBrokenOwnershipPanics(t *testing.T) {
	k := tuple(1)
	tests := map[string]func(*flow.Table[int]){
		"freed twice":        func(tb *flow.Table[int]) { tb.Free(0); tb.Free(0) },
		"unlinked when free": func(tb *flow.Table[int]) { tb.Free(0); tb.Unlink(0) },
		"never used":         func(tb *flow.Table[int]) { tb.Free(1) },
		"inserted twice":     func(tb *flow.Table[int]) { tb.Insert(&k) },
	}
	for name, misuse := range tests {
		t.Run(name, func(t *testing.T) {
			table := flow.NewTable[int](10)
			table.Insert(&k)
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			misuse(table)
		})
	}
}

// Pointers to records must survive growth: the copier holds them across
// insertions.
func TestTableRecordsDoNotMove(t *testing.T) {
	table := flow.NewTable[int](1 << 16)
	k := tuple(0)
	slot, _ := table.Insert(&k)
	first := table.At(slot)
	for i := range 20_000 {
		k := tuple(i + 1)
		if _, ok := table.Find(&k); !ok {
			table.Insert(&k)
		}
	}
	if table.At(slot) != first {
		t.Error("a record moved")
	}
}

func TestTableDoesNotAllocate(t *testing.T) {
	table := flow.NewTable[[64]byte](1000)
	for i := range 400 {
		k := tuple(i)
		table.Insert(&k)
	}
	hit, churn := tuple(5), tuple(900)
	if n := testing.AllocsPerRun(100, func() {
		table.Find(&hit)
		slot, _ := table.Insert(&churn)
		table.Unlink(slot)
		table.Free(slot)
	}); n != 0 {
		t.Errorf("finding, inserting and freeing allocate %v times, want 0", n)
	}
}

func BenchmarkTableFind(b *testing.B) {
	for _, flows := range []int{100, 5_000, 200_000} {
		table := flow.NewTable[[128]byte](flows)
		keys := make([]flow.Tuple, 1<<14)
		for i := range flows {
			k := tuple(i)
			k.ServerPort = uint16(i >> 16)
			table.Insert(&k)
		}
		rnd := rand.New(rand.NewPCG(1, 1))
		for i := range keys {
			n := rnd.IntN(flows)
			keys[i] = tuple(n)
			keys[i].ServerPort = uint16(n >> 16)
		}
		b.Run(fmt.Sprintf("hit/%d flows", flows), func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if _, ok := table.Find(&keys[i%len(keys)]); !ok {
					b.Fatal("not found")
				}
			}
		})
	}
	b.Run("miss", func(b *testing.B) {
		table := flow.NewTable[[128]byte](5000)
		for i := range 5000 {
			k := tuple(i)
			table.Insert(&k)
		}
		k := tuple(1)
		k.ServerPort = 9
		for b.Loop() {
			table.Find(&k)
		}
	})
}

func BenchmarkTableInsertFree(b *testing.B) {
	table := flow.NewTable[[128]byte](5000)
	b.ReportAllocs()
	k := tuple(1)
	for i := 0; b.Loop(); i++ {
		k.ClientPort = uint16(i)
		slot, _ := table.Insert(&k)
		table.Free(slot)
	}
}
