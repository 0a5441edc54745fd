package copier

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"testing"

	"flowtwin/copier/capture"
	"flowtwin/internal/flow"
	"flowtwin/internal/packet"
	"flowtwin/tunnel/frame"
)

// world makes random captures and remembers what clients really sent.
type world struct {
	*rand.Rand
	streams map[flow.Key][]byte
	turns   map[flow.Key][]int // where turns begin in the streams, but the first
	ports   uint32             // that connections share; 0: each has its own
	serial  uint32
	late    int // sessions that had a prologue and left turns out
}

// life makes the packets of one connection in the order in which they happen: a
// handshake (or not), data, answers and an end.
func (w *world) life() []capture.Packet {
	w.serial++
	c := newConn()
	port := w.serial
	if w.ports > 0 {
		port = 1 + w.Uint32N(w.ports)
	}
	c.client = netip.AddrPortFrom(clientAddr.Addr(), uint16(port))
	c.iss, c.irs = packet.Seq(w.Uint32()), packet.Seq(w.Uint32())
	var out []capture.Packet
	if w.IntN(20) > 0 {
		out = append(out, c.syn())
	}
	if w.IntN(20) > 0 {
		out = append(out, c.synAck())
	}
	if w.IntN(20) > 0 {
		out = append(out, c.ack())
	}
	var stream []byte
	var turns []int
	for range w.IntN(30) {
		switch w.IntN(3) {
		case 0:
			out = append(out, c.answer(1+w.IntN(2000)), c.ack())
			turns = append(turns, len(stream))
		default:
			piece := fmt.Appendf(nil, "%d/%d;", w.serial, len(stream))
			piece = append(piece, bytes.Repeat([]byte{'.'}, w.IntN(50))...)
			stream = append(stream, piece...)
			out = append(out, c.data(string(piece)))
			if n := w.IntN(len(piece)); w.IntN(10) == 0 && n > 0 { // sent again, cut otherwise
				from := max(0, len(stream)-len(piece)-w.IntN(100))
				out = append(out, c.in(packet.ACK, from, string(stream[from:len(stream)-n])))
			}
			if w.IntN(2) == 0 {
				out = append(out, c.out(packet.ACK, c.answered, 0))
			}
		}
	}
	w.streams[c.key()], w.turns[c.key()] = stream, turns
	switch w.IntN(6) {
	case 0:
		out = append(out, c.in(packet.RST|packet.ACK, c.sent, ""))
	case 1:
		out = append(out, c.out(packet.RST|packet.ACK, c.answered, 0))
	case 2:
		out = append(out, c.serverFin(), c.ack(), c.fin(), c.out(packet.ACK, c.answered, 0))
	case 3: // nobody sees it end
	default:
		out = append(out, c.fin(), c.serverFin(), c.ack())
	}
	return out
}

// key names the connection.
func (c *conn) key() flow.Key {
	return flow.Key{
		Tuple: flow.Tuple{Client: packet.AddrFrom(c.client.Addr()), Server: packet.AddrFrom(c.server.Addr()), ClientPort: c.client.Port(), ServerPort: 80},
		ISS:   c.iss,
	}
}

// sent reports whether a client of the session's tuple sent its bytes: from the
// beginning, or from that of a turn where the session was adopted. Between a
// prologue, of some turns, and where it goes on, turns may be left out.
func (w *world) sent(s *fakeSession) bool {
	sharing := 0
	for key := range w.streams {
		if key.Tuple == s.open.Key.Tuple {
			sharing++
		}
	}
	if stream, ok := w.streams[s.open.Key]; ok {
		if bytes.HasPrefix(stream, s.data) {
			return true
		}
		for _, end := range w.turns[s.open.Key] {
			if end > len(s.data) || end > prologueMost || !bytes.HasPrefix(stream, s.data[:end]) {
				continue
			}
			for _, at := range w.turns[s.open.Key] {
				if at > end && bytes.HasPrefix(stream[at:], s.data[end:]) {
					w.late++
					return true
				}
			}
		}
		same := 0
		for same < len(stream) && same < len(s.data) && stream[same] == s.data[same] {
			same++
		}
		return sharing > 1 && bytes.Contains(stream[same:], s.data[same:])
	}
	for key, stream := range w.streams {
		at := s.open.Key.ISS.Diff(key.ISS)
		if key.Tuple == s.open.Key.Tuple && slices.Contains(w.turns[key], at) && bytes.HasPrefix(stream[at:], s.data) {
			return true
		}
		// Where packets of several connections on a tuple are mixed, as only tests do,
		// answers to one seem to be to another.
		if key.Tuple == s.open.Key.Tuple && sharing > 1 && bytes.Contains(stream, s.data) {
			return true
		}
	}
	return false
}

