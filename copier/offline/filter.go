package offline

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"flowtwin/internal/flow"
)

// A Filter says which connections are wanted. It is made of
//
//	host ADDR   net ADDR/BITS   port N   portrange N-M
//
// joined by and, or, not (&&, ||, !) and parentheses. As in tcpdump's expressions and
// and or bind alike, from the left, and ip and ip6 are the protocols. src before one of
// them means the client's side, dst the server's: a connection is wanted or not as a whole.
type Filter func(t *flow.Tuple) bool

// ParseFilter reads an expression. The empty one wants everything.
func ParseFilter(text string) (Filter, error) {
	p := parser{words: split(text)}
	if len(p.words) == 0 {
		return func(*flow.Tuple) bool { return true }, nil
	}
	f, err := p.chain(0)
	if err == nil && len(p.words) > 0 {
		err = fmt.Errorf("%q is left over", strings.Join(p.words, " "))
	}
	return f, err
}

// split cuts an expression into words.
func split(text string) []string {
	for _, s := range []string{"(", ")", "&&", "||", "!"} {
		text = strings.ReplaceAll(text, s, " "+s+" ")
	}
	return strings.Fields(text)
}

// maxDepth bounds how deep parentheses and nots may stand in each other.
const maxDepth = 100

// parser is a descent over the words that are left.
type parser struct{ words []string }

// accept takes the next word if it is one of those.
func (p *parser) accept(any ...string) (string, bool) {
	for _, w := range any {
		if len(p.words) > 0 && strings.EqualFold(p.words[0], w) {
			p.words = p.words[1:]
			return w, true
		}
	}
	return "", false
}

func (p *parser) chain(depth int) (Filter, error) {
	left, err := p.not(depth)
	for err == nil {
		join, ok := p.accept("and", "&&", "or", "||")
		if !ok {
			break
		}
		var right Filter
		a := left
		right, err = p.not(depth)
		if join == "and" || join == "&&" {
			left = func(t *flow.Tuple) bool { return a(t) && right(t) }
		} else {
			left = func(t *flow.Tuple) bool { return a(t) || right(t) }
		}
	}
	return left, err
}

func (p *parser) not(depth int) (Filter, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("more than %d levels", maxDepth)
	}
	if _, ok := p.accept("not", "!"); ok {
		f, err := p.not(depth + 1)
		return func(t *flow.Tuple) bool { return !f(t) }, err
	}
	if _, ok := p.accept("("); ok {
		f, err := p.chain(depth + 1)
		if _, closed := p.accept(")"); err == nil && !closed {
			err = fmt.Errorf("a ) is missing")
		}
		return f, err
	}
	return p.primitive()
}

// primitive reads one condition.
func (p *parser) primitive() (Filter, error) {
	switch proto, _ := p.accept("tcp", "ip", "ip6"); proto { // as people begin such expressions
	case "tcp":
		return func(*flow.Tuple) bool { return true }, nil
	case "ip":
		return func(t *flow.Tuple) bool { return t.Server.Is4() }, nil
	case "ip6":
		return func(t *flow.Tuple) bool { return !t.Server.Is4() }, nil
	}
	side, _ := p.accept("src", "dst")
	kind, ok := p.accept("host", "net", "portrange", "port")
	switch {
	case !ok && len(p.words) == 0:
		return nil, fmt.Errorf("it ends where host, net, port or portrange is expected")
	case !ok:
		return nil, fmt.Errorf("%q: host, net, port or portrange is expected", strings.Join(p.words, " "))
	case len(p.words) == 0:
		return nil, fmt.Errorf("%s needs a value behind it", kind)
	}
	value := p.words[0]
	p.words = p.words[1:]
	match, err := condition(kind, value)
	if err != nil {
		return nil, fmt.Errorf("%s %q: %w", kind, value, err)
	}
	return func(t *flow.Tuple) bool {
		return side != "dst" && match(t.Client.Netip(), t.ClientPort) || side != "src" && match(t.Server.Netip(), t.ServerPort)
	}, nil
}

// condition returns what a side of a connection must be.
func condition(kind, value string) (func(netip.Addr, uint16) bool, error) {
	switch kind {
	case "host":
		want, err := netip.ParseAddr(value)
		return func(a netip.Addr, _ uint16) bool { return a == want.Unmap() }, err
	case "net":
		want, err := netip.ParsePrefix(value)
		return func(a netip.Addr, _ uint16) bool { return want.Contains(a) }, err
	}
	low, high, isRange := strings.Cut(value, "-")
	if kind == "port" || !isRange {
		high = value
	}
	if kind == "port" {
		low = value
	}
	from, err := strconv.ParseUint(low, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("not a port")
	}
	to, err := strconv.ParseUint(high, 10, 16)
	if err != nil || to < from {
		return nil, fmt.Errorf("not a range of ports")
	}
	return func(_ netip.Addr, p uint16) bool { return from <= uint64(p) && uint64(p) <= to }, nil
}
