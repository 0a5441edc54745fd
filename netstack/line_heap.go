package netstack

func (p *delayed) before(q *delayed) bool {
	return p.due < q.due || p.due == q.due && p.number < q.number
}

// push and pop keep the least at the top; container/heap would allocate for each.
func (l *lines) push(p delayed) {
	l.heap = append(l.heap, p)
	h := l.heap
	i := len(h) - 1
	for i > 0 {
		up := (i - 1) / 2
		if !h[i].before(&h[up]) {
			return
		}
		h[i], h[up] = h[up], h[i]
		i = up
	}
}

func (l *lines) pop() delayed {
	h := l.heap
	p := h[0]
	n := len(h) - 1
	h[0] = h[n]
	h[n] = delayed{}
	h = h[:n]
	for i := 0; ; {
		least := i
		for _, down := range [2]int{2*i + 1, 2*i + 2} {
			if down < n && h[down].before(&h[least]) {
				least = down
			}
		}
		if least == i {
			break
		}
		h[i], h[least] = h[least], h[i]
		i = least
	}
	l.heap = h
	return p
}
