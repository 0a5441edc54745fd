package recording

import (
	"flowtwin/copier/capture"
	"flowtwin/internal/pcap"
)

// Bounds of a sink: what waits for the disk is at most 16 MiB, a pause of the disk
// of a second and more.
const (
	chunkBytes = 256 << 10
	chunks     = 64
	handOver   = 64 << 10 // from here on a chunk is worth a write, while the disk keeps up
)

// A Sink takes the packets of one shard. It never waits: when all its chunks wait for
// the disk, packets are refused. Its methods are the shard's.
type Sink struct {
	cur  []byte
	free chan []byte
	full chan<- batch
}

// batch is a chunk on its way to the writer; where it goes back to when written.
type batch struct {
	data []byte
	free chan<- []byte
	done chan<- struct{} // of Sync: all before it is written
}

func newSink(full chan<- batch) *Sink {
	s := &Sink{free: make(chan []byte, chunks), full: full}
	for range chunks {
		s.free <- nil // memory only when it is used
	}
	return s
}

// Add copies a packet, or reports false when there is no room.
func (s *Sink) Add(p *capture.Packet) bool {
	n := pcap.EnhancedLen(len(p.Data))
	if s.cur != nil && len(s.cur)+n > cap(s.cur) {
		s.Flush()
	}
	if s.cur == nil {
		select {
		case s.cur = <-s.free:
		default:
			return false
		}
		if cap(s.cur) < max(n, chunkBytes) {
			s.cur = make([]byte, 0, max(n, chunkBytes))
		}
		s.cur = s.cur[:0]
	}
	s.cur = pcap.AppendEnhanced(s.cur, uint32(p.Iface), p.Time, p.Data, p.WireLen)
	if len(s.cur) >= handOver && len(s.free) > chunks/2 {
		s.Flush()
	}
	return true
}

// Flush hands over what was added. It is called about every tick, and at the end.
func (s *Sink) Flush() {
	if len(s.cur) == 0 {
		return
	}
	s.full <- batch{data: s.cur, free: s.free} // there is room for all chunks of all sinks
	s.cur = nil
}
