package http1

import (
	"fmt"
	"strings"
	"testing"
)

// cut feeds b to a cursor in pieces of the given sizes, the rest as one, as the
// copier does: what is part of a head waits for the rest of it. It returns what was
// found, one line for each run of bytes of a kind.
func cut(t *testing.T, b []byte, sizes ...int) []string {
	t.Helper()
	var (
		c    Cursor
		r    Request
		out  []string
		held []byte
		last Event
	)
	for len(b) > 0 {
		n := len(b)
		if len(sizes) > 0 {
			n, sizes = min(max(sizes[0], 1), n), sizes[1:]
		}
		held = append(held, b[:n]...)
		b = b[n:]
		for len(held) > 0 {
			n, e := c.Next(held, &r)
			if e == More {
				if n != 0 || len(held) >= MaxHead {
					t.Fatalf("More of %d bytes, %d cut", len(held), n)
				}
				break
			}
			if e == Bad {
				return append(out, "bad "+string(held)+string(b))
			}
			if n <= 0 || n > len(held) {
				t.Fatalf("%d of %d bytes cut", n, len(held))
			}
			if part := string(held[:n]); e == last && e != Head {
				out[len(out)-1] += part
			} else {
				out = append(out, [...]string{"more", "head", "body", "opaque"}[e]+" "+part)
			}
			last = e
			held = held[n:]
		}
	}
	if len(held) > 0 {
		out = append(out, "held "+string(held))
	}
	return out
}

func TestCut(t *testing.T) {
	t.Parallel()
	const (
		get     = "GET /a HTTP/1.1\r\nHost: a.example\r\n\r\n"
		bare    = "GET /a HTTP/1.1\nHost: a.example\n\n"
		length  = "POST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"
		chunked = "POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
		upgrade = "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
		connect = "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n"
	)
	for _, c := range []struct {
		name string
		want []string
	}{
		{"one", []string{"head " + get}},
		{"pipelined", []string{"head " + get, "head " + bare, "head " + get}},
		{"bare LF", []string{"head " + bare}},
		{"no fields", []string{"head GET / HTTP/1.0\r\n\r\n"}},
		{"empty lines before", []string{"head " + get, "head \r\n\n" + get}},
		{"content", []string{"head " + length, "body 12345", "head " + get}},
		{"no content", []string{"head POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n", "head " + get}},
		{"chunks", []string{"head " + chunked, "body 3\r\nabc\r\n00F;x=y\r\n0123456789abcde\r\n0\r\n\r\n", "head " + get}},
		{"chunks, bare LF", []string{"head " + chunked, "body 3\nabc\n0\n\n", "head " + get}},
		{"trailers", []string{"head " + chunked, "body 1 ;x\r\na\r\n0\r\nDigest: x\r\nB: y\r\n\r\n", "head " + get}},
		{"folded field", []string{"head GET / HTTP/1.1\r\nX: a\r\n b\r\n\tc\r\n \r\n\r\n", "head " + get}},
		{"codings", []string{"head POST / HTTP/1.1\r\nTransfer-Encoding: gzip, Chunked\r\n\r\n", "body 0\r\n\r\n", "head " + get}},
		{"upgrade", []string{"head " + upgrade, "opaque \x81\x83abcdefg"}},
		{"refused upgrade", []string{"head " + upgrade, "head " + get}},
		{"h2c", []string{"head " + upgrade, "opaque PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"}},
		{"connect", []string{"head " + connect, "opaque " + get}},
		{"refused connect", []string{"head " + connect, "head " + connect, "opaque \x16\x03\x01"}},
		{"incomplete", []string{"head " + get, "held GET /b HTTP/1.1\r\nHost: a\r\n"}},
		{"HTTP/2", []string{"bad PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"}},
		{"redis", []string{"bad *1\r\n$4\r\nPING\r\n"}},
		{"after a request", []string{"head " + get, "bad *1\r\n$4\r\nPING\r\n"}},
		{"chunk of no size", []string{"head " + chunked, "body 1\r\na\r\n", "bad \r\n"}},
		{"chunk too long", []string{"head " + chunked, "body 1\r\na", "bad bc\r\n"}},
		{"size of many digits", []string{"head " + chunked, "body 000000000000000", "bad 1\r\na"}},
		{"chunk's line without LF", []string{"head " + chunked, "body 1;\r", "bad a"}},
	} {
		stream := []byte(stream(c.want))
		for size := range 12 {
			var sizes []int
			for range len(stream) {
				sizes = append(sizes, size)
			}
			if size == 0 {
				sizes = nil
			}
			if got := cut(t, stream, sizes...); fmt.Sprint(got) != fmt.Sprint(c.want) {
				t.Errorf("%s, pieces of %d: %q, want %q", c.name, size, got, c.want)
			}
		}
	}
}

// stream returns the bytes that were cut.
func stream(parts []string) string {
	var b strings.Builder
	for _, p := range parts {
		_, s, _ := strings.Cut(p, " ")
		b.WriteString(s)
	}
	return b.String()
}

