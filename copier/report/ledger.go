// Package report keeps the copier's books: where every captured packet, flow,
// segment and byte went. Its [Ledger] is what a shard counts in, what is added
// up over shards, what [Ledger.Check] proves to add up, and what is printed as
// text and JSON.
//
// A Ledger holds no pointers and no lock. Counting is a plain addition by the
// shard that owns it; others see copies.
package report

import (
	"fmt"

	"flowtwin/tunnel/frame"
)

// A Count is a number of segments and of the bytes in them.
type Count struct {
	Segments uint64 `json:"segments"`
	Bytes    uint64 `json:"bytes"`
}

// Add counts one segment of n bytes.
func (c *Count) Add(n int) {
	c.Segments++
	c.Bytes += uint64(n)
}

// Plus adds o to c.
func (c *Count) Plus(o Count) {
	c.Segments += o.Segments
	c.Bytes += o.Bytes
}

// Minus takes o from c.
func (c *Count) Minus(o Count) {
	c.Segments -= o.Segments
	c.Bytes -= o.Bytes
}

// Packets says what became of each captured packet.
type Packets struct {
	Captured uint64 // handed over by the rings

	ToServer uint64 // of followed flows
	ToClient uint64
	Refused  uint64 // of flows that were refused, both ways
	Late     uint64 // of flows that had ended before
	NoFlow   uint64 // without data, of connections that were not seen to begin
	Unmapped uint64 // to or from an address that no map names

	NotTCP    uint64
	Fragment  uint64
	Truncated uint64 // shorter than their own headers
	Malformed uint64

	BadChecksum uint64 // to the server, whose kernel drops them too

	Injected uint64 // thrown away on purpose, as if they had not been captured: for tests
}

// Flows says what became of each client connection.
type Flows struct {
	Seen     uint64
	Pending  uint64 // in their handshake now
	Observed uint64 // began before the copier, and wait for a turn to be adopted at
	Admitted uint64
	Adopted  uint64 // admitted ones that began before the copier
	Waiting  uint64 // cannot have a session now: the tunnel is down, or has no room
	Late     uint64 // admitted ones that had to wait for it
	Refused  [NumReasons]uint64

	Live    uint64             // admitted ones that are followed now
	Ended   [NumEndings]uint64 // followed to their end, by how they ended online
	GivenUp [NumReasons]uint64 // admitted, but not followed to their end

	Suspended    uint64             // given up, and wait for a turn to go on at with another session
	Resumed      [NumReasons]uint64 // sessions that were opened for these, by why they had been given up
	Hurried      uint64             // sessions that had to end since the table was full of such whose flows were over
	PrologueFull uint64             // flows whose first bytes were not kept: no room
}

// Client says what became of each segment with data that clients sent. A segment
// is what one captured packet carried; of one that is only partly new, the known
// bytes count as retransmitted and the segment as what became of the rest.
type Client struct {
	Captured      Count
	Sent          Count // given to the tunnel
	Prologue      Count // given to the tunnel beside that: beginnings of connections, for sessions that begin late
	Retransmitted Count // known already
	Duplicate     Count // known already, and captured on another interface than the flow's first packet
	Stored        Count // came early and wait for what is before them
	Dropped       [NumReasons]Count
	Rewritten     Rewritten
	Conflicts     uint64 // segments sent again with other bytes; the first ones were copied
	Urgent        uint64 // segments of followed flows with urgent data, which is copied as ordinary bytes
	Missing       uint64 // bytes known to have been sent and never captured, as far as flows given up for it tell
	Injected      Count  // thrown away on purpose, for tests: see Packets.Injected
}

// Rewritten says by how much rewriting requests of HTTP made what was sent differ from
// what was captured. Segments of which a head came in several, or that became
// several, count too.
type Rewritten struct {
	Added   Count `json:"added"`
	Removed Count `json:"removed"`
}

// HTTP counts requests, where they are selected.
type HTTP struct {
	Selected uint64 `json:"selected"`
	LeftOut  uint64 `json:"left_out"`
	Unparsed uint64 `json:"unparsed_flows"` // flows that were, or became, no HTTP/1
}

// Sent says what became of each segment given to the tunnel, by the responder's
// accounts.
type Sent struct {
	Delivered  Count // acknowledged by the target's kernel
	Dropped    [NumHows]Count
	Gap        Count // the target had closed the connection, and another one came too late for it
	AfterClose Count // reached a session that had ended
	TunnelLost Count // the connection broke before the account came
	InFlight   Count // no account yet

	AccountMissing Count // the copier ended before the account came
}

