package copier

import (
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"flowtwin/copier/report"
	"flowtwin/internal/packet"
)

const holeRequest = "GET / HTTP/1.1\r\n\r\n"

// A replay that is faster than the recording gives up a hole as soon, in recorded time, as
// a copier of live packets: what is behind it goes on, and a dry run says the same.
func TestHolesEndInRecordedTime(t *testing.T) {
	for name, heard := range map[string]bool{"both directions": true, "only the client's": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newConn()
				k := taken(0, c.handshake()...)
				for i := range 100 {
					at := time.Duration(i) * time.Second
					if ask := c.data(holeRequest); i != 50 {
						k = append(k, taken(at, ask)...)
					}
					k = append(k, taken(at, c.answer(5), c.ack())...)
				}
				if !heard {
					k = slices.DeleteFunc(k, func(p take) bool { return !p.ToServer })
				}
				g := newStage(t, Replay{Pace: PaceTarget}, k)
				g.start()
				g.finish()
				if n := g.s.book.Client.Sent.Segments; n != 99 {
					t.Errorf("%d requests were sent, want 99", n)
				}
			})
		})
	}
}

// A hole just before a recording's end takes nothing along that is behind it, and leaves
// no flow behind.
func TestRecordingEndsBehindAHole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refused, c := newConn(), newConn()
		refused.client = netip.AddrPortFrom(c.client.Addr(), c.client.Port()+1)
		k := taken(0, refused.syn())
		k = append(k, taken(0, c.handshake()...)...)
		k = append(k, taken(0, refused.out(packet.RST|packet.ACK, 0, 0))...) // its slot is free
		k = append(k, taken(0, c.data(holeRequest), c.answer(5), c.ack())...)
		c.data(holeRequest)
		k = append(k, taken(0, c.answer(5), c.ack(), c.data(holeRequest), c.answer(5))...)
		g := newStage(t, Replay{Pace: PaceTarget, Loops: 2}, k)
		g.start()
		g.finish()
		b := &g.s.book
		if b.Client.Sent.Segments != 4 || b.Client.Missing != 2*uint64(len(holeRequest)) || b.Flows.Ended[report.RecordingOver] != 2 {
			t.Errorf("sent %+v, %d bytes missing, ended %v", b.Client.Sent, b.Client.Missing, b.Flows.Ended)
		}
	})
}
