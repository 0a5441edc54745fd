package copier

import (
	"math"
	"time"

	"flowtwin/internal/flow"
	"flowtwin/tunnel/frame"
)

// An amount says how often flows are replayed. The zero value is once.
type amount struct {
	least  uint16     // sessions of each flow, 0 is 1
	more   flow.Share // the connections that get one more
	jitter uint32     // ms
}

// newAmount returns the amount of so many sessions on average.
func newAmount(copies float64, jitter time.Duration) amount {
	whole, _ := math.Modf(copies)
	return amount{least: uint16(whole), more: flow.Fraction(copies), jitter: uint32(jitter.Milliseconds())}
}

// of returns how many sessions a client's connection gets.
func (a *amount) of(t *flow.Tuple) uint16 {
	n := max(a.least, 1)
	if a.more.To > 0 && a.more.Takes(&t.Client, t.ClientPort) {
		n++
	}
	return n
}

// amplify says in s.opening how often the flow is to be replayed.
func (s *shard) amplify() {
	a := &s.orders.amount
	s.opening.Copies = a.of(&s.tuple)
	if s.opening.Copies > 1 {
		s.opening.Jitter = a.jitter
	}
}

// copied takes in what became of the lane's copies so far.
func (s *shard) copied(body []byte) bool {
	c, ok := frame.ParseCopies(body)
	if ok {
		s.book.Copies.Report(&c, &s.copies)
		s.copies = c
	}
	return ok
}
