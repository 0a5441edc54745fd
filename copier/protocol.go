package copier

import (
	"bytes"

	"flowtwin/internal/http1"
)

// A protocol is what a client speaks, as far as it matters for where a session may
// begin in the middle of its connection. The first bytes tell.
type protocol uint8

const (
	protoNew    protocol = iota // nothing has come yet
	protoOther                  // not known: its connections may have any state
	protoHTTP1                  // each request stands for itself
	protoHTTP2                  // headers refer to all that came before (RFC 7541)
	protoRedis                  // commands stand for themselves, but for those that set up
	protoSealed                 // TLS, SSH: nobody can begin in the middle
)

// preface begins each HTTP/2 connection (RFC 9113, 3.4).
const preface = "PRI * HTTP/2.0\r\n"

// recognise tells the protocol by the first bytes of a client.
func recognise(b []byte) protocol {
	switch {
	case isRequest(b):
		return protoHTTP1
	case bytes.HasPrefix(b, []byte(preface)):
		return protoHTTP2
	case isCommand(b):
		return protoRedis
	}
	return protoOther
}

// isRequest reports whether b begins with the line of an HTTP/1 request, or with
// more of one than its method.
func isRequest(b []byte) bool {
	yes, sure := http1.IsRequest(b)
	return yes && (sure || bytes.IndexByte(b, ' ') > 0)
}

// isCommand reports whether b begins with a command of redis, an array.
func isCommand(b []byte) bool {
	n, rest := respNumber(b, '*')
	if n < 1 {
		return false
	}
	n, _ = respNumber(rest, '$')
	return n >= 0
}

// begins reports whether b may be the beginning of something that a server of p
// understands by itself.
func (p protocol) begins(b []byte) bool {
	switch p {
	case protoHTTP1:
		return http1.Resumes(b)
	case protoRedis:
		return isCommand(b)
	case protoOther:
		return true
	default:
		return false
	}
}

// setup returns how many bytes at the beginning of b, with which a client goes on
// setting its connection up, belong to that. Where it is not known what does, all.
func (p protocol) setup(b []byte) int {
	switch p {
	case protoHTTP1, protoSealed:
		return 0
	case protoRedis:
		n := 0
		for {
			k := redisSetup(b[n:])
			if k == 0 {
				return n
			}
			n += k
		}
	default:
		return len(b)
	}
}

// redisSetup returns the length of the command that b begins with if it sets the
// connection up, or else 0.
func redisSetup(b []byte) int {
	args, rest := respNumber(b, '*')
	if args < 1 {
		return 0
	}
	for i := range args {
		n, arg := respNumber(rest, '$')
		if n < 0 || len(arg) < n+2 {
			return 0
		}
		if i == 0 && !setsUp(arg[:n]) {
			return 0
		}
		rest = arg[n+2:]
	}
	return len(b) - len(rest)
}

// setsUp reports whether a command of redis concerns the connection, and changes no
// data.
func setsUp(name []byte) bool {
	for _, c := range [...]string{"AUTH", "HELLO", "SELECT", "CLIENT", "READONLY", "ASKING", "PING"} {
		if len(name) == len(c) && equalFold(name, c) {
			return true
		}
	}
	return false
}

// setsUpHTTP2 reports whether b, the first bytes of an HTTP/2 client, asks for nothing
// yet (RFC 9113, 6): settings, windows, priorities and pings.
func setsUpHTTP2(b []byte) bool {
	const whole, header = len(preface) + len("\r\nSM\r\n\r\n"), 9
	for b = b[min(whole, len(b)):]; len(b) > 3; {
		switch b[3] {
		case 2, 4, 6, 8:
		default:
			return false
		}
		b = b[min(header+int(b[0])<<16+int(b[1])<<8+int(b[2]), len(b)):]
	}
	return true
}

// isStartup reports whether b begins with the first message of a PostgreSQL client,
// version 3: its server does not greet.
func isStartup(b []byte) bool {
	return len(b) >= 8 && b[0] == 0 && b[1] == 0 && string(b[4:8]) == "\x00\x03\x00\x00"
}

// equalFold compares ASCII letters without their case; of one length.
func equalFold(b []byte, upper string) bool {
	for i, c := range b {
		if c&^0x20 != upper[i] {
			return false
		}
	}
	return true
}

// respNumber reads a number behind kind, up to the end of the line. It is -1 when
// there is none, or too large to matter here.
func respNumber(b []byte, kind byte) (n int, rest []byte) {
	if len(b) == 0 || b[0] != kind {
		return -1, nil
	}
	for i, c := range b[1:] {
		switch {
		case '0' <= c && c <= '9' && i < 7:
			n = n*10 + int(c-'0')
		case c == '\r' && i > 0 && len(b) > i+2 && b[i+2] == '\n':
			return n, b[i+3:]
		default:
			return -1, nil
		}
	}
	return -1, nil
}
