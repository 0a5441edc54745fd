package copier

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"flowtwin/copier/capture"
	"flowtwin/internal/packet"
)

// steady is a ring that hands out the same block again and again, each time with
// other initial sequence numbers: as new connections on the same tuples.
type steady struct {
	*fakeRing
	all []capture.Packet
	at  int
}

func (r *steady) Next(time.Duration) (bool, error) {
	r.at = 0
	for i := range r.all {
		field := r.all[i].Data[24:28] // sequence number, of clients
		if !r.all[i].ToServer {
			field = r.all[i].Data[28:32] // acknowledgement number
		}
		binary.BigEndian.PutUint32(field, binary.BigEndian.Uint32(field)+1<<26)
	}
	return true, nil
}

func (r *steady) Packet(p *capture.Packet) bool {
	if r.at == len(r.all) {
		return false
	}
	*p = r.all[r.at]
	r.at++
	return true
}

// busy returns a shard and a ring with n whole connections: handshake, requests
// and answers, both FINs.
func busy(n, requests, size int) (*shard, *steady) {
	ring := &steady{fakeRing: newFakeRing()}
	payload := string(make([]byte, size))
	for i := range n {
		c := newConn()
		c.client = netip.AddrPortFrom(c.client.Addr(), uint16(1000+i))
		ring.all = append(ring.all, c.handshake()...)
		for range requests {
			ring.all = append(ring.all, c.data(payload), c.answer(500), c.ack())
		}
		ring.all = append(ring.all, c.fin(), c.serverFin(), c.ack())
	}
	for i := range ring.all {
		ring.all[i].Checked = true // the ring changes them
	}
	l := &sink{newFakeLane(), make(map[uint32]*[2]uint64)}
	return newShard(ring, l, testMaps(), 1, func() time.Duration { return 0 }), ring
}

// pass takes one block through the shard as run does.
func pass(s *shard, p *capture.Packet) {
	if ready, _ := s.ring.Next(tick); ready {
		s.follow()
		s.advance(time.Now())
		for s.ring.Packet(p) {
			s.one(p)
		}
		s.turn()
	}
}

func TestPipelineDoesNotAllocate(t *testing.T) {
	s, _ := busy(100, 5, 300)
	var p capture.Packet
	for range 10 { // tables and the lane's buffers have their size then
		pass(s, &p)
	}
	if n := testing.AllocsPerRun(100, func() { pass(s, &p) }); n != 0 {
		t.Errorf("a block allocates %v times, want 0", n)
	}
	if wrong := s.book.Check(); len(wrong) > 0 || s.book.Client.Sent.Segments != 111*500 {
		t.Errorf("%d segments sent, want %d; %v", s.book.Client.Sent.Segments, 111*500, wrong)
	}
}

// again returns a shard and a packet of a wire's size that it knows already; its
// checksum is known to be right, or to be computed.
func again(checked bool) (*shard, capture.Packet) {
	c := newConn()
	l := &sink{newFakeLane(), make(map[uint32]*[2]uint64)}
	s := newShard(newFakeRing(), l, testMaps(), 1, func() time.Duration { return 0 })
	s.follow()
	for _, p := range append(c.handshake(), c.data("x")) {
		s.one(&p)
	}
	p := c.in(packet.ACK, 0, string(make([]byte, 1448)))
	p.Checked = checked
	s.one(&p)
	return s, p
}

func TestChecksumDoesNotAllocate(t *testing.T) {
	s, p := again(false)
	if n := testing.AllocsPerRun(100, func() { s.one(&p) }); n != 0 {
		t.Errorf("a packet allocates %v times, want 0", n)
	}
}

func BenchmarkChecked(b *testing.B) {
	for name, checked := range map[string]bool{"known": true, "computed": false} {
		b.Run(name, func(b *testing.B) {
			s, p := again(checked)
			for b.Loop() {
				s.one(&p)
			}
		})
	}
}

func BenchmarkPipeline(b *testing.B) {
	s, ring := busy(100, 30, 300)
	var p capture.Packet
	pass(s, &p)
	for b.Loop() {
		pass(s, &p)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(ring.all)), "ns/packet")
}
