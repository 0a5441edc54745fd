package copier

import (
	"strings"
	"testing"
	"time"

	"flowtwin/copier/report"
	"flowtwin/internal/flow"
	"flowtwin/internal/packet"
	"flowtwin/tunnel/frame"
)

// A client begins another connection on the tuple of one that lives, whose end was
// not captured. Each row is what of the new one's beginning was.
func TestClaims(t *testing.T) {
	tests := []struct {
		name   string
		script func(b *bench, c *conn)
		want   string
	}{
		{"all of it", func(b *bench, c *conn) {
			b.feed(c.handshake()...)
			b.does(c, request(1), 10)
			b.does(c, request(2), 10)
		}, request(1) + request(2)},
		{"the SYN-ACK was missed", func(b *bench, c *conn) {
			b.feed(c.syn(), c.ack())
			b.does(c, request(1), 10)
			b.does(c, request(2), 10)
		}, request(1) + request(2)},
		{"the SYN-ACK was missed, requests in segments", func(b *bench, c *conn) {
			b.feed(c.syn(), c.ack(), c.data("POST / "))
			b.feed(c.data("HTTP/1.1\r\n\r\n"))
			b.does(c, "body", 10)
			b.does(c, request(2), 10)
		}, "POST / HTTP/1.1\r\n\r\nbody" + request(2)},
		{"data in the SYN", func(b *bench, c *conn) {
			syn := c.in(packet.SYN, 0, request(1))
			c.sent = len(request(1))
			b.feed(syn, c.synAck(), c.answer(10), c.ack())
			b.does(c, request(2), 10)
		}, request(1) + request(2)},
		{"data in the SYN, sent again", func(b *bench, c *conn) {
			syn := c.in(packet.SYN, 0, request(1))
			c.sent = len(request(1))
			b.feed(syn, syn, c.synAck(), c.answer(10), c.ack())
			b.does(c, request(2), 10)
		}, request(1) + request(2)},
		{"data in the SYN that the server did not take", func(b *bench, c *conn) {
			b.feed(c.in(packet.SYN, 0, request(1)), c.synAck())
			b.does(c, request(1), 10)
			b.does(c, request(2), 10)
		}, request(1) + request(2)},
		{"data in the SYN, and the SYN-ACK was missed", func(b *bench, c *conn) {
			syn := c.in(packet.SYN, 0, "GET")
			c.sent = 3
			b.feed(syn)
			b.does(c, request(1)[3:], 10)
			b.does(c, request(2), 10)
		}, request(1) + request(2)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b, old, c := newBench(t), newConn(), newConn()
			c.iss, c.irs = 900_000_000, 700_000_000
			b.feed(old.handshake()...)
			b.does(old, "old", 10)
			tt.script(b, c)
			if len(b.lane.sessions) != 2 {
				t.Fatalf("%d sessions", len(b.lane.sessions))
			}
			s := b.lane.sessions[1]
			b.wantData(s, tt.want)
			if got := s.seens[len(s.seens)-1]; got != 10 {
				t.Errorf("seen %v, want 10 at last", s.seens)
			}
			if f := &b.book.Flows; f.Seen != 2 || f.GivenUp[report.Replaced] != 1 || b.book.Client.Missing != 0 {
				t.Errorf("flows %+v", f)
			}
			b.feed(c.fin(), c.serverFin(), c.ack())
			if b.table.Len() != 0 || b.store.Len() != 0 {
				t.Errorf("%d flows are left, %d segments", b.table.Len(), b.store.Len())
			}
		})
	}
}

// A forged connection on a live one's tuple takes no memory for long, and nothing
// else.
func TestForgedClaimIsForgotten(t *testing.T) {
	b, c, forged := newBench(t), newConn(), newConn()
	forged.iss, forged.irs = 900_000_000, 700_000_000
	b.feed(c.handshake()...)
	b.does(c, "a", 10)
	b.feed(forged.in(packet.SYN, 0, "evil"), forged.ack())
	forged.sent = 4
	b.feed(forged.data(strings.Repeat("evil", 100)))
	b.does(c, "b", 10)
	if b.store.Bytes() != 404 {
		t.Errorf("%d bytes are stored", b.store.Bytes())
	}
	b.wait(2 * time.Minute)
	b.does(c, "c", 10)
	b.wantData(b.session(), "abc")
	b.wantDropped(report.NeverEstablished, 404)
	if b.store.Len() != 0 || b.book.Flows.Seen != 1 {
		t.Errorf("%d segments stored, flows %+v", b.store.Len(), b.book.Flows)
	}
}

// A table full of flows that are over, whose sessions a slow target holds, is not
// full for long.
func TestFullTableHurriesSessions(t *testing.T) {
	b := newBench(t)
	b.table = flow.NewTable[record](8)
	b.lane.answers = false
	for n := range 8 {
		c := caller(n)
		b.feed(c.handshake()...)
		b.does(c, "x", 5)
		b.feed(c.fin(), c.serverFin(), c.ack())
	}
	for n := range 10 {
		b.feed(caller(100 + n).handshake()...)
	}
	if f := &b.book.Flows; f.Hurried != 8 || f.Refused[report.TableFull] != 10 {
		t.Errorf("flows %+v", f)
	}
	for _, s := range b.lane.sessions {
		if got := strings.Join(s.ends, " "); got != "fin abort:overload" {
			t.Errorf("session ends %q", got)
		}
		b.lane.close(s, frame.ClosedAborted)
	}
	b.wait(time.Second)
	c := caller(50)
	b.feed(c.handshake()...)
	if b.book.Flows.Live != 1 || b.table.Len() != 1 {
		t.Errorf("flows %+v, %d in the table", b.book.Flows, b.table.Len())
	}
}
