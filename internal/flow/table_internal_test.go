package flow

import (
	"testing"

	"flowtwin/internal/packet"
)

// Without a secret all IPv4 tuples hash to 0: what a client achieves that knows
// it. The table is slow then, not wrong: equal hashes never pass for equal
// tuples, and deletions in one long probe sequence cut nothing off.
func TestTableWhenAllTuplesCollide(t *testing.T) {
	base := Tuple{ClientPort: 1, ServerPort: 1}
	base.Client[15], base.Server[15] = 1, 1
	keys := []Tuple{base}
	vary := func(change func(k *Tuple, n int)) {
		for n := 2; n < 20; n++ {
			k := base
			change(&k, n)
			keys = append(keys, k)
		}
	}
	vary(func(k *Tuple, n int) { k.Client[15] = byte(n) })
	vary(func(k *Tuple, n int) { k.Server[8] = byte(n) })
	vary(func(k *Tuple, n int) { k.ClientPort = uint16(n) })
	vary(func(k *Tuple, n int) { k.ServerPort = uint16(n) })

	table := NewTable[int](len(keys))
	table.seed = seed{}
	for i := range keys {
		if table.seed.hash(&keys[i]) != 0 {
			t.Fatal("the tuples do not collide")
		}
		if _, ok := table.Find(&keys[i]); ok {
			t.Fatalf("%v found before it was inserted", keys[i])
		}
		table.Insert(&keys[i])
	}
	for i := 0; i < len(keys); i += 2 {
		slot, _ := table.Find(&keys[i])
		table.Free(slot)
	}
	for i := range keys {
		if slot, ok := table.Find(&keys[i]); ok != (i%2 == 1) || ok && slot != uint32(i) {
			t.Errorf("tuple %d after every other was freed: slot %d, %v", i, slot, ok)
		}
	}
}

// Every field decides, also in the words that an IPv4 tuple leaves empty.
func TestSame(t *testing.T) {
	a := Tuple{ClientPort: 1, ServerPort: 2}
	for i := range len(a.Client) {
		b := a
		b.Client[i] ^= 1
		c := a
		c.Server[i] ^= 1
		if same(&a, &b) || same(&a, &c) {
			t.Errorf("byte %d of an address is not compared", i)
		}
	}
	if b := a; !same(&a, &b) {
		t.Error("a copy is not the same")
	}
}

// Flows that come and go must not make the index grow.
func TestTableIndexFollowsFlowsNotTraffic(t *testing.T) {
	table := NewTable[int](1 << 20)
	k := Tuple{Client: packet.Addr{10: 0xff, 11: 0xff, 12: 10}}
	for i := range 100_000 {
		k.ClientPort = uint16(i)
		slot, _ := table.Insert(&k)
		table.Free(slot)
	}
	if len(table.index) != minIndex || len(table.chunks) != 1 {
		t.Errorf("index of %d cells and %d chunks for one flow at a time", len(table.index), len(table.chunks))
	}
}