// Sessions says what became of the flows' sessions at the target.
type Sessions struct {
	Opened      uint64
	Established uint64
	Open        uint64 // no account yet
	Closed      [NumHows]uint64
	Lost        uint64 // the connection broke before the account came

	Reconnects uint64 // connections to the target after the first: it had closed, the client had not
	Resent     uint64 // turns written to two of them, and counted once

	AccountMissing uint64 // the copier ended before the account came
}

// Answers compares what the online server answered with what the target did.
type Answers struct {
	Online         Count  // from the headers of captured packets, each byte once
	Target         Count  // from returned headers, retransmissions included
	Absorbed       uint64 // bytes that sessions have read, by their accounts
	Same           uint64 // connections closed by both sides whose answers were as long online as from the target
	Different      uint64 // or not
	Turns          uint64
	HeldMax        uint64 // turns released by --max-hold
	HeadersDropped uint64 // by responder, when the way back was full
	Headers        uint64 // returned
}

// A Ledger is all counters of a shard, or of several.
type Ledger struct {
	Packets  Packets
	Flows    Flows
	Client   Client
	Sent     Sent
	Sessions Sessions
	Copies   Copies
	Answers  Answers
	HTTP     HTTP
	Lag      Lag

	// Packets of followed flows, with --record.
	Recorded      uint64
	RecordDropped uint64 // the disk was too slow
	RecordLeft    uint64 // recorded of another target

	// Of a recording that is replayed.
	Moved    Count  // of what was sent: done with at the responder, as far as it has said so; what came behind a session's end is not in it
	Schedule Lag    // how late packets to the server were handed over
	Stuck    uint64 // times that it went on though the target moved nothing

	BadReturns uint64 // frames from the responder that make no sense here

	// early is what Moved says of sessions that have no account yet, as good as
	// delivered: a status shows it, no sum contains it. It may be short of, or beyond
	// the truth for as long as a Moved frame and an account are on their way.
	early int64
}

// Progress counts what the responder says it is done with.
func (l *Ledger) Progress(m *frame.Moved) {
	l.Moved.Plus(Count{m.Segments, m.Bytes})
	l.early += int64(m.Bytes)
}

// Open counts a session that is opened.
func (l *Ledger) Open() {
	l.Flows.Pending--
	l.Flows.Admitted++
	l.opened()
}

// Adopt counts a session that is opened for a flow that was observed.
func (l *Ledger) Adopt() {
	l.Flows.Observed--
	l.Flows.Adopted++
	l.Flows.Admitted++
	l.opened()
}

// opened counts a session.
func (l *Ledger) opened() {
	l.Flows.Live++
	l.Sessions.Opened++
	l.Sessions.Open++
}

// Park counts a flow that cannot have a session when its handshake is done.
func (l *Ledger) Park() {
	l.Flows.Pending--
	l.Flows.Waiting++
}

// ParkObserved counts an observed flow that is followed without a session.
func (l *Ledger) ParkObserved() {
	l.Flows.Observed--
	l.Flows.Waiting++
}

// OpenSelected counts the session of a flow that was parked until a request of it
// was selected.
func (l *Ledger) OpenSelected(adopted bool) {
	l.Flows.Waiting--
	if adopted {
		l.Flows.Adopted++
	}
	l.Flows.Admitted++
	l.opened()
}

// OpenLate counts the session of a flow that was parked.
func (l *Ledger) OpenLate() {
	l.Flows.Waiting--
	l.Flows.Late++
	l.Flows.Admitted++
	l.opened()
}

// Suspend counts a flow that is given up and goes on with another session, later.
func (l *Ledger) Suspend(why Reason) {
	l.Flows.Live--
	l.Flows.GivenUp[why]++
	l.Flows.Suspended++
}

// Resume counts the session of a flow that was suspended.
func (l *Ledger) Resume(why Reason) {
	l.Flows.Suspended--
	l.Flows.Resumed[why]++
	l.opened()
}

