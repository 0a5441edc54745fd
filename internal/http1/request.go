// Package http1 reads what an HTTP/1 client sends (RFC 9112).
package http1

import "bytes"

// maxMethod is the longest method that is taken for one. The registered ones have
// up to 17 characters (UPDATEREDIRECTREF).
const maxMethod = 24

// IsRequest reports whether b begins with an HTTP/1 request line: method, target
// and version, each behind one space (RFC 9112, 3). sure says that more bytes
// would not change the answer: as long as the line is not complete and may become
// one, it is (true, false). It looks at the line only and keeps nothing of b.
func IsRequest(b []byte) (yes, sure bool) {
	i := 0
	for ; ; i++ {
		switch {
		case i == len(b):
			return i <= maxMethod, false
		case b[i] == ' ' && i > 0:
		case i < maxMethod && isToken(b[i]):
			continue
		default:
			return false, true
		}
		break
	}
	target := i + 1
	for i = target; ; i++ {
		switch {
		case i == len(b):
			return true, false
		case b[i] > ' ' && b[i] != 0x7f:
			continue
		case b[i] != ' ' || i == target:
			return false, true
		}
		break
	}
	return isVersion(b[i+1:])
}

// isVersion is IsRequest for what is behind the target.
func isVersion(b []byte) (yes, sure bool) {
	const version = "HTTP/1."
	for i, c := range b {
		switch {
		case i < len(version):
			if c != version[i] {
				return false, true
			}
		case i == len(version):
			if c < '0' || c > '9' {
				return false, true
			}
		case c == '\n':
			return true, true
		case i > len(version)+1 || c != '\r':
			return false, true
		}
	}
	return true, false
}

// isToken reports whether c may be part of a method or a field's name
// (RFC 9110, 5.6.2).
func isToken(c byte) bool {
	switch c {
	case '!', '#', '$', '%', '&', '\'', '*', '+', '-', '.', '^', '_', '`', '|', '~':
		return true
	}
	return '0' <= c && c <= '9' || 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z'
}

// Resumes reports whether b, of which the bytes before are not known, begins with a
// request: what is left of a method, behind a gap, looks like a method too. So it
// has to be a usual one; none of these ends another.
func Resumes(b []byte) bool {
	if yes, _ := IsRequest(b); !yes {
		return false
	}
	method, _, ok := bytes.Cut(b, []byte(" "))
	if !ok {
		return false
	}
	switch string(method) {
	case "GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT",
		"PROPFIND", "PROPPATCH", "MKCOL", "COPY", "MOVE", "UNLOCK", "SEARCH", "REPORT":
		return true
	}
	return false
}
