package replay

import (
	"testing"

	"flowtwin/tunnel/frame"
)

// BenchmarkTurn is a keep-alive request with its answer: what a session costs
// beside TCP.
func BenchmarkTurn(b *testing.B) {
	r := connected(&testing.T{}, Config{})
	r.log.wrote = make([]int64, 0, 1<<10)
	d := &frame.Data{Payload: make([]byte, 300)}
	for b.Loop() {
		r.s.Data(d, r.now)
		d.Seen += 600
		r.conn.answers, r.conn.room = 600, 1<<20
		r.conn.acked = r.s.written
		r.conn.got, r.log.wrote = r.conn.got[:0], r.log.wrote[:0]
		r.s.News(r.now)
	}
	if r.s.State() != "Sending" {
		b.Errorf("the session is %s", r.s.State())
	}
}
