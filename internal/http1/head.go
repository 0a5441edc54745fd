package http1

import "bytes"

// MaxHead is the longest head of a request: empty lines before it, request line,
// fields and the empty line behind them. A longer one is taken for no HTTP.
const MaxHead = 64 << 10

// A Request is the head of one request. Its slices alias the bytes that it was
// read from, and are valid as long as those.
type Request struct {
	Method []byte
	Target []byte // as sent
	Path   []byte // of the target, without the query
	Host   []byte // of the target or else of the field, without the port; empty: none

	head      []byte
	target    int // where the target begins in head
	authority int // how long the target's scheme and authority are, 0: it has none
	fields    int // where the fields begin in head

	length  uint64
	chunked bool
	old     bool // HTTP/1.0
	hosts   int
	lengths int
	codings int

	// Expects says that the client waits for an interim answer before the body.
	Expects bool
	upgrade bool
	connect bool
}

// headEnd returns the length of the head that b begins with, or 0 when b does not
// hold all of it. Up to from nothing was found before.
func headEnd(b []byte, from int) int {
	i := max(blankLines(b), from-2)
	for {
		n := bytes.IndexByte(b[i:], '\n')
		if n < 0 {
			return 0
		}
		i += n + 1
		switch {
		case i < len(b) && b[i] == '\n':
			return i + 1
		case i+1 < len(b) && b[i] == '\r' && b[i+1] == '\n':
			return i + 2
		}
	}
}

// blankLines returns how many bytes of empty lines b begins with, which servers
// skip before a request (RFC 9112, 2.2).
func blankLines(b []byte) int {
	n := 0
	for n < len(b) && (b[n] == '\r' || b[n] == '\n') {
		n++
	}
	return n
}

// parse reads a head, as headEnd found it. It reports false when the head is not
// one that every server reads in the same way.
func (r *Request) parse(head []byte) bool {
	*r = Request{head: head}
	start := blankLines(head)
	line := head[start:]
	if yes, sure := IsRequest(line); !yes || !sure {
		return false
	}
	method := bytes.IndexByte(line, ' ')
	r.Method = line[:method:method]
	r.target = start + method + 1
	size := bytes.IndexByte(head[r.target:], ' ')
	r.Target = head[r.target : r.target+size : r.target+size]
	r.old = head[r.target+size+len(" HTTP/1.")] == '0'
	r.fields = r.target + bytes.IndexByte(head[r.target:], '\n') + 1
	return r.readTarget() && r.readFields() && r.framed()
}

// readTarget tells the forms of a target apart (RFC 9112, 3.2).
func (r *Request) readTarget() bool {
	t := r.Target
	r.connect = string(r.Method) == "CONNECT"
	switch {
	case r.connect:
		r.Host = withoutPort(t)
		return t[0] != '/'
	case t[0] == '/', len(t) == 1 && t[0] == '*':
	default:
		scheme := bytes.Index(t, []byte("://"))
		if scheme <= 0 || bytes.IndexByte(t[:scheme], '/') >= 0 {
			return false
		}
		r.authority = scheme + len("://")
		if n := bytes.IndexAny(t[r.authority:], "/?#"); n >= 0 {
			r.Host = t[r.authority : r.authority+n]
		} else {
			r.Host = t[r.authority:]
		}
		r.authority += len(r.Host)
		if at := bytes.LastIndexByte(r.Host, '@'); at >= 0 {
			r.Host = r.Host[at+1:]
		}
		r.Host = withoutPort(r.Host)
		t = t[r.authority:]
	}
	if n := bytes.IndexAny(t, "?#"); n >= 0 {
		t = t[:n]
	}
	r.Path = t
	return true
}

// withoutPort returns the host of host[:port], without the dot of a full name.
func withoutPort(b []byte) []byte {
	colon := bytes.LastIndexByte(b, ':')
	if colon >= 0 && bytes.IndexByte(b[colon:], ']') < 0 {
		b = b[:colon]
	}
	return bytes.TrimSuffix(b, []byte("."))
}

