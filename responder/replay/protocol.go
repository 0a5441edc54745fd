package replay

import (
	"bytes"

	"flowtwin/tunnel/frame"
)

// What a client says tells whether its connection can be replaced by another one,
// and whether it is one of turns.
//
// Where both sides have agreed on something that the rest depends on there is no
// other connection: after a greeting most servers want a login, TLS has keys, HTTP/2
// has settings and compressed headers. So it is where a client begins with a login of
// its own, or chooses a database: the rest would be refused, or go to another one.
//
// Where both sides speak when they like, nothing waits for an answer: HTTP/2, what
// a connection is upgraded to, and what shows itself by turns that are never
// answered. Two things wait all the same. The client's end does, since servers give
// up what they do for a client that is gone. And in HTTP/2 a PING does: clients
// measure by them each time that data comes, and servers that have sent none since
// the one before take them for an attack and close (ENHANCE_YOUR_CALM). So does what
// a client says first after the server's settings, which would be acknowledged
// before they came.

const (
	// preface is what a client of HTTP/2 begins with (RFC 9113, 3.4).
	preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	// frameHead is the length of a frame's header there, the types and flagAck are of it.
	frameHead = 9
	typeData  = 0
	typePing  = 6
	flagAck   = 1
	// maxHead is how far into a request an Upgrade field is looked for.
	maxHead = 4 << 10
	// lateTurns that left by max-hold, one after the other, show that there are none.
	lateTurns = 3
	// answeredTurns that did not, behind the first one, show that there are.
	answeredTurns = 3
)

// GateNews is what a session tells of its gate, each once.
type GateNews uint8

// News of a gate.
const (
	GateWorks    GateNews = iota // it has had some turns
	GateLate                     // off: the target does not answer in turns
	GateHTTP2                    // off, but for pings
	GateUpgraded                 // off: the connection speaks another protocol now
	GateAnswers                  // it works: the target has answered some of its turns in time
	NumGateNews  = int(GateAnswers) + 1
)

// A sniffer looks at what a client says.
type sniffer struct {
	matched int8 // bytes of preface; -1: it was none
	http2   bool
	tls     bool
	upgrade bool // the turn under way asks for another protocol

	have  uint8 // bytes of head
	head  [frameHead]byte
	left  int    // bytes of the HTTP/2 frame under way
	datas uint32 // DATA frames since the last PING
	fed   uint32 // those between the last PING and the one before
}

// look takes a client's next bytes. It reports whether a PING begins among them.
func (f *sniffer) look(p []byte) (ping bool) {
	if f.http2 {
		return f.pings(p)
	}
	if f.matched < 0 {
		return false
	}
	if f.matched == 0 && len(p) > 1 && p[0] == 0x16 && p[1] == 3 { // a handshake record, of any version
		f.tls, f.matched = true, -1
		return false
	}
	left := preface[f.matched:]
	n := min(len(p), len(left))
	if string(p[:n]) != left[:n] {
		f.matched = -1
		return false
	}
	f.matched += int8(n)
	f.http2 = int(f.matched) == len(preface)
	return f.http2 && f.pings(p[n:])
}

// pings follows the frames of HTTP/2 and reports whether a PING begins in p.
func (f *sniffer) pings(p []byte) (ping bool) {
	for len(p) > 0 {
		if f.left > 0 {
			n := min(f.left, len(p))
			f.left -= n
			p = p[n:]
			continue
		}
		n := copy(f.head[f.have:], p)
		f.have += uint8(n)
		p = p[n:]
		if f.have == frameHead {
			f.have = 0
			f.left = int(f.head[0])<<16 | int(f.head[1])<<8 | int(f.head[2])
			switch {
			case f.head[3] == typeData:
				f.datas++
			case f.head[3] == typePing && f.head[4]&flagAck == 0:
				if !ping {
					f.fed, f.datas = f.datas, 0
				}
				ping = true
			}
		}
	}
	return ping
}

// turn looks at the beginning of a turn. It reports whether the turn before it has
// led to another protocol: it asked for one, and this is not HTTP/1 any more.
func (f *sniffer) turn(p []byte) (upgraded bool) {
	if f.upgrade && !isRequest(p) {
		f.upgrade = false
		if f.matched = -1; bytes.HasPrefix(p, []byte("PRI ")) {
			f.matched = 0
		}
		return true
	}
	f.upgrade = asksUpgrade(p)
	return false
}

// isRequest reports whether p may be the beginning of an HTTP/1 request: a method
// in capitals and a space. HTTP/2's preface is meant to look like one.
func isRequest(p []byte) bool {
	n := bytes.IndexByte(p[:min(len(p), 20)], ' ')
	for _, b := range p[:max(n, 0)] {
		if b < 'A' || b > 'Z' {
			return false
		}
	}
	return n > 0 && !bytes.HasPrefix(p, []byte("PRI "))
}

