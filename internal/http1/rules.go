package http1

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// A Config says which requests are selected, and what is changed in them. Of each
// kind of condition one that holds is enough; all kinds that are given must hold,
// and none of the Not ones.
type Config struct {
	Hosts, NotHosts     []string // names, or globs such as *.cdn.example; case does not matter
	Paths, NotPaths     []string // a prefix, a glob with '*' for all of the path, or ~ and a regular expression
	Methods, NotMethods []string
	Headers, NotHeaders []string // name, or name=value; the value a text, a glob, or ~ and a regular expression

	SetHeaders   []string // "Name: value", in the place of all fields of that name, or behind the others
	SetHost      string
	RewritePaths []string // re=to, of the path and query; the first rule that matches counts
}

// Empty reports whether c selects everything and changes nothing.
func (c *Config) Empty() bool {
	return !c.selects() && len(c.SetHeaders)+len(c.RewritePaths) == 0 && c.SetHost == ""
}

func (c *Config) selects() bool {
	return len(c.Hosts)+len(c.NotHosts)+len(c.Paths)+len(c.NotPaths)+
		len(c.Methods)+len(c.NotMethods)+len(c.Headers)+len(c.NotHeaders) > 0
}

// Rules are a compiled Config. They are read only, and safe for all goroutines.
type Rules struct {
	hosts, notHosts     [][]byte
	paths, notPaths     []pattern
	methods, notMethods [][]byte
	headers, notHeaders []headerRule

	set      []setRule
	setHost  []byte
	rewrites []rewriteRule
}

type headerRule struct {
	name  string // in lower case
	value pattern
}

type setRule struct {
	name string // in lower case
	line []byte // the whole field
}

type rewriteRule struct {
	re *regexp.Regexp
	to []byte
}

// Compile checks c. Errors begin with the kind of what is wrong, as the flags
// without their --http- are called.
func Compile(c Config) (*Rules, error) {
	r := &Rules{setHost: []byte(c.SetHost)}
	err := errors.Join(
		each("host", c.Hosts, &r.hosts, hostPattern),
		each("not-host", c.NotHosts, &r.notHosts, hostPattern),
		each("path", c.Paths, &r.paths, pathPattern),
		each("not-path", c.NotPaths, &r.notPaths, pathPattern),
		each("method", c.Methods, &r.methods, methodPattern),
		each("not-method", c.NotMethods, &r.notMethods, methodPattern),
		each("header", c.Headers, &r.headers, headerPattern),
		each("not-header", c.NotHeaders, &r.notHeaders, headerPattern),
		each("set-header", c.SetHeaders, &r.set, setField),
		each("rewrite-path", c.RewritePaths, &r.rewrites, rewrite),
	)
	if err == nil {
		err = r.check(&c)
	}
	return r, err
}

// maxSet is how many headers can be set: a bit each tells which are done.
const maxSet = 64

func (r *Rules) check(c *Config) error {
	if !isTarget(c.SetHost) || strings.ContainsAny(c.SetHost, "/?#@") {
		return fmt.Errorf("set-host %q: not a host", c.SetHost)
	}
	if len(r.set) > maxSet {
		return fmt.Errorf("set-header: %d are more than %d", len(r.set), maxSet)
	}
	for i := range r.set {
		if r.setting([]byte(r.set[i].name)) != i {
			return fmt.Errorf("set-header: %s is set twice", r.set[i].name)
		}
	}
	return nil
}

// each compiles the texts of one kind.
func each[T any](kind string, texts []string, to *[]T, f func(string) (T, error)) error {
	for _, s := range texts {
		x, err := f(s)
		if err != nil {
			return fmt.Errorf("%s %q: %w", kind, s, err)
		}
		*to = append(*to, x)
	}
	return nil
}

func pathPattern(s string) (pattern, error) {
	if !strings.HasPrefix(s, "/") && !strings.HasPrefix(s, "~") && !strings.HasPrefix(s, "*") {
		return pattern{}, errors.New("a path begins with /, a glob with / or *, a regular expression with ~")
	}
	return compile(s, prefix)
}

func methodPattern(s string) ([]byte, error) {
	if !isTokens(s) {
		return nil, errors.New("not a method")
	}
	return []byte(strings.ToLower(s)), nil
}