// once tells of what a client sent once and more than one of its sessions got, but for
// what it said first to a server that had greeted it.
func (w *world) once(t *testing.T, sessions []*fakeSession) {
	t.Helper()
	login := make(map[uint16]int) // how long that is
	for key, turns := range w.turns {
		if len(turns) > 0 && turns[0] == 0 {
			login[key.ClientPort] = len(w.streams[key])
			if i := slices.IndexFunc(turns, func(at int) bool { return at > 0 }); i >= 0 {
				login[key.ClientPort] = turns[i]
			}
		}
	}
	seen := make(map[string]int)
	for i, s := range sessions {
		for _, piece := range pieces.FindAllSubmatch(s.data, -1) {
			name := string(piece[0])
			before, twice := seen[name]
			at, _ := strconv.Atoi(string(piece[1]))
			if twice && before != i && at >= login[s.open.Key.ClientPort] {
				t.Errorf("%s was given to two sessions of port %d", name, s.open.Key.ClientPort)
			}
			seen[name] = i
		}
	}
}

// pieces are what clients of a world send.
var pieces = regexp.MustCompile(`\b\d+/(\d+);`)

// disturb loses, repeats, swaps and cuts packets, as networks and captures do.
func (w *world) disturb(in []capture.Packet, loss int) []capture.Packet {
	var out []capture.Packet
	for _, p := range in {
		if w.IntN(1000) < loss {
			continue
		}
		out = append(out, p)
		switch w.IntN(50) {
		case 0:
			out = append(out, p)
		case 1:
			p.Iface = 9
			out = append(out, p)
		}
		if n := len(out); n > 1 && w.IntN(20) == 0 {
			out[n-1], out[n-2] = out[n-2], out[n-1]
		}
		if w.IntN(300) == 0 {
			p := &out[len(out)-1]
			p.Data = p.Data[:w.IntN(len(p.Data)+1)]
		}
	}
	return out
}

// mix interleaves connections, each in its own order.
func (w *world) mix(lives [][]capture.Packet) []capture.Packet {
	var out []capture.Packet
	for len(lives) > 0 {
		i := w.IntN(len(lives))
		n := min(1+w.IntN(3), len(lives[i]))
		out = append(out, lives[i][:n]...)
		if lives[i] = lives[i][n:]; len(lives[i]) == 0 {
			lives[i] = lives[len(lives)-1]
			lives = lives[:len(lives)-1]
		}
	}
	return out
}

// responder does what the other side and the network between may do.
func (w *world) responder(l *fakeLane) {
	switch w.IntN(200) {
	case 0:
		l.crash()
	case 1:
		l.up = !l.up
		if !l.up {
			l.crash()
		}
	case 2:
		l.full = !l.full
	case 3:
		l.jam = !l.jam
	case 4:
		l.room = w.IntN(1000)
	case 5:
		l.answers = !l.answers
	case 6, 7, 8:
		if n := len(l.sessions); n > 0 {
			l.closePartly(l.sessions[w.IntN(n)], w)
		}
	}
}

// closePartly ends a session early, with an account of part of what it got.
func (l *fakeLane) closePartly(s *fakeSession, w *world) {
	if s.closed {
		return
	}
	s.closed = true
	delivered := w.Uint64N(s.segments + 1)
	dropped := w.Uint64N(s.segments - delivered + 1)
	bytes := w.Uint64N(uint64(len(s.data)) + 1)
	l.returns = frame.AppendClosed(l.returns, s.flow, &frame.Closed{
		How: frame.CloseHow(w.IntN(14)), DeliveredSegments: delivered, DroppedSegments: dropped,
		DeliveredBytes: bytes, DroppedBytes: w.Uint64N(uint64(len(s.data)) - bytes + 1),
	})
}

// forge makes a packet on c's tuple by somebody who does not see its packets.
func (w *world) forge(c *conn) capture.Packet {
	far := windowSlack + 1<<20 + w.IntN(1<<30)
	if w.IntN(2) == 0 {
		far = -1 - w.IntN(1<<30) - 10_000
	}
	f := *c
	switch w.IntN(5) {
	case 0:
		f.iss = packet.Seq(w.Uint32())
		return f.in(packet.SYN, 0, "evil")
	case 1:
		return f.in(packet.RST, far, "")
	case 2:
		return f.in(packet.FIN|packet.ACK, far, "evil")
	case 3:
		return f.in(packet.ACK, far, "evil")
	default:
		p := f.in(packet.ACK|packet.FIN, c.sent, "evil")
		p.Data[len(p.Data)-1] ^= 1 // corrupted
		return p
	}
}
