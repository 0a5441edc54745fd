package copier

import (
	"math/rand/v2"

	"flowtwin/copier/capture"
	"flowtwin/copier/report"
	"flowtwin/internal/packet"
)

// lossy is a source that throws some of its packets away, as if they had not been
// captured, and counts them: what a test must find in the ledger again. Only
// packets of TCP are lost, a share of all in both directions.
type lossy struct {
	source
	share float64
	rng   *rand.Rand
	view  packet.View
	book  *report.Ledger
}

// loses makes s lose a share of its packets.
func (s *shard) loses(share float64, seed uint64) {
	s.ring = &lossy{source: s.ring, share: share, rng: rand.New(rand.NewPCG(seed, 0)), book: &s.book}
}

// Packet is the source's, less what is lost.
func (l *lossy) Packet(p *capture.Packet) bool {
	for l.source.Packet(p) {
		if l.rng.Float64() >= l.share || l.view.Parse(p.Data, p.WireLen) != packet.OK {
			return true
		}
		l.book.Packets.Captured++
		l.book.Packets.Injected++
		if p.ToServer && l.view.PayloadLen > 0 {
			l.book.Client.Injected.Add(l.view.PayloadLen)
		}
	}
	return false
}