// A field is a header field. raw is all of it, with the ends of its lines.
type field struct {
	name, value, raw []byte
	folded           bool // over several lines (RFC 9112, 5.2)
}

// nextField cuts the first field from b, which ends with an empty line; more is
// false there. ok is false when it is not a field that every server reads in the
// same way: a space before the colon, say, or a bare CR.
func nextField(b []byte) (f field, rest []byte, more, ok bool) {
	if b[0] == '\n' || b[0] == '\r' {
		return f, b, false, b[0] == '\n' || b[1] == '\n'
	}
	i := 0
	for i < len(b) && isToken(b[i]) {
		i++
	}
	if i == 0 || b[i] != ':' {
		return f, b, true, false
	}
	end := i + 1
	for {
		n := bytes.IndexByte(b[end:], '\n') + 1
		line := bytes.TrimSuffix(b[end:end+n-1], []byte("\r"))
		if bytes.IndexByte(line, '\r') >= 0 || bytes.IndexByte(line, 0) >= 0 {
			return f, b, true, false
		}
		end += n
		if b[end] != ' ' && b[end] != '\t' {
			break
		}
		f.folded = true
	}
	f.name, f.value, f.raw = b[:i:i], bytes.Trim(b[i+1:end], " \t\r\n"), b[:end:end]
	return f, b[end:], true, true
}

// readFields looks for what frames the request and whom it is for.
func (r *Request) readFields() bool {
	rest := r.head[r.fields:]
	for {
		f, next, more, ok := nextField(rest)
		if !more || !ok {
			return ok
		}
		if !r.note(&f) {
			return false
		}
		rest = next
	}
}

// note reports false when the field makes the framing doubtful.
func (r *Request) note(f *field) bool {
	switch {
	case isName(f.name, "host"):
		r.hosts++
		if r.authority == 0 && !r.connect {
			r.Host = withoutPort(f.value)
		}
	case isName(f.name, "content-length"):
		r.lengths++
		var ok bool
		r.length, ok = decimal(f.value)
		return ok && !f.folded
	case isName(f.name, "transfer-encoding"):
		r.codings++
		r.chunked = endsChunked(f.value)
		return r.chunked && !f.folded
	case isName(f.name, "expect"):
		r.Expects = isName(f.value, "100-continue")
	case isName(f.name, "upgrade"):
		r.upgrade = true
	}
	return r.hosts == 0 || !f.folded || !isName(f.name, "host")
}

// framed reports whether it is beyond doubt where the request ends: those that are
// not are what request smuggling is made of (RFC 9112, 6.1 and 11.2).
func (r *Request) framed() bool {
	if r.hosts > 1 || r.lengths > 1 || r.codings > 1 || r.lengths+r.codings > 1 {
		return false
	}
	return !r.chunked || !r.old
}

// isName reports whether b is the name, which is given in lower case.
func isName(b []byte, name string) bool {
	if len(b) != len(name) {
		return false
	}
	for i, c := range b {
		if lower(c) != name[i] {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		c += 'a' - 'A'
	}
	return c
}

// decimal reads a Content-Length. More than 18 digits are none.
func decimal(b []byte) (n uint64, ok bool) {
	if len(b) == 0 || len(b) > 18 {
		return 0, false
	}
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = 10*n + uint64(c-'0')
	}
	return n, true
}

// endsChunked reports whether chunked is the last of a list of codings, and in it
// once.
func endsChunked(b []byte) bool {
	for {
		comma := bytes.IndexByte(b, ',')
		if comma < 0 {
			return isName(bytes.TrimLeft(b, " \t"), "chunked")
		}
		coding := bytes.Trim(b[:comma], " \t")
		if len(coding) == 0 || isName(coding, "chunked") {
			return false
		}
		for _, c := range coding {
			if !isToken(c) {
				return false
			}
		}
		b = b[comma+1:]
	}
}

// Blank reports whether b holds empty lines only.
func Blank(b []byte) bool { return blankLines(b) == len(b) }