// Settle enters a session's account. sent is what the flow has sent in all.
func (l *Ledger) Settle(c *frame.Closed, sent Count) {
	h := how(c.How)
	delivered := Count{c.DeliveredSegments, c.DeliveredBytes}
	dropped, gap := Count{c.DroppedSegments, c.DroppedBytes}, Count{c.GapSegments, c.GapBytes}
	l.Sessions.Open--
	l.Sessions.Closed[h]++
	l.early -= int64(delivered.Bytes + dropped.Bytes)
	l.Sent.InFlight.Minus(sent)
	l.Sent.Delivered.Plus(delivered)
	l.Sent.Dropped[h].Plus(dropped)
	l.Sent.Dropped[h].Minus(gap)
	l.Sent.Gap.Plus(gap)
	l.Sessions.Reconnects += c.Reconnects
	l.Sessions.Resent += c.Resent
	// What the session never saw was on its way when it ended. An account of more
	// than was sent is a bug, which Check is to find.
	if left := sent; left.Bytes >= delivered.Bytes+dropped.Bytes && left.Segments >= delivered.Segments+dropped.Segments {
		left.Minus(delivered)
		left.Minus(dropped)
		l.Sent.AfterClose.Plus(left)
	}
	l.Answers.Absorbed += c.AnswerBytes
	l.Answers.Turns += c.Turns
	l.Answers.HeldMax += c.HeldMax
	l.Answers.HeadersDropped += c.HeadersDropped
}

// Lose enters a session whose connection broke before its account came.
func (l *Ledger) Lose(sent Count) {
	l.Sessions.Open--
	l.Sessions.Lost++
	l.early = 0 // sessions are lost with their lane, all of them
	l.Sent.InFlight.Minus(sent)
	l.Sent.TunnelLost.Plus(sent)
}

// Close names what no account will come for any more: the copier ends.
func (l *Ledger) Close() {
	l.Sent.AccountMissing.Plus(l.Sent.InFlight)
	l.Sent.InFlight = Count{}
	l.Sessions.AccountMissing += l.Sessions.Open
	l.Sessions.Open = 0
	l.Copies.close()
}

// Add adds o to l.
func (l *Ledger) Add(o *Ledger) {
	l.Packets.add(&o.Packets)
	l.Flows.add(&o.Flows)
	l.Client.add(&o.Client)
	l.Sent.add(&o.Sent)
	l.Sessions.add(&o.Sessions)
	l.Copies.add(&o.Copies)
	l.Answers.add(&o.Answers)
	l.HTTP.Selected += o.HTTP.Selected
	l.HTTP.LeftOut += o.HTTP.LeftOut
	l.HTTP.Unparsed += o.HTTP.Unparsed
	l.Lag.add(&o.Lag)
	l.Recorded += o.Recorded
	l.RecordDropped += o.RecordDropped
	l.RecordLeft += o.RecordLeft
	l.Moved.Plus(o.Moved)
	l.early += o.early
	l.Schedule.add(&o.Schedule)
	l.Stuck += o.Stuck
	l.BadReturns += o.BadReturns
}

func (p *Packets) add(o *Packets) {
	p.Captured += o.Captured
	p.ToServer += o.ToServer
	p.ToClient += o.ToClient
	p.Refused += o.Refused
	p.Late += o.Late
	p.NoFlow += o.NoFlow
	p.Unmapped += o.Unmapped
	p.NotTCP += o.NotTCP
	p.Fragment += o.Fragment
	p.Truncated += o.Truncated
	p.Malformed += o.Malformed
	p.BadChecksum += o.BadChecksum
	p.Injected += o.Injected
}

func (f *Flows) add(o *Flows) {
	f.Seen += o.Seen
	f.Pending += o.Pending
	f.Observed += o.Observed
	f.Admitted += o.Admitted
	f.Adopted += o.Adopted
	f.Live += o.Live
	f.Waiting += o.Waiting
	f.Late += o.Late
	f.Suspended += o.Suspended
	f.PrologueFull += o.PrologueFull
	f.Hurried += o.Hurried
	for i := range f.Refused {
		f.Resumed[i] += o.Resumed[i]
		f.Refused[i] += o.Refused[i]
		f.GivenUp[i] += o.GivenUp[i]
	}
	for i := range f.Ended {
		f.Ended[i] += o.Ended[i]
	}
}

