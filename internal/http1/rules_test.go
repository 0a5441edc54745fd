package http1

import (
	"strings"
	"testing"
)

func parsed(t *testing.T, head string) *Request {
	t.Helper()
	var r Request
	if !r.parse([]byte(head)) {
		t.Fatalf("%q does not parse", head)
	}
	return &r
}

func TestSelects(t *testing.T) {
	t.Parallel()
	const in = "POST /api/v1/cart.json?x=/admin HTTP/1.1\r\nHost: Shop.Example:8080\r\nX-Tier: gold\r\nX-Tier: blue\r\nCookie: a=b; c=d\r\nX-Empty:\r\n\r\n"
	for _, c := range []struct {
		c    Config
		want bool
	}{
		{Config{}, true},
		{Config{Hosts: []string{"shop.example"}}, true},
		{Config{Hosts: []string{"SHOP.example."}}, true},
		{Config{Hosts: []string{"a.example", "*.example"}}, true},
		{Config{Hosts: []string{"*.shop.example"}}, false},
		{Config{Hosts: []string{"shop.exampl"}}, false},
		{Config{Hosts: []string{"shop"}}, false},
		{Config{NotHosts: []string{"shop.example"}}, false},
		{Config{NotHosts: []string{"a.example"}}, true},
		{Config{Hosts: []string{"*.example"}, NotHosts: []string{"shop.*"}}, false},
		{Config{Paths: []string{"/api/"}}, true},
		{Config{Paths: []string{"/API/"}}, false},
		{Config{Paths: []string{"/img/", "*.json"}}, true},
		{Config{Paths: []string{"/api/*.xml"}}, false},
		{Config{Paths: []string{"/api/*/cart*"}}, true},
		{Config{Paths: []string{"~^/api/v[0-9]+/"}}, true},
		{Config{Paths: []string{"~admin"}}, false}, // the query is no part of it
		{Config{NotPaths: []string{"/api/v1"}}, false},
		{Config{Methods: []string{"GET"}}, false},
		{Config{Methods: []string{"get", "post"}}, true},
		{Config{NotMethods: []string{"POST"}}, false},
		{Config{Headers: []string{"x-tier=blue"}}, true},
		{Config{Headers: []string{"x-tier=gol"}}, false},
		{Config{Headers: []string{"Cookie=*c=d*"}}, true},
		{Config{Headers: []string{"Cookie=~\\ba=b\\b"}}, true},
		{Config{Headers: []string{"X-Empty"}}, true},
		{Config{Headers: []string{"X-Empty="}}, true},
		{Config{Headers: []string{"X-Tier="}}, false},
		{Config{Headers: []string{"X-None"}}, false},
		{Config{NotHeaders: []string{"X-None"}}, true},
		{Config{NotHeaders: []string{"X-Tier=gold"}}, false},
		{Config{Hosts: []string{"shop.example"}, Methods: []string{"GET"}}, false},
	} {
		r, err := Compile(c.c)
		if err != nil {
			t.Errorf("%+v: %v", c.c, err)
			continue
		}
		if got := r.Selects(parsed(t, in)); got != c.want {
			t.Errorf("%+v selects: %v, want %v", c.c, got, c.want)
		}
	}
	r, _ := Compile(Config{Hosts: []string{"*"}})
	if r.Selects(parsed(t, "GET / HTTP/1.0\r\n\r\n")) {
		t.Error("a request without a host is of some host")
	}
}

func TestCompileRefuses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		c    Config
		want string
	}{
		{Config{Hosts: []string{""}}, "host"},
		{Config{Hosts: []string{"a:80"}}, "port"},
		{Config{NotHosts: []string{"http://a/"}}, "not-host"},
		{Config{Paths: []string{"api"}}, "path"},
		{Config{NotPaths: []string{"~("}}, "not-path"},
		{Config{Methods: []string{"GE T"}}, "method"},
		{Config{Headers: []string{"=x"}}, "header"},
		{Config{NotHeaders: []string{"X=~("}}, "not-header"},
		{Config{SetHeaders: []string{"X"}}, "set-header"},
		{Config{SetHeaders: []string{"X: a\r\nY: b"}}, "set-header"},
		{Config{SetHeaders: []string{"X : a"}}, "set-header"},
		{Config{SetHeaders: []string{"Host: a"}}, "set-host"},
		{Config{SetHeaders: []string{"content-length: 0"}}, "cannot be set"},
		{Config{SetHeaders: []string{"X: a", "x: b"}}, "twice"},
		{Config{SetHeaders: strings.Split(strings.Repeat("X: a,", 64)+"X: a", ",")}, "more than"},
		{Config{SetHost: "a\r\n"}, "set-host"},
		{Config{SetHost: "a b"}, "set-host"},
		{Config{RewritePaths: []string{"/a"}}, "re=to"},
		{Config{RewritePaths: []string{"=/a"}}, "re=to"},
		{Config{RewritePaths: []string{"(=/a"}}, "rewrite-path"},
		{Config{RewritePaths: []string{"a=/b c"}}, "space"},
		{Config{RewritePaths: []string{`/k(\d)=/kk/$1x`}}, "$1x is no group"},
		{Config{RewritePaths: []string{"/(a)=/$$1/${2}"}}, "${2} is no group"},
		{Config{RewritePaths: []string{"/(?P<a>x)=/$b"}}, "$b is no group"},
		{Config{RewritePaths: []string{"/(a)=/$01"}}, "$01 is no group"},
	} {
		if _, err := Compile(c.c); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want something about %q", c.c, err, c.want)
		}
	}
}

