package copier

import (
	"net/netip"
	"testing"
	"time"

	"flowtwin/internal/packet"
	"flowtwin/tunnel"
)

// A mirror's two directions come through different queues: the server's ACK of bytes
// before the bytes. That is no hole, unless they do not come at all. A recording may be a
// mirror's, or two that were merged.
func TestServerElsewhereAcknowledgesFirst(t *testing.T) {
	for name, tt := range map[string]struct {
		feed    func(b *bench, c *conn)
		bytes   string
		missing uint64
	}{
		"the bytes come": {func(b *bench, c *conn) {
			data := c.data("abc")
			b.feed(c.out(packet.ACK, c.answered, 0), data)
		}, "abc", 0},
		"the bytes come bit by bit, always late": {func(b *bench, c *conn) {
			for range 5 {
				first, second := c.data("ab"), c.data("cd")
				b.feed(c.out(packet.ACK, c.answered, 0), first)
				b.wait(200 * time.Millisecond)
				b.feed(second)
				b.wait(200 * time.Millisecond)
			}
		}, "abcdabcdabcdabcdabcd", 0},
		"the FIN comes": {func(b *bench, c *conn) {
			data, fin := c.data("abc"), c.fin()
			b.feed(c.out(packet.ACK, c.answered, 0), c.serverFin(), fin, data)
		}, "abc", 0},
		"the bytes are lost": {func(b *bench, c *conn) {
			b.feed(c.data("a"))
			c.data("lost")
			b.feed(c.out(packet.ACK, c.answered, 0), c.data("b"))
			b.wait(2 * time.Second)
		}, "a", 4},
		"the bytes are lost, and nothing follows": {func(b *bench, c *conn) {
			b.feed(c.data("a"))
			c.data("lost")
			b.feed(c.out(packet.ACK, c.answered, 0))
			b.wait(2 * time.Second)
		}, "a", 4},
	} {
		for kind, place := range map[string]func(m *mapping){
			"live":     func(m *mapping) { m.refresh(nil) },
			"recorded": func(m *mapping) { m.every = true },
		} {
			t.Run(name+", "+kind, func(t *testing.T) {
				b, c := newBench(t), newConn()
				place(b.maps)
				b.feed(c.handshake()...)
				tt.feed(b, c)
				b.wantData(b.lane.sessions[0], tt.bytes)
				if got := b.book.Client.Missing; got != tt.missing {
					t.Errorf("%d bytes are missing, want %d", got, tt.missing)
				}
			})
		}
	}
}

// Which servers are elsewhere follows the host's addresses; a map without an address
// is of this host.
func TestServersElsewhere(t *testing.T) {
	here := netip.MustParseAddr("10.0.0.1")
	m := newMapping([]tunnel.Map{{Port: 80}, {Server: here, Port: 81}, {Server: netip.MustParseAddr("127.0.0.1"), Port: 82}})
	for _, tt := range []struct {
		addrs []netip.Addr
		want  [3]bool
	}{{[]netip.Addr{here}, [3]bool{}}, {nil, [3]bool{1: true}}} {
		m.refresh(tt.addrs)
		for i, want := range tt.want {
			if got := m.afar(i); got != want {
				t.Errorf("with %v: map %d is elsewhere: %t, want %t", tt.addrs, i, got, want)
			}
		}
	}
}
