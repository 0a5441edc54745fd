package replay

// What a client says first tells whether its connection can be replaced by another
// one. Where both sides have agreed on something that the rest depends on, it
// cannot: after a greeting most servers want a login, TLS has keys, HTTP/2 has
// settings and compressed headers.

// preface is what a client of HTTP/2 begins with (RFC 9113, 3.4).
const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// A sniffer looks at the first bytes of a client.
type sniffer struct {
	matched int8 // bytes of preface; -1: it was none
	http2   bool
	tls     bool
}

// look takes the client's next bytes.
func (f *sniffer) look(p []byte) {
	if f.matched < 0 || f.http2 {
		return
	}
	if f.matched == 0 && len(p) > 1 && p[0] == 0x16 && p[1] == 3 { // a handshake record, of any version
		f.tls, f.matched = true, -1
		return
	}
	left := preface[f.matched:]
	n := min(len(p), len(left))
	if string(p[:n]) != left[:n] {
		f.matched = -1
		return
	}
	f.matched += int8(n)
	f.http2 = int(f.matched) == len(preface)
}
