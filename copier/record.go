package copier

import (
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
// When the tunnel breaks the responder's sessions are gone: ended flows become
// free, all others that had a session shunned.
type state uint8

const (
	stateFree    state = iota
	stateSynSeen       // the client's SYN was captured; the responder knows nothing yet
	stateCopying       // opened: what the client sends is sent on
	stateFinHeld       // the client's FIN was captured, bytes before it not yet
	stateFinSent       // all the client sent is sent on, its FIN too
	stateSettled       // the same, and the session's account is here
	stateEnded         // over online; the account is awaited
	stateGivenUp       // record.drop says why; the account is awaited
	stateShunned       // given up and settled: kept to know its packets by
)

// open reports whether the flow's session gets what the client does.
func (s state) open() bool { return s >= stateCopying && s <= stateFinSent }

// awaits reports whether an account of the responder is to come.
func (s state) awaits() bool { return s.open() || s == stateEnded || s == stateGivenUp }

// A record is what a shard knows of a flow. It holds no pointers.
type record struct {
	asm  flow.Assembler
	last int64 // time of its last packet
	syn  int64 // time of the first packet
	sent report.Count

	// The server's side. seen is how many bytes of answers the client has
	// acknowledged, acked the sequence number that stands for; answered is how many
	// the server has sent, answerNxt the one behind them.
	seen, answered   uint64
	acked, answerNxt packet.Seq
	iss, irs         packet.Seq
	fin              packet.Seq // the client's FIN, in finHeld
	serverFin        packet.Seq // valid if the server has closed

	absorbed uint64 // of the target's answer, by the session's account

	synAck int64 // time of the server's latest SYN-ACK, 0 none
	rtt    uint32
	iface  int32
	mss    uint16
	mapped uint16

	state  state
	ending report.Ending
	drop   report.Reason // why it was given up, or None
	owed   frame.Type    // what the lane had no room for; 0 nothing
}
