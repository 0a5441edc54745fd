package copier

import (
	"flowtwin/copier/report"
	"flowtwin/internal/packet"
)

// stranger handles a client's packet of no flow in the table.
func (s *shard) stranger(v *packet.View) {
	e := s.known.find(&s.tuple)
	switch {
	case e != nil && e.was(v.Seq.Add(v.PayloadLen)):
		s.book.Packets.Late++
		if v.PayloadLen > 0 {
			s.book.Client.Captured.Add(v.PayloadLen)
			s.book.Client.Retransmitted.Add(v.PayloadLen)
		}
	case e != nil && e.drop == report.None && v.PayloadLen == 0:
		s.book.Packets.Late++
	case e != nil && e.drop != report.None && e.drop != report.MapRemoved: // the map may be there again
		s.refused(e.drop, v.PayloadLen)
	default:
		at, ok := s.maps.find(s.tuple.Server, s.tuple.ServerPort)
		switch {
		case !ok:
			s.book.Packets.Unmapped++
		case v.PayloadLen == 0:
			s.book.Packets.NoFlow++
		default:
			s.meetClient(at, v)
		}
	}
}

// refused counts a client's packet of a refused flow.
func (s *shard) refused(why report.Reason, n int) {
	s.book.Packets.Refused++
	if n > 0 {
		s.book.Client.Captured.Add(n)
		s.drop(why, n)
	}
}

// strangeAnswer handles a server's packet of no flow in the table.
func (s *shard) strangeAnswer(v *packet.View) {
	e := s.known.find(&s.tuple)
	switch {
	case e == nil || e.drop == report.MapRemoved:
		at, ok := s.maps.find(s.tuple.Server, s.tuple.ServerPort)
		switch {
		case !ok:
			s.book.Packets.Unmapped++
		case s.skip || s.stopped(s.at) || v.PayloadLen == 0 || v.Flags&(packet.SYN|packet.FIN|packet.RST|packet.ACK) != packet.ACK:
			s.book.Packets.NoFlow++
		case !s.meetServer(at, v):
			s.book.Packets.Refused++
		}
	case e.drop == report.None:
		s.book.Packets.Late++
	default:
		s.book.Packets.Refused++
	}
}
