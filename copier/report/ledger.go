// Package report keeps the copier's books: where every captured packet, flow,
// segment and byte went. Its [Ledger] is what a shard counts in, what is added
// up over shards, what [Ledger.Check] proves to add up, and what is printed as
// text and JSON.
//
// A Ledger holds no pointers and no lock. Counting is a plain addition by the
// shard that owns it; others see copies.
package report

import "flowtwin/tunnel/frame"

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
	Declined uint64 // of those never established: the online server answered the SYN with a reset

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
	TunnelLost Count // the connection broke before the account came: their fate is unknown
	InFlight   Count // no account yet

	// Arrived is bytes of sessions whose account did not come, delivered by the
	// responder's last word. It does not tell segments: those stay where the account
	// is missed.
	Arrived uint64

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
	Same           uint64 // connections closed by both sides online whose answers were as long there as from the target
	Different      uint64 // or not
	Answered       uint64 // connections that were answered online and reached the target, and got any byte from it
	Unanswered     uint64 // or none at all until the target had ended them, or it had had 4 s
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
	lost := l.unaccounted(sent)
	l.Sent.InFlight.Minus(sent)
	l.Sent.TunnelLost.Plus(lost)
}

// Broke says that all sessions have been lost with the connection: no account comes
// for what Moved has told of them.
func (l *Ledger) Broke() { l.early = 0 }

// unaccounted takes out of sent what the target is known to have. Accounts come
// before the Moved frames of the same bytes, so that what is told beyond accounts
// has been acknowledged by the target, whatever became of the rest.
func (l *Ledger) unaccounted(sent Count) Count {
	known := min(l.told(), sent.Bytes)
	l.early -= int64(known)
	l.Sent.Arrived += known
	sent.Bytes -= known
	return sent
}

// told returns how many bytes in flight the target is known to have.
func (l *Ledger) told() uint64 { return min(uint64(max(l.early, 0)), l.Sent.InFlight.Bytes) }

// UnderWay returns how many bytes that were sent nothing is known of yet.
func (l *Ledger) UnderWay() uint64 { return l.Sent.InFlight.Bytes - l.told() }

// Close names what no account will come for any more: the copier ends.
func (l *Ledger) Close() {
	l.Sent.AccountMissing.Plus(l.unaccounted(l.Sent.InFlight))
	l.Sent.InFlight = Count{}
	l.Sessions.AccountMissing += l.Sessions.Open
	l.Sessions.Open = 0
	l.Copies.close()
}
