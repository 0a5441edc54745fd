package http1

import (
	"bytes"
	"errors"
	"regexp"
	"strings"
)

// A pattern is what a text is compared with.
type pattern struct {
	kind patternKind
	text []byte
	re   *regexp.Regexp
}

type patternKind uint8

const (
	exact patternKind = iota
	prefix
	glob // '*' stands for any bytes
	expression
)

// compile reads a pattern: ~ and a regular expression; a text with '*', which
// stands for anything; or a plain text, of the kind plain.
func compile(s string, plain patternKind) (pattern, error) {
	if re, ok := strings.CutPrefix(s, "~"); ok {
		x, err := regexp.Compile(re)
		return pattern{kind: expression, re: x}, err
	}
	if s == "" {
		return pattern{}, errors.New("empty pattern")
	}
	if strings.Contains(s, "*") {
		plain = glob
	}
	return pattern{kind: plain, text: []byte(s)}, nil
}

func (p *pattern) matches(b []byte) bool {
	switch p.kind {
	case exact:
		return bytes.Equal(b, p.text)
	case prefix:
		return bytes.HasPrefix(b, p.text)
	case glob:
		return globs(p.text, b, false)
	default:
		return p.re.Match(b)
	}
}

// globs reports whether all of b is as the glob says; with fold, which is in lower
// case then, in any case. At a mismatch the last '*' takes one byte more, so that
// it takes len(glob)·len(b) steps at most.
func globs(glob, b []byte, fold bool) bool {
	g, i := 0, 0
	star, from := -1, 0
	for i < len(b) {
		switch {
		case g < len(glob) && glob[g] == '*':
			star, from = g, i
			g++
		case g < len(glob) && (glob[g] == b[i] || fold && glob[g] == lower(b[i])):
			g++
			i++
		case star >= 0:
			from++
			g, i = star+1, from
		default:
			return false
		}
	}
	for g < len(glob) && glob[g] == '*' {
		g++
	}
	return g == len(glob)
}

// hostPattern reads a host, or a glob such as *.example.
func hostPattern(s string) ([]byte, error) {
	switch {
	case s == "":
		return nil, errors.New("empty host")
	case strings.ContainsAny(s, "/ \t@?#"):
		return nil, errors.New("not a host")
	case !strings.HasPrefix(s, "[") && strings.Contains(s, ":"):
		return nil, errors.New("give it without a port")
	}
	return []byte(strings.ToLower(strings.TrimSuffix(s, "."))), nil
}