func TestRewrite(t *testing.T) {
	t.Parallel()
	const in = "\r\nGET /old/x?y=1 HTTP/1.1\r\nUser-Agent: a\r\nHost: a.example\r\nX-Copied: 0\r\nx-copied: 2\r\nAccept:  */*\n\r\n"
	for _, c := range []struct {
		name     string
		c        Config
		in, want string
	}{
		{"nothing", Config{}, in, in},
		{
			"set in place, once",
			Config{SetHeaders: []string{"X-Copied: 1"}},
			in, strings.Replace(in, "X-Copied: 0\r\nx-copied: 2\r\n", "X-Copied: 1\r\n", 1),
		},
		{
			"add",
			Config{SetHeaders: []string{"X-New: 1", "X-Other:  2 "}},
			in, strings.Replace(in, "*/*\n", "*/*\nX-New: 1\r\nX-Other: 2\r\n", 1),
		},
		{"host", Config{SetHost: "b.example:81"}, in, strings.Replace(in, "a.example", "b.example:81", 1)},
		{
			"no host",
			Config{SetHost: "b"},
			"GET / HTTP/1.0\r\n\r\n", "GET / HTTP/1.0\r\nHost: b\r\n\r\n",
		},
		{
			"host of the target",
			Config{SetHost: "b"},
			"GET http://u@a:80/x HTTP/1.1\r\nHost: a\r\n\r\n", "GET http://b/x HTTP/1.1\r\nHost: b\r\n\r\n",
		},
		{
			"connect",
			Config{SetHost: "b", RewritePaths: []string{"a=/b"}},
			"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", "CONNECT a:80 HTTP/1.1\r\nHost: b\r\n\r\n",
		},
		{
			"path",
			Config{RewritePaths: []string{"^/new/=/", "^/old/(.*)$=/new/$1", "^/o=/p"}},
			in, strings.Replace(in, "/old/x?y=1", "/new/x?y=1", 1),
		},
		{
			"first match only",
			Config{RewritePaths: []string{`y\=1|o=z`}},
			in, strings.Replace(in, "/old", "/zld", 1),
		},
		{
			"of an absolute target",
			Config{RewritePaths: []string{"^/x=/y"}},
			"GET http://x/x/x HTTP/1.1\r\n\r\n", "GET http://x/y/x HTTP/1.1\r\n\r\n",
		},
		{"what would be no path", Config{RewritePaths: []string{"^/old=old"}}, in, in},
		{"folded", Config{SetHeaders: []string{"A: 1"}}, "GET / HTTP/1.1\r\nA: x\r\n y\r\nB: z\r\n\r\n", "GET / HTTP/1.1\r\nA: 1\r\nB: z\r\n\r\n"},
	} {
		r, err := Compile(c.c)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if got := string(r.Append(nil, parsed(t, c.in))); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

// Matching and setting headers happen for every request that is copied.
func TestAllocations(t *testing.T) {
	const in = "POST /api/v1/cart HTTP/1.1\r\nHost: Shop.Example\r\nX-Tier: gold\r\nContent-Length: 2\r\n\r\nab"
	r, err := Compile(Config{
		Hosts: []string{"a", "*.example"}, Paths: []string{"/img", "~^/api/v[0-9]", "*.css"}, Methods: []string{"POST"},
		Headers: []string{"x-tier=g*"}, NotHeaders: []string{"cookie=~x"},
		SetHeaders: []string{"X-Copied: 1"}, SetHost: "b", RewritePaths: []string{"^/none=/x"},
	})
	if err != nil {
		t.Fatal(err)
	}
	b, buf, q := []byte(in), make([]byte, 0, 1000), new(Request)
	n := testing.AllocsPerRun(100, func() {
		var c Cursor
		n, e := c.Next(b, q)
		if e != Head || !r.Selects(q) {
			t.Fatal("not selected")
		}
		buf = r.Append(buf[:0], q)
		if _, e := c.Next(b[n:], q); e != Body || !c.Boundary() {
			t.Fatal("not cut")
		}
	})
	if n != 0 {
		t.Errorf("%v allocations for a request, want 0", n)
	}
}

// FuzzAppend: what is written must be read as one request with the same body, and
// without rules the same bytes.
func FuzzAppend(f *testing.F) {
	f.Add("POST /a?b HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n")
	f.Add("\n\rGET http://a/b HTTP/1.1\r\nX-Copied: a\r\n b\r\nHost: b\n\n")
	f.Add("CONNECT a:1 HTTP/1.0\r\n\r\n")
	none, _ := Compile(Config{})
	some, err := Compile(Config{SetHeaders: []string{"X-Copied: 1"}, SetHost: "b.example", RewritePaths: []string{"b=", "^/a(.?)=$1/c"}})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, head string) {
		var c, c2 Cursor
		var q, q2 Request
		if len(head) == 0 {
			return
		}
		n, e := c.Next([]byte(head), &q)
		if e != Head {
			return
		}
		if got := string(none.Append(nil, &q)); got != head[:n] {
			t.Fatalf("%q became %q", head[:n], got)
		}
		out := some.Append(nil, &q)
		if n, e := c2.Next(out, &q2); e != Head || n != len(out) {
			t.Fatalf("%q became %q, which is no request", head, out)
		}
		if c != c2 || string(q.Method) != string(q2.Method) {
			t.Fatalf("%q became %q, which frames another body", head, out)
		}
	})
}
