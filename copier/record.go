package copier

import (
	"flowtwin/copier/capture"
	"flowtwin/copier/report"
	"flowtwin/internal/flow"
	"flowtwin/internal/packet"
	"flowtwin/tunnel/frame"
)

// state is where a flow stands between its client and its session. A record is
// freed only when nothing is left to come for it: its slot is its number at the
// responder.
//
//	           SYN                handshake            FIN, all before it sent
//	free ─────────▶ synSeen ─────────────▶ copying ─────────────────▶ finSent
//	                   │ refused             │ │ FIN, a gap before it   ▲ │ account
//	                   ▼                     │ ▼                        │ ▼
//	                  free                   │ finHeld ────gap filled───┘ settled
//	                                         │
//	    copying, finHeld, finSent ──over online──▶ ended ──account──▶ free
//	    copying, finHeld, finSent ──given up────▶ givenUp ─account──▶ shunned
//	    copying, finHeld ──account──▶ shunned        │ over online      │ over
//	    settled ──over online──▶ free                ▼                  ▼
//	                                               ended               free
//
//	     first packet, no SYN             a turn begins
//	free ─────────────────────▶ observed ───────────────▶ copying
//	                               │ refused: over online, idle
//	                               ▼
//	                              free
//
//	    synSeen ──handshake, no session now──▶ waiting ──at a turn──▶ copying
//	    copying ──given up, can go on────────▶ waiting ──over online──▶ free
//
// A flow that waits has another slot than its session had, which is ended alone.
// When the tunnel breaks the responder's sessions are gone: ended flows become
// free, all others that had a session waiting, or shunned where that is of no use.
type state uint8

const (
	stateFree     state = iota
	stateSynSeen        // the client's SYN was captured; the responder knows nothing yet
	stateObserved       // it began before the copier; the responder knows nothing yet
	stateWaiting        // followed, without a session until it can get one
	stateCopying        // opened: what the client sends is sent on
	stateFinHeld        // the client's FIN was captured, bytes before it not yet
	stateFinSent        // all the client sent is sent on, its FIN too
	stateSettled        // the same, and the session's account is here
	stateEnded          // over online; the account is awaited
	stateGivenUp        // record.drop says why; the account is awaited
	stateShunned        // given up and settled: kept to know its packets by
)

// since returns seen as the session counts it.
func (r *record) since(seen uint64) uint64 { return uint64(max(int64(seen)-r.less, 0)) }

// open reports whether the flow's session gets what the client does.
func (s state) open() bool { return s >= stateCopying && s <= stateFinSent }

// follows reports whether the flow's packets still matter to what is copied.
func (s state) follows() bool { return s >= stateSynSeen && s <= stateSettled }

// followed reports whether what the client sends is put in order.
func (s state) followed() bool { return s >= stateWaiting && s <= stateFinSent }

// awaits reports whether an account of the responder is to come.
func (s state) awaits() bool { return s.open() || s == stateEnded || s == stateGivenUp }

// A record is what a shard knows of a flow. It holds no pointers.
type record struct {
	asm  flow.Assembler
	last int64 // shard.clock at its last packet; in synSeen at its client's last SYN
	from int64 // time of its first packet, or of the first one of its latest session
	sent report.Count

	// The server's side. seen is how many bytes of answers the client has
	// acknowledged, acked the sequence number that stands for; answered is how many
	// the server has sent, answerNxt the one behind them.
	seen, answered   uint64
	acked, answerNxt packet.Seq
	iss, irs         packet.Seq
	fin              packet.Seq // the client's FIN, in finHeld; in observed see midstream.go
	serverFin        packet.Seq // valid if the server has closed
	edge             packet.Seq // behind the server's window, if windowed
	rst              packet.Seq // of the client's reset, in guessReset; what the server has, in guessHole

	claim claim
	doubt int64 // shard.clock when the guess was made

	absorbed uint64 // of the target's answer, by the session's account

	got  packet.Seq // the server's latest ACK
	told uint64     // seen, of the client's latest bytes in order
	less int64      // what the session's target has answered less than the online server: counts from there
	pro  prologue
	cut  uint32 // its place in the shard's sieve, plus one; 0 none

	synAck int64 // time of the server's latest SYN-ACK, 0 none
	rtt    uint32
	iface  int32
	mss    uint16
	mapped uint16

	scale    uint8 // of the server's windows
	scaled   bool  // the client offered to scale windows
	heard    bool  // packets of the server are captured
	windowed bool  // edge is known
	blurred  bool  // see vague
	turn     bool  // in observed: an answer has come since the client's last bytes
	guess    guess

	// The chain of pending, observed, waiting, shunned or ended flows; slots plus one.
	prev, next uint32

	state state
	proto protocol
	born  bool // its first bytes are known

	within bool // its session began in the middle of the connection
	met    bool // by the session's account, the target closed it in order
	ran    bool // by the session's account, the target had bytes of it, and answered or ended it

	parting bool // in ended: in the chain of that name
	late    bool // in waiting: it never had a session
	ending  report.Ending
	drop    report.Reason // why it was given up, or None
	owed    frame.Type    // what the lane had no room for; 0 nothing
}

// A claim is a client's SYN, as far as it matters later. On the tuple of a flow
// that lives it may be forged or late: it takes the tuple over only when the
// server accepts it. What the client sends with it, and goes on with, is stored.
type claim struct {
	time   int64
	iss    packet.Seq
	iface  int32
	mss    uint16
	scaled bool
	made   bool

	asm   flow.Assembler // stands before the SYN, so that all is stored
	irs   packet.Seq     // of the server, if acked
	acked bool           // the client has acknowledged the server's SYN
}

func claimFrom(p *capture.Packet, v *packet.View) claim {
	o := v.SYNOptions()
	return claim{time: p.Time, iss: v.Seq, iface: p.Iface, mss: o.MSS, scaled: o.Scaled, made: true}
}

// defended reports whether a SYN with another number does not end the flow.
func (r *record) defended() bool {
	return r.state.followed() || r.state == stateObserved || r.state == stateSynSeen && r.synAck != 0
}

// guess is an end of the flow that is likely, and waits to be confirmed.
type guess uint8

const (
	guessNone  guess = iota
	guessFin         // the server acknowledged one byte that was not captured: a FIN, most likely
	guessReset       // a reset was captured ahead of what was before it
	guessHole        // the server, which is elsewhere, acknowledged bytes that were not captured
)

// maxWindow is the largest window that a server can offer (RFC 7323, 2.3): what
// is further away is not of this connection. windowSlack is how far outside the
// window that the server did offer something may lie, as far as captured; windows
// grow, and a packet that says so may have been missed.
const (
	maxWindow   = 1 << 30
	windowSlack = 1 << 20
	maxScale    = 14
)

// offer takes over the window that the server offers.
func (r *record) offer(v *packet.View) {
	if v.Flags&packet.ACK == 0 || !r.windowed {
		return
	}
	if edge := v.Ack.Add(int(v.Window) << r.scale); edge.After(r.edge) {
		r.edge = edge
	}
}

// beyond reports whether seq is ahead of what the client may send.
func (r *record) beyond(seq packet.Seq) bool {
	d := seq.Diff(r.asm.Next())
	return d > maxWindow || d > 0 && r.windowed && seq.Diff(r.edge) > windowSlack
}