// Requests that two servers might cut in different ways must not be cut: one that
// is left out could hide in one that is selected.
func TestDoubtful(t *testing.T) {
	t.Parallel()
	for _, fields := range []string{
		"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
		"Content-Length: 5\r\nContent-Length: 5\r\n",
		"Content-Length: 5, 5\r\n",
		"Content-Length: +5\r\n",
		"Content-Length: 0x5\r\n",
		"Content-Length:\r\n",
		"Content-Length: 9999999999999999999\r\n",
		"Content-Length: 5\r\n 5\r\n",
		"Content-Length : 5\r\n",
		"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
		"Transfer-Encoding: chunked, gzip\r\n",
		"Transfer-Encoding: chunked, chunked\r\n",
		"Transfer-Encoding: xchunked\r\n",
		"Transfer-Encoding: \x0bchunked\r\n",
		"Transfer-Encoding:\r\n chunked\r\n",
		"Transfer-Encoding : chunked\r\n",
		"Host: a\r\nHost: b\r\n",
		"Host: a\r\n b\r\n",
		" X: y\r\n",
		"X\r\n",
		": y\r\n",
		"X: a\rb\r\n",
		"X: a\x00b\r\n",
		"X: a\r\r\n",
	} {
		in := "POST / HTTP/1.1\r\n" + fields + "\r\nhello"
		if got := cut(t, []byte(in)); len(got) != 1 || got[0] != "bad "+in {
			t.Errorf("%q is cut: %q", fields, got)
		}
	}
	for _, head := range []string{
		"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
		"GET a.example/b HTTP/1.1\r\n\r\n",
		"GET ://b HTTP/1.1\r\n\r\n",
		"CONNECT /a HTTP/1.1\r\n\r\n",
		"\r\n\r\n GET / HTTP/1.1\r\n\r\n",
	} {
		if got := cut(t, []byte(head)); len(got) != 1 || got[0] != "bad "+head {
			t.Errorf("%q is cut: %q", head, got)
		}
	}
}

// A head has a longest size, however it comes; else a client could fill the memory.
func TestLongHead(t *testing.T) {
	t.Parallel()
	head := func(n int) []byte {
		const frame = "GET / HTTP/1.1\r\nX: \r\n\r\n"
		return []byte(strings.Replace(frame, "X: ", "X: "+strings.Repeat("x", n-len(frame)), 1))
	}
	for _, size := range []int{1, 1000, MaxHead} {
		var sizes []int
		for range MaxHead/size + 2 {
			sizes = append(sizes, size)
		}
		if size == 1 {
			sizes = []int{MaxHead - 3, 1, 1, 1, 1, 1}
		}
		if got := cut(t, head(MaxHead), sizes...); len(got) != 1 || !strings.HasPrefix(got[0], "head ") {
			t.Errorf("in pieces of %d: a head of %d bytes is not taken: %.40q", size, MaxHead, got)
		}
		if got := cut(t, head(MaxHead+1), sizes...); len(got) != 1 || !strings.HasPrefix(got[0], "bad ") {
			t.Errorf("in pieces of %d: a head of %d bytes is taken: %.40q", size, MaxHead+1, got)
		}
	}
}

func TestRequest(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ in, host, path string }{
		{"GET /a/b?c=/d HTTP/1.1\r\nHost: Shop.Example:8080\r\n\r\n", "Shop.Example", "/a/b"},
		{"GET / HTTP/1.1\r\nhOST:a.example.\r\n\r\n", "a.example", "/"},
		{"GET / HTTP/1.1\r\nHost: [2001:db8::1]:80\r\n\r\n", "[2001:db8::1]", "/"},
		{"GET / HTTP/1.1\r\nHost: [2001:db8::1]\r\n\r\n", "[2001:db8::1]", "/"},
		{"GET http://b.example:81/x?y HTTP/1.1\r\nHost: a.example\r\n\r\n", "b.example", "/x"},
		{"GET http://u:p@b.example?y HTTP/1.1\r\nHost: a.example\r\n\r\n", "b.example", ""},
		{"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "a", "*"},
		{"CONNECT b.example:443 HTTP/1.1\r\nHost: a\r\n\r\n", "b.example", ""},
		{"GET / HTTP/1.0\r\n\r\n", "", "/"},
		{"GET / HTTP/1.1\r\nHost:\r\n\r\n", "", "/"},
	} {
		var r Request
		if !r.parse([]byte(c.in)) {
			t.Errorf("%q does not parse", c.in)
			continue
		}
		if string(r.Host) != c.host || string(r.Path) != c.path {
			t.Errorf("%q: host %q, path %q; want %q, %q", c.in, r.Host, r.Path, c.host, c.path)
		}
	}
}

// FuzzCut: however the bytes are split, the same is cut, nothing is lost, and
// nothing panics.
func FuzzCut(f *testing.F) {
	f.Add([]byte("POST /c HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3;x\r\nabc\r\n0\r\nT: x\r\n\r\nGET / HTTP/1.1\n\n"), []byte{1, 2, 3})
	f.Add([]byte("POST /c HTTP/1.1\r\nContent-Length: 4\r\nUpgrade: x\r\n\r\n0123GET / HTTP/1.1\r\n\r\n"), []byte{50, 1, 1, 1})
	f.Add([]byte("CONNECT a:1 HTTP/1.1\r\nX: y\r\n z\r\n\r\nCONNECT a:1 HTTP/1.1\r\n\r\n\x16"), []byte{60, 3})
	f.Add([]byte("\r\n\n\rGET http://a/b HTTP/1.1\r\nHost: b\r\n\r\n"), []byte{1, 1, 1, 1, 1})
	f.Fuzz(func(t *testing.T, b, pieces []byte) {
		whole := cut(t, b)
		if got := stream(whole); got != string(b) {
			t.Fatalf("%q was cut from %q", got, b)
		}
		sizes := make([]int, len(pieces))
		for i, p := range pieces {
			sizes[i] = int(p)
		}
		got := cut(t, b, sizes...)
		if strings.Join(got, "\x00") != strings.Join(whole, "\x00") {
			t.Fatalf("%q in pieces %v: %q, at once %q", b, sizes, got, whole)
		}
	})
}