// asksUpgrade reports whether p is the head of a request with an Upgrade field.
func asksUpgrade(p []byte) bool {
	if !isRequest(p) {
		return false
	}
	i := bytes.Index(p[:min(len(p), maxHead)], []byte("pgrade:"))
	return i > 1 && (p[i-1] == 'U' || p[i-1] == 'u') && p[i-2] == '\n'
}

// learn looks at d, which is being noted; begins says that it begins a turn.
func (s *Session) learn(d *frame.Data, begins bool) {
	f := &s.sniffer
	was := f.http2
	s.bound = s.bound || s.received == 0 && logsIn(d.Payload)
	ping := f.look(d.Payload)
	if begins && !f.http2 && !f.tls && f.matched < 0 && (!s.free || s.unheard.is) && f.turn(d.Payload) {
		s.bound = true
		ping = f.look(d.Payload)
		if !f.http2 {
			s.frees = GateUpgraded
			s.turns.at(s.turns.len() - 1).last = true // it waits for the answer to the upgrade
		}
	}
	switch {
	case f.tls:
		s.bound = true
	case f.http2 && !was:
		s.bound, s.frees = true, GateHTTP2
	case ping:
		if !begins || s.turns.at(s.turns.len()-1).kind == turnPace {
			s.turns.push(turn{start: s.received, seen: d.Seen})
		}
		t := s.turns.at(s.turns.len() - 1)
		t.kind, t.datas = turnPing, f.fed
	}
}

// fed reports whether the target has sent data since the last ping left, so that it
// will not mind the one that t begins with. Only lengths are known of what it sent:
// beyond pingOdds, and dataOdds for each frame with data that it was sent, it was not
// only an acknowledgement, window updates, and pings of its own. Where packets are under
// way for long, it may have sent them before the last ping came.
func (s *Session) fed(t *turn) bool {
	const pingOdds, dataOdds = 17 + 17, 13 + 13
	return s.free && s.gate.slack == 0 && s.gate.absorbed-s.pinged > pingOdds+dataOdds*uint64(t.datas)
}

// logsIn reports whether p, with which a client begins, says who it is, or what the
// rest of the connection is about: PostgreSQL, AMQP, MQTT, LDAP, Redis; or begins SSH, whose
// client does not wait for the greeting.
func logsIn(p []byte) bool {
	switch {
	case len(p) < 8:
		return false
	case string(p[4:8]) == "\x00\x03\x00\x00", string(p[4:8]) == "\x04\xd2\x16\x2f": // startup, or the question for TLS
		return p[0] == 0 && p[1] == 0
	case p[0] == 0x10: // CONNECT
		head := p[:min(len(p), 16)]
		return bytes.Contains(head, []byte("\x00\x04MQTT")) || bytes.Contains(head, []byte("\x00\x06MQIsdp"))
	case p[0] == 0x30:
		return isBind(p)
	case p[0] == '*':
		p = p[:min(len(p), maxHead)]
		for _, command := range [...]string{"AUTH", "auth", "SELECT", "select"} {
			if bytes.Contains(p, []byte("\r\n"+command+"\r\n")) {
				return true
			}
		}
		return false
	}
	return string(p[:4]) == "AMQP" || string(p[:4]) == "SSH-"
}

// isBind reports whether p, of 8 bytes or more, begins with LDAP's BindRequest
// (RFC 4511, 4.2): a sequence, with a number first.
func isBind(p []byte) bool {
	const integer, bind, long = 0x02, 0x60, 0x80
	at := 2
	if p[1] >= long {
		at += int(p[1] - long)
	}
	if at+1 >= len(p) || p[at] != integer {
		return false
	}
	at += 2 + int(p[at+1])
	return at < len(p) && p[at] == bind
}

// setFree turns the gate off.
func (s *Session) setFree(why GateNews) {
	s.unheard.is = why == GateLate
	if s.free || s.gate.off {
		return
	}
	s.free, s.frees = true, GateWorks
	if why != GateLate || s.unheard.times == 0 {
		s.shard.listener.Gate(s, why)
	}
}

// Ungate starts the session with its gate off. It is called after Start.
func (s *Session) Ungate() { s.free, s.unheard.is = true, true }

// timed counts the turns that left by max-hold, one after the other. One does not
// count where the target has not even got what was written before it: it is away,
// which says nothing of its protocol.
func (s *Session) timed(v verdict, seen uint64) {
	if s.free {
		s.regate(seen)
		return
	}
	if s.turnCount == lateTurns {
		s.shard.listener.Gate(s, GateWorks)
	}
	if v != overdue {
		s.late = 0
		if s.turnCount-s.heldMax == 1+answeredTurns {
			s.shard.listener.Gate(s, GateAnswers)
		}
		return
	}
	if s.reap(); s.acked < s.written {
		return
	}
	if s.late++; s.late == lateTurns {
		s.setFree(GateLate)
	}
}