func headerPattern(s string) (h headerRule, err error) {
	name, value, ok := strings.Cut(s, "=")
	if !isTokens(name) {
		return h, errors.New("not the name of a header")
	}
	h.name = strings.ToLower(name)
	if !ok {
		value = "*"
	}
	if value != "" {
		h.value, err = compile(value, exact)
	}
	return h, err
}

func setField(s string) (r setRule, err error) {
	name, value, ok := strings.Cut(s, ":")
	value = strings.Trim(value, " \t")
	switch {
	case !ok || !isTokens(name) || !isValue(value):
		return r, errors.New(`not of the form "Name: value"`)
	case strings.EqualFold(name, "host"):
		return r, errors.New("the host is set by --http-set-host")
	}
	for _, framing := range []string{"content-length", "transfer-encoding", "connection", "upgrade", "expect", "trailer"} {
		if strings.EqualFold(name, framing) {
			return r, errors.New("says how long the request or what it does to the connection; it cannot be set")
		}
	}
	return setRule{name: strings.ToLower(name), line: []byte(name + ": " + value + "\r\n")}, nil
}

func rewrite(s string) (r rewriteRule, err error) {
	re, to, ok := cutUnescaped(s)
	if !ok || re == "" {
		return r, errors.New(`not of the form re=to; write \= for a = in the regular expression`)
	}
	if !isTarget(to) {
		return r, errors.New("what it is rewritten to holds a space or a control character")
	}
	if r.re, err = regexp.Compile(re); err != nil {
		return r, err
	}
	r.to = []byte(to)
	return r, knowsGroups(r.re, to)
}

// knowsGroups returns an error if to names a group that re has not: the regular
// expression's package would put nothing in its place.
func knowsGroups(re *regexp.Regexp, to string) error {
	names := regexp.MustCompile(`\$\$|\$([\pL\p{Nd}_]+)|\$\{([\pL\p{Nd}_]+)\}`)
	for _, m := range names.FindAllStringSubmatch(to, -1) {
		name := m[1] + m[2]
		if n, err := strconv.Atoi(name); err == nil && n <= re.NumSubexp() && name == strconv.Itoa(n) {
			continue
		}
		if name != "" && re.SubexpIndex(name) < 0 {
			return fmt.Errorf("%s is no group of the regular expression; a group before letters or digits is ${1}, and a $ itself $$", m[0])
		}
	}
	return nil
}

// cutUnescaped cuts s at its first = that has no \ before it.
func cutUnescaped(s string) (before, after string, ok bool) {
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '=':
			return s[:i], s[i+1:], true
		}
	}
	return s, "", false
}

func isTokens(s string) bool {
	for i := range len(s) {
		if !isToken(s[i]) {
			return false
		}
	}
	return s != ""
}

func isValue(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' && s[i] != '\t' || s[i] == 0x7f {
			return false
		}
	}
	return true
}

func isTarget(s string) bool { return isValue(s) && !strings.ContainsAny(s, " \t") }

// Selects reports whether the rules select the request.
func (r *Rules) Selects(q *Request) bool {
	return (r.hosts == nil || anyHost(r.hosts, q.Host)) && !anyHost(r.notHosts, q.Host) &&
		(r.methods == nil || anyName(r.methods, q.Method)) && !anyName(r.notMethods, q.Method) &&
		(r.paths == nil || anyPath(r.paths, q.Path)) && !anyPath(r.notPaths, q.Path) &&
		(r.headers == nil || anyHeader(r.headers, q)) && (r.notHeaders == nil || !anyHeader(r.notHeaders, q))
}

func anyHost(globList [][]byte, host []byte) bool {
	for _, g := range globList {
		if globs(g, host, true) && len(host) > 0 {
			return true
		}
	}
	return false
}

func anyName(names [][]byte, b []byte) bool {
	for _, n := range names {
		if isName(b, string(n)) {
			return true
		}
	}
	return false
}

func anyPath(patterns []pattern, path []byte) bool {
	for i := range patterns {
		if patterns[i].matches(path) {
			return true
		}
	}
	return false
}

func anyHeader(rules []headerRule, q *Request) bool {
	rest := q.head[q.fields:]
	for {
		f, next, more, _ := nextField(rest)
		if !more {
			return false
		}
		for i := range rules {
			if isName(f.name, rules[i].name) && rules[i].value.matches(f.value) {
				return true
			}
		}
		rest = next
	}
}
