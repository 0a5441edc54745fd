package http1

import "testing"

func TestIsRequest(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		in        string
		yes, sure bool
	}{
		{"GET / HTTP/1.1\r\nHost: a\r\n\r\n", true, true},
		{"GET / HTTP/1.0\n", true, true},
		{"POST http://a.example/b?c=d%20 HTTP/1.1\r\n", true, true},
		{"OPTIONS * HTTP/1.1\r\n", true, true},
		{"CONNECT a.example:443 HTTP/1.1\r\n", true, true},
		{"VERSION-CONTROL /a HTTP/1.1\r\n", true, true},
		{"GET /\xc3\xa4 HTTP/1.1\r\n", true, true}, // as browsers of old send it, and servers take it
		// Not complete, and nothing speaks against it.
		{"", true, false},
		{"G", true, false},
		{"GET ", true, false},
		{"GET /abc", true, false},
		{"GET / HTTP/1", true, false},
		{"GET / HTTP/1.1", true, false},
		{"GET / HTTP/1.1\r", true, false},
		// None.
		{" GET / HTTP/1.1\r\n", false, true},
		{"\r\nGET / HTTP/1.1\r\n", false, true},
		{"GET  / HTTP/1.1\r\n", false, true},
		{"GET / HTTP/2.0\r\n", false, true},
		{"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", false, true},
		{"GET / HTTP/1.1 \r\n", false, true},
		{"GET / HTTP/1.1\r\r\n", false, true},
		{"GET /\r\n", false, true}, // HTTP/0.9
		{"GET /\x00 HTTP/1.1\r\n", false, true},
		{"*2\r\n$3\r\nGET\r\n", false, true}, // redis
		{"HTTP/1.1 200 OK\r\n", false, true}, // an answer
		{"Host: a.example\r\n", false, true}, // the middle of a request
		{"\x16\x03\x01\x02\x00\x01", false, true},
		{"AMETHODTHATISLONGERTHANANY / HTTP/1.1\r\n", false, true},
		{"eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9", false, true},
	} {
		yes, sure := IsRequest([]byte(c.in))
		if yes != c.yes || sure != c.sure {
			t.Errorf("IsRequest(%q) = %v, %v; want %v, %v", c.in, yes, sure, c.yes, c.sure)
		}
	}
}

// Behind a gap the end of a method is none.
func TestResumes(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]bool{
		"GET / HTTP/1.1\r\n": true, "POST /a": true, "UNLOCK / HTTP/1.1\r\n": true,
		"ET / HTTP/1.1\r\n": false, "ST / HTTP/1.1\r\n": false, "LOCK / HTTP/1.1\r\n": false, "GET": false, "": false, "*1\r\n": false,
	} {
		if got := Resumes([]byte(in)); got != want {
			t.Errorf("%q: %v, want %v", in, got, want)
		}
	}
}

// FuzzIsRequest: an answer that is sure must not change with what follows, and a
// beginning of a request must not be refused.
func FuzzIsRequest(f *testing.F) {
	f.Add([]byte("GET / HTTP/1.1\r\n"))
	f.Add([]byte("*1\r\n$4\r\nPING\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		all, _ := IsRequest(b)
		for i := range b {
			yes, sure := IsRequest(b[:i])
			if sure && yes != all {
				t.Fatalf("%q is %v for sure, %q is %v", b[:i], yes, b, all)
			}
			if all && !yes {
				t.Fatalf("%q is a request and its beginning %q none", b, b[:i])
			}
		}
	})
}
