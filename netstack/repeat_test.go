package netstack

import (
	"encoding/binary"
	"testing"

	"flowtwin/internal/packet"
)

// A SYN that is sent again bears the time at which it is, as a client's kernel has
// it: or the wait for it would be taken for the way to the target and back, and what
// is lost next be sent again only after three times as long. A target whose queue is
// full loses both.
func TestRepeatedSYNBearsItsOwnTime(t *testing.T) {
	for _, addr := range []string{"10.9.0.1:0", "[fd09::1]:0"} {
		h := open(t, Config{})
		var stamps []uint32
		var echoed uint32
		h.lose(func(v *packet.View) bool {
			at, ok := timestamp(v.Options)
			if !ok {
				t.Errorf("%s: a packet without a timestamp", addr)
				return false
			}
			if !v.Flags.Has(packet.SYN) {
				echoed = binary.BigEndian.Uint32(v.Options[at:])
				return false
			}
			stamps = append(stamps, binary.BigEndian.Uint32(v.Options[at:]))
			return len(stamps) == 1
		})
		c := h.dial(t, client(0), h.serve(t, addr, echo), 0)
		h.awaitState(t, c, Established)
		writing := &h.net.stacks[0].out.writing
		writing.Lock()
		if len(stamps) != 2 || int32(stamps[1]-stamps[0]) < 500 {
			t.Errorf("%s: SYNs bear %d ms, want two, of which the second a second later", addr, stamps)
		} else if echoed != 0 && int32(echoed-stamps[1]) < 0 {
			t.Errorf("%s: what follows bears %d ms, before the SYN's %d", addr, echoed, stamps[1])
		}
		writing.Unlock()
		c.Release()
		h.awaitEmpty(t)
	}
}