func (c *Client) add(o *Client) {
	c.Captured.Plus(o.Captured)
	c.Sent.Plus(o.Sent)
	c.Prologue.Plus(o.Prologue)
	c.Injected.Plus(o.Injected)
	c.Retransmitted.Plus(o.Retransmitted)
	c.Duplicate.Plus(o.Duplicate)
	c.Stored.Plus(o.Stored)
	c.Rewritten.Added.Plus(o.Rewritten.Added)
	c.Rewritten.Removed.Plus(o.Rewritten.Removed)
	for i := range c.Dropped {
		c.Dropped[i].Plus(o.Dropped[i])
	}
	c.Conflicts += o.Conflicts
	c.Urgent += o.Urgent
	c.Missing += o.Missing
}

func (s *Sent) add(o *Sent) {
	s.Delivered.Plus(o.Delivered)
	for i := range s.Dropped {
		s.Dropped[i].Plus(o.Dropped[i])
	}
	s.Gap.Plus(o.Gap)
	s.AfterClose.Plus(o.AfterClose)
	s.TunnelLost.Plus(o.TunnelLost)
	s.InFlight.Plus(o.InFlight)
	s.AccountMissing.Plus(o.AccountMissing)
}

func (s *Sessions) add(o *Sessions) {
	s.Opened += o.Opened
	s.Established += o.Established
	s.Open += o.Open
	for i := range s.Closed {
		s.Closed[i] += o.Closed[i]
	}
	s.Lost += o.Lost
	s.Reconnects += o.Reconnects
	s.Resent += o.Resent
	s.AccountMissing += o.AccountMissing
}

func (a *Answers) add(o *Answers) {
	a.Online.Plus(o.Online)
	a.Target.Plus(o.Target)
	a.Absorbed += o.Absorbed
	a.Same += o.Same
	a.Different += o.Different
	a.Turns += o.Turns
	a.HeldMax += o.HeldMax
	a.HeadersDropped += o.HeadersDropped
	a.Headers += o.Headers
}

// Check returns each sum that does not add up, in words; nothing when the books
// balance.
func (l *Ledger) Check() []string {
	var wrong []string
	same := func(what string, got, want uint64) {
		if got != want {
			wrong = append(wrong, fmt.Sprintf("%s: %d, but their parts add up to %d", what, got, want))
		}
	}
	counts := func(what string, got, want Count) {
		same(what+" (segments)", got.Segments, want.Segments)
		same(what+" (bytes)", got.Bytes, want.Bytes)
	}
	p, f, c, s := &l.Packets, &l.Flows, &l.Client, &l.Sessions
	same("packets captured", p.Captured, p.ToServer+p.ToClient+p.Refused+p.Late+p.NoFlow+p.Unmapped+
		p.NotTCP+p.Fragment+p.Truncated+p.Malformed+p.BadChecksum+p.Injected)
	if n := l.Recorded + l.RecordDropped + l.RecordLeft; n > 0 {
		same("packets of followed flows", p.ToServer+p.ToClient, n)
	}
	same("flows seen", f.Seen, f.Pending+f.Observed+f.Waiting+f.Admitted+total(f.Refused[:]))
	same("flows admitted, and resumed", f.Admitted+total(f.Resumed[:]), f.Live+total(f.Ended[:])+total(f.GivenUp[:]))

	parts := c.Sent
	parts.Plus(c.Retransmitted)
	parts.Plus(c.Duplicate)
	parts.Plus(c.Stored)
	parts.Plus(totalCount(c.Dropped[:]))
	parts.Plus(c.Rewritten.Removed)
	captured := c.Captured
	captured.Plus(c.Rewritten.Added)
	counts("captured of clients, and added", captured, parts)

	parts = l.Sent.Delivered
	parts.Plus(totalCount(l.Sent.Dropped[:]))
	parts.Plus(l.Sent.Gap)
	parts.Plus(l.Sent.AfterClose)
	parts.Plus(l.Sent.TunnelLost)
	parts.Plus(l.Sent.InFlight)
	parts.Plus(l.Sent.AccountMissing)
	sent := c.Sent
	sent.Plus(c.Prologue)
	counts("sent to the target", sent, parts)

	same("sessions opened", s.Opened, s.Open+s.Lost+s.AccountMissing+total(s.Closed[:]))
	same("sessions opened, one for each flow admitted or resumed", s.Opened, f.Admitted+total(f.Resumed[:]))
	l.Copies.check(same, counts)
	return wrong
}

func total(parts []uint64) (sum uint64) {
	for _, n := range parts {
		sum += n
	}
	return sum
}

func totalCount(parts []Count) (sum Count) {
	for _, n := range parts {
		sum.Plus(n)
	}
	return sum
}
