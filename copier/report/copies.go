package report

import (
	"fmt"

	"flowtwin/tunnel/frame"
)

// Copies is what became of the sessions that replay flows beside each flow's own
// one, by what the responder tells about once a second.
type Copies struct {
	Asked          uint64 // of the responder
	Open           uint64 // not known to have ended
	Closed         [NumHows]uint64
	Lost           uint64 // the connection to the responder broke before
	AccountMissing uint64 // the copier ended before
	Established    uint64
	Absorbed       uint64 // bytes of answers

	// A segment counts once for each copy that it was given to. Those of an open
	// copy are in flight.
	Given, Delivered, Dropped, InFlight, TunnelLost, Missing Count
}

// Ask counts the sessions that an Open asks for.
func (c *Copies) Ask(sessions uint16) {
	if sessions > 1 {
		c.Asked += uint64(sessions - 1)
		c.Open += uint64(sessions - 1)
	}
}

// Report enters what the responder tells of a connection's copies so far; before is
// what it told the last time.
func (c *Copies) Report(now, before *frame.Copies) {
	for h := range now.Closed {
		n := now.Closed[h] - before.Closed[h]
		c.Closed[how(frame.CloseHow(h))] += n
		c.Open -= n
	}
	c.Established += now.Established - before.Established
	c.Absorbed += now.AnswerBytes - before.AnswerBytes
	given := Count{now.GivenSegments - before.GivenSegments, now.GivenBytes - before.GivenBytes}
	delivered := Count{now.DeliveredSegments - before.DeliveredSegments, now.DeliveredBytes - before.DeliveredBytes}
	dropped := Count{now.DroppedSegments - before.DroppedSegments, now.DroppedBytes - before.DroppedBytes}
	c.Given.Plus(given)
	c.Delivered.Plus(delivered)
	c.Dropped.Plus(dropped)
	c.InFlight.Plus(given)
	c.InFlight.Minus(delivered)
	c.InFlight.Minus(dropped)
}

// Lose enters that the connection to the responder broke.
func (c *Copies) Lose() {
	c.Lost += c.Open
	c.TunnelLost.Plus(c.InFlight)
	c.Open, c.InFlight = 0, Count{}
}

// close names what nothing will be told of any more.
func (c *Copies) close() {
	c.AccountMissing += c.Open
	c.Missing.Plus(c.InFlight)
	c.Open, c.InFlight = 0, Count{}
}

func (c *Copies) add(o *Copies) {
	c.Asked += o.Asked
	c.Open += o.Open
	for i := range c.Closed {
		c.Closed[i] += o.Closed[i]
	}
	c.Lost += o.Lost
	c.AccountMissing += o.AccountMissing
	c.Established += o.Established
	c.Absorbed += o.Absorbed
	c.Given.Plus(o.Given)
	c.Delivered.Plus(o.Delivered)
	c.Dropped.Plus(o.Dropped)
	c.InFlight.Plus(o.InFlight)
	c.TunnelLost.Plus(o.TunnelLost)
	c.Missing.Plus(o.Missing)
}

// check tells same and counts the sums.
func (c *Copies) check(same func(what string, got, want uint64), counts func(what string, got, want Count)) {
	same("copies asked for", c.Asked, c.Open+c.Lost+c.AccountMissing+total(c.Closed[:]))
	parts := c.Delivered
	for _, p := range []Count{c.Dropped, c.InFlight, c.TunnelLost, c.Missing} {
		parts.Plus(p)
	}
	counts("given to copies", c.Given, parts)
}

// Factor returns how often each byte that was sent has been delivered on average,
// by what the accounts say that have come; 1 where everything is copied once.
func (l *Ledger) Factor() float64 {
	sent := l.Client.Sent.Bytes - l.Sent.InFlight.Bytes
	if sent == 0 {
		return 0
	}
	return float64(l.Sent.Delivered.Bytes+l.Sent.Arrived+l.Copies.Delivered.Bytes) / float64(sent)
}

// factor formats it, rounded down.
func (l *Ledger) factor() string {
	return fmt.Sprintf("%.2f x", float64(uint64(l.Factor()*100+1e-9))/100)
}

// copies adds the section, if there are any.
func (l *Ledger) copies(p *page) {
	c := &l.Copies
	if c.Asked == 0 {
		return
	}
	p.title("copies: further sessions of the same flows")
	p.line("amplified", l.factor(), "the requests' bytes, all sessions together")
	p.number("asked for", c.Asked, "")
	p.number("established", c.Established, "")
	for h, n := range c.Closed {
		p.some("  closed: "+howName(h), n, howMeaning(h))
	}
	p.some("  lost with the tunnel", c.Lost, "")
	p.some("  open", c.Open, "")
	p.some("  account_missing", c.AccountMissing, "the copier ended before it came")
	p.count("given", c.Given)
	p.count("  delivered to the target", c.Delivered)
	p.someCount("  dropped there", c.Dropped)
	p.someCount("  in flight", c.InFlight)
	p.someCount("  tunnel_lost, fate unknown", c.TunnelLost)
	p.someCount("  account_missing, fate unknown", c.Missing)
	p.line("answers absorbed", size(c.Absorbed), "")
}

type copiesJSON struct {
	Factor      float64           `json:"factor"`
	Asked       uint64            `json:"asked"`
	Established uint64            `json:"established"`
	Open        uint64            `json:"open"`
	Closed      map[string]uint64 `json:"closed"`
	Lost        uint64            `json:"lost"`
	Missing     uint64            `json:"account_missing"`
	Given       Count             `json:"given"`
	Delivered   Count             `json:"delivered"`
	Dropped     Count             `json:"dropped"`
	InFlight    Count             `json:"in_flight"`
	TunnelLost  Count             `json:"tunnel_lost"`
	Unaccounted Count             `json:"unaccounted"` // of those whose account is missing
	Absorbed    uint64            `json:"absorbed_bytes"`
}

// copiesJSON returns the section, nil without copies.
func (l *Ledger) copiesJSON() *copiesJSON {
	c := &l.Copies
	if c.Asked == 0 {
		return nil
	}
	return &copiesJSON{
		l.Factor(), c.Asked, c.Established, c.Open, named(c.Closed[:], howName), c.Lost, c.AccountMissing,
		c.Given, c.Delivered, c.Dropped, c.InFlight, c.TunnelLost, c.Missing, c.Absorbed,
	}
}
