package http1

import "bytes"

// Rewrites reports whether the rules change anything.
func (r *Rules) Rewrites() bool {
	return len(r.set)+len(r.rewrites)+len(r.setHost) > 0
}

// Append appends the head of q to b as the rules change it. Everything that they
// do not name stays as and where the client put it.
func (r *Rules) Append(b []byte, q *Request) []byte {
	b = append(b, q.head[:q.target]...)
	b = r.appendTarget(b, q)
	rest := q.head[q.target+len(q.Target) : q.fields]
	b = append(b, rest...)
	rest = q.head[q.fields:]
	var done uint64 // of r.set, those that are in their place
	hosted := len(r.setHost) == 0
	for {
		f, next, more, _ := nextField(rest)
		if !more {
			break
		}
		rest = next
		i := r.setting(f.name)
		switch {
		case len(r.setHost) > 0 && isName(f.name, "host"):
			b = r.appendHost(b)
			hosted = true
		case i < 0:
			b = append(b, f.raw...)
		case done&(1<<i) == 0:
			b = append(b, r.set[i].line...)
			done |= 1 << i
		}
	}
	if !hosted {
		b = r.appendHost(b)
	}
	for i := range r.set {
		if done&(1<<i) == 0 {
			b = append(b, r.set[i].line...)
		}
	}
	return append(b, rest...)
}

func (r *Rules) appendHost(b []byte) []byte {
	b = append(b, "Host: "...)
	b = append(b, r.setHost...)
	return append(b, "\r\n"...)
}

// setting returns which rule sets the field, -1 none.
func (r *Rules) setting(name []byte) int {
	for i := range r.set {
		if isName(name, r.set[i].name) {
			return i
		}
	}
	return -1
}

// appendTarget appends the target. A path that is rewritten costs an allocation,
// which package regexp makes for what its groups match.
func (r *Rules) appendTarget(b []byte, q *Request) []byte {
	t := q.Target
	if q.connect {
		return append(b, t...)
	}
	if q.authority > 0 {
		scheme := bytes.Index(t, []byte("://")) + len("://")
		switch {
		case len(r.setHost) > 0:
			b = append(b, t[:scheme]...)
			b = append(b, r.setHost...)
		default:
			b = append(b, t[:q.authority]...)
		}
		t = t[q.authority:]
	}
	for i := range r.rewrites {
		x := &r.rewrites[i]
		if !x.re.Match(t) {
			continue
		}
		m := x.re.FindSubmatchIndex(t)
		begin := len(b)
		b = append(b, t[:m[0]]...)
		b = x.re.Expand(b, x.to, t, m)
		b = append(b, t[m[1]:]...)
		if begin == len(b) || b[begin] != '/' {
			b = append(b[:begin], t...) // it would be no path any more
		}
		return b
	}
	return append(b, t...)
}
