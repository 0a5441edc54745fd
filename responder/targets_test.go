package responder

import (
	"strings"
	"testing"
)

// Maps come and go while flows run: a flow must reach the target of the map that it
// names by its index, old or new.
func TestFurtherMaps(t *testing.T) {
	first := []string{"127.0.0.1:1", "127.0.0.2:2"}
	n := newFakeNet(2, target{})
	r := newRig(t, Config{}, n, first...)
	r.openMap(0, 1)
	all := append(first, "127.0.0.3:3")
	wait(t, "the map", func() bool { return r.client.SetMaps(t.Context(), maps(all)) == nil }) // the peer is just being taken
	r.openMap(1, 2)
	r.openMap(2, 0)
	for _, other := range [][]string{all[:2], {all[1], all[0], all[2]}} {
		if err := r.client.SetMaps(t.Context(), maps(other)); err == nil || !strings.Contains(err.Error(), "must stay") {
			t.Errorf("%v in the place of %v: %v", other, all, err)
		}
	}
	for i := range uint32(3) {
		r.lane().Fin(i, 0, false)
	}
	r.lane().Flush()
	r.wait("the accounts", func() bool { return len(r.closed) == 3 })
	for flow, want := range []string{all[1], all[2], all[0]} {
		if got := n.dialledTo(client(uint32(flow))); got.String() != want {
			t.Errorf("flow %d went to %s, want %s", flow, got, want)
		}
	}
}
