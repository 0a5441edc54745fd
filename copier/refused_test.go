package copier

import (
	"testing"

	"flowtwin/internal/packet"
)

// An online server that refuses its clients leaves nothing to copy: that it did must
// be said, apart from SYNs that a scanner sends and nobody answers.
func TestServerRefuses(t *testing.T) {
	b := newBench(t)
	for i := range 3 {
		c := newConn()
		c.iss += packet.Seq(i)
		b.feed(c.syn())
		if i < 2 {
			b.feed(c.out(packet.RST|packet.ACK, -1, 0))
		} else {
			b.feed(c.in(packet.RST, 0, "")) // the client takes it back itself
		}
	}
	if got, want := b.book.Headline(), "nothing to copy yet: the online server refused 2 handshakes, 1 handshake without an answer, or not completed"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
