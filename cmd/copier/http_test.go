package main

import (
	"strings"
	"testing"
)

// Rules that select nothing at all by a slip must be refused, in one line that says
// which flag it is.
func TestHTTPFlags(t *testing.T) {
	base := []string{"-x", "80-192.0.2.2:80", "-s", testInvite().String()}
	for _, c := range []struct {
		args []string
		want string // of the error; "": none
	}{
		{[]string{"--http-host", "shop.example,*.cdn.example", "--http-not-path", "/private", "--http-not-path", "~^/a,b"}, ""},
		{[]string{"--http-set-header", "X-Copied: 1, 2", "--http-rewrite-path", `^/a\=(.*)=/b?$1`, "--http-on-error", "pass"}, ""},
		{[]string{"--http-host", "shop.example:80"}, "--http-host"},
		{[]string{"--http-path", "~["}, "--http-path"},
		{[]string{"--http-header", "a b"}, "--http-header"},
		{[]string{"--http-host", ""}, "--http-host"},
		{[]string{"--http-host", "a,,b"}, "--http-host"},
		{[]string{"--http-path", ""}, "--http-path"},
		{[]string{"--http-set-host", ""}, "--http-set-host"},
		{[]string{"--http-not-method", ""}, "--http-not-method"},
		{[]string{"--http-set-header", "Content-Length: 0"}, "--http-set-header"},
		{[]string{"--http-set-host", "a/b"}, "--http-set-host"},
		{[]string{"--http-rewrite-path", "/a"}, "--http-rewrite-path"},
		{[]string{"--http-host", "a", "--http-on-error", "ask"}, "--http-on-error"},
		{[]string{"--http-on-error", "pass"}, "--http-on-error"},
	} {
		o, err := parseFlags(append(base[:len(base):len(base)], c.args...), noEnv, names())
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%q: %v", c.args, err)
		case c.want == "" && o.config.HTTP == nil:
			t.Errorf("%q: no rules", c.args)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n")):
			t.Errorf("%q: %v, want something about %s", c.args, err, c.want)
		}
	}
	if o, err := parseFlags(base, noEnv, names()); err != nil || o.config.HTTP != nil {
		t.Errorf("rules without a flag: %+v, %v", o.config.HTTP, err)
	}
}
