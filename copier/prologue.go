package copier

// A prologue is how a client began: its first bytes with what it had seen of the
// answers, up to prologueMost. A session that begins later than its client did
// begins with them (see waiting.go), so that a login, or the settings of an HTTP/2
// connection, are not missed. Of protocols that are known only what sets a
// connection up is kept, and nothing of HTTP/1.
type prologue struct {
	first, last uint32 // of its chunks in the shard's, plus one
	size        uint16
	whole       uint16 // of size, the turns that are complete
	seen        uint64 // what the client had seen behind these
	open        bool   // all that the client has sent is kept
}

const (
	prologueMost  = 4 << 10  // of a flow
	prologueBytes = 16 << 20 // of all, with what it takes to keep them

	chunkBytes  = 240
	chunkCost   = 256
	chunksBlock = 256
)

// A chunk holds bytes that a client has sent having seen the same.
type chunk struct {
	seen uint64
	next uint32
	n    uint16
	data [chunkBytes]byte
}

// prologues holds the chunks of a shard's flows. It grows with use, up to most
// chunks, and keeps what was given back for others.
type prologues struct {
	blocks []*[chunksBlock]chunk
	used   int    // chunks that have been used
	free   uint32 // the one last given back, plus one
	most   int
}

func newPrologues(bytes int) prologues { return prologues{most: bytes / chunkCost} }

func (s *prologues) at(id uint32) *chunk {
	return &s.blocks[(id-1)/chunksBlock][(id-1)%chunksBlock]
}

// take returns an empty chunk, 0 when there is none.
func (s *prologues) take() uint32 {
	if id := s.free; id != 0 {
		s.free = s.at(id).next
		return id
	}
	if s.used == s.most {
		return 0
	}
	if s.used == len(s.blocks)*chunksBlock {
		s.blocks = append(s.blocks, new([chunksBlock]chunk))
	}
	s.used++
	return uint32(s.used)
}

// add keeps b, and reports false when there is no room for all of it.
func (s *prologues) add(p *prologue, seen uint64, b []byte) bool {
	p.size += uint16(len(b))
	for len(b) > 0 {
		if p.last == 0 || s.at(p.last).n == chunkBytes || s.at(p.last).seen != seen {
			id := s.take()
			if id == 0 {
				return false
			}
			c := s.at(id)
			c.seen, c.next, c.n = seen, 0, 0
			if p.last == 0 {
				p.first = id
			} else {
				s.at(p.last).next = id
			}
			p.last = id
		}
		c := s.at(p.last)
		n := copy(c.data[c.n:], b)
		c.n += uint16(n)
		b = b[n:]
	}
	return true
}

// drop forgets p.
func (s *prologues) drop(p *prologue) {
	if p.last != 0 {
		s.at(p.last).next = s.free
		s.free = p.first
	}
	*p = prologue{}
}

// keep adds what the client sends to its prologue, as long as that goes on.
func (s *shard) keep(r *record, seen uint64, payload []byte) {
	p := &r.pro
	if r.proto == protoOther && (seen > r.told || isClientHello(payload)) {
		s.looks(r, payload)
	}
	n := r.proto.setup(payload)
	if seen > r.told && p.size > 0 && s.exact {
		p.whole, p.seen = p.size, seen
	}
	switch {
	case int(p.size)+n > prologueMost:
		p.open = false
	case !s.prologues.add(p, seen, payload[:n]):
		s.prologues.drop(p)
		s.book.Flows.PrologueFull++
	default:
		p.open = n == len(payload)
	}
	switch {
	case p.open:
	case r.proto == protoHTTP2: // a part of it is of no use
		s.prologues.drop(p)
	case r.proto == protoRedis && p.whole < p.size:
		// What it does next it did without waiting, or in the same segment. The answers
		// to the set-up have some length.
		p.whole, p.seen = p.size, seen+1
	}
}

// repeats returns how much of its prologue a flow that has lost a session may say
// again: what sets the connection up. The rest the target may have done, and must not
// do twice. Where it is not known what sets up, it is what the client says first to a
// server that has greeted it.
func (s *shard) repeats(r *record) int {
	p := &r.pro
	switch {
	case r.sent.Segments == 0 || r.proto == protoRedis || p.size == 0:
		return int(p.size)
	case r.proto == protoHTTP2:
		if s.asksNothing(p) {
			return int(p.size)
		}
		return 0
	}
	first := s.prologues.at(p.first)
	if first.seen == 0 && !isStartup(first.data[:first.n]) {
		return 0
	}
	n := 0
	for id := p.first; id != 0 && s.prologues.at(id).seen <= first.seen; id = s.prologues.at(id).next {
		n += int(s.prologues.at(id).n)
	}
	return n
}

// asksNothing reports whether there is no request in what an HTTP/2 client has sent.
func (s *shard) asksNothing(p *prologue) bool {
	var buf [prologueMost]byte
	b := buf[:0]
	for id := p.first; id != 0; id = s.prologues.at(id).next {
		b = append(b, s.prologues.at(id).data[:s.prologues.at(id).n]...)
	}
	return setsUpHTTP2(b)
}

// shorten leaves n bytes of a prologue, which are whole turns or nothing of it.
func (s *shard) shorten(r *record, n int) {
	p := &r.pro
	if n == int(p.size) {
		return
	}
	if n == 0 || n > int(p.whole) {
		s.prologues.drop(p)
		return
	}
	last := s.prologues.at(p.first)
	p.size, p.whole, p.open = uint16(n), uint16(n), false
	end := p.first
	for n -= int(last.n); n > 0; n -= int(last.n) {
		end = last.next
		last = s.prologues.at(end)
	}
	p.seen = s.prologues.at(last.next).seen
	s.prologues.drop(&prologue{first: last.next, last: p.last})
	last.next, p.last = 0, end
}
