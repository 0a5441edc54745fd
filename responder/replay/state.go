// Package replay gives every flow a [Session]: the client's end of one TCP
// connection to the target, driven by what the client did and by what the target
// answers. It decides when bytes may leave (the gate, see gate.go) and how the
// connection ends, and it keeps the account of every byte.
//
// All sessions of a shard live on one goroutine. Nothing here blocks, starts a
// goroutine, reads a clock or knows of a network: time comes in with every call,
// the connection is the small interface [Conn], timers are one heap per [Shard].
package replay

// state is what a session is doing. It changes in one place, transition:
//
//	┌─────────▶ Connecting ──────── failed ────────────────┐
//	│              │ connected                             │
//	│              ▼            held                       │
//	│┌────────▶ Sending ──────────────▶ Holding            │
//	││ data,       │  ▲                    │               │
//	││ writable    │  └───── released ─────┘               │
//	│└─────────────┤                                       │
//	│              │   target FIN (also from Holding)      │
//	│      FIN due ├────────────────────────┐              │
//	│              ▼                        ▼              │
//	│           Ending                 TargetClosed        │
//	│              │ target FIN             │ FIN due, or  │
//	│              │                        │ a new turn,  │
//	│              ▼                        ▼ or linger    │
//	│           LastAck ◀───────────────────┘              │
//	│ data, turn   │ finished                              │
//	│ due          ▼                                       │
//	│          Discarding ◀── failed, overrun, reset due, ─┘
//	│              │          linger, cut: from any of them
//	│              │ the client's end
//	│              ▼
//	│            Over ◀──────────┐ the client's end, cut
//	│                            │
//	└───────────────────────── Parted ◀── lost: from Connecting, Sending,
//	                                      Holding, TargetClosed, LastAck
//
// Lost is what failed and finished are called where the client goes on and another
// connection may be made (reconnect.go).
type state uint8

const (
	// connecting: the SYN is out; what the client sends is queued.
	connecting state = iota
	// sending: what the client sends goes to the target while there is room.
	sending
	// holding: the next turn, or the client's end, waits for the target's answer.
	holding
	// ending: our FIN is out, the target may still answer.
	ending
	// targetClosed: the target's FIN came first; the rest of the turn under way
	// still goes out, a new one cannot.
	targetClosed
	// lastAck: FIN both ways, ours is not acknowledged yet.
	lastAck
	// parted: the connection is over but the client is not, and its next turn goes to
	// another one.
	parted
	// discarding: the connection is over but the client is not: what it still sends
	// is counted as dropped.
	discarding
	// over: the account is written; nothing happens any more.
	over

	states = iota
)

// String returns the state's name in the drawing.
func (s state) String() string {
	return [...]string{
		"Connecting", "Sending", "Holding", "Ending", "TargetClosed", "LastAck", "Parted", "Discarding", "Over",
	}[s]
}

// event is what a session reacts to.
type event uint8

const (
	evNone event = iota

	// News of the connection.
	evConnected // the handshake is done
	evFailed    // refused, timed out, or reset by the target
	evAnswered  // bytes of the target were absorbed
	evWritable  // there may be room again
	evTargetFin // the target closed its side, all before it is absorbed
	evFinished  // both FINs are acknowledged
	evLost      // failed or finished, and there may be another

	// Frames of the flow.
	evData  // client bytes came
	evEnd   // the client closed its side, or the copier gave the flow up
	evReset // the client reset the connection

	// What an action found.
	evHeld     // the next thing to write must wait for an answer
	evReleased // it need not wait any longer
	evFinDue   // all is written, and the client's FIN is next
	evResetDue // all is written, and the client's reset is next
	evTurnDue  // there is a turn for the next connection

	evTick    // the session's deadline has passed
	evOverrun // there is no memory for the client's bytes
	evCut     // the session must end now

	events = iota
)

// String returns the event's name in the drawing.
func (e event) String() string {
	return [...]string{
		"none", "connected", "failed", "answered", "writable", "target FIN", "finished", "lost", "data", "end",
		"reset", "held", "released", "FIN due", "reset due", "turn due", "tick", "overrun", "cut",
	}[e]
}

// action is what a session does on a transition.
type action uint8

const (
	none    action = iota
	pump           // write, releasing turns as the gate allows
	rest           // write what has been released, no new turn
	hold           // note when the wait began
	check          // ask the gate
	finish         // drop what cannot go out any more, send FIN
	abort          // send RST and let go of the connection
	part           // let go of the connection, and see what is left for another
	redial         // make another connection
	release        // let go of the connection
	account        // write the account
)

// transition is the whole protocol of a session. A pair that is not named leaves
// the state as it is and does nothing: late news, or news without consequence.
func transition(s state, e event) (state, action) {
	switch s {
	case connecting:
		return fromConnecting(e)
	case sending:
		return fromSending(e)
	case holding:
		return fromHolding(e)
	case ending:
		return fromEnding(e)
	case targetClosed:
		return fromTargetClosed(e)
	case lastAck:
		return fromLastAck(e)
	case parted:
		return fromParted(e)
	case discarding:
		if e == evEnd || e == evReset || e == evCut {
			return over, account
		}
	case over:
	}
	return s, none
}

func fromConnecting(e event) (state, action) {
	switch e {
	case evConnected:
		return sending, pump
	case evLost:
		return parted, part
	case evFailed:
		return discarding, release
	case evOverrun, evCut:
		return discarding, abort
	default:
		return connecting, none
	}
}

func fromSending(e event) (state, action) {
	switch e {
	case evData, evWritable, evEnd, evReset:
		return sending, pump
	case evHeld:
		return holding, hold
	case evTargetFin:
		return targetClosed, rest
	case evFinDue:
		return ending, finish
	case evLost:
		return parted, part
	case evFailed:
		return discarding, release
	case evResetDue, evTick, evOverrun, evCut:
		return discarding, abort
	default:
		return sending, none
	}
}

func fromHolding(e event) (state, action) {
	switch e {
	case evAnswered, evTick, evEnd, evReset:
		return holding, check
	case evReleased:
		return sending, pump
	case evTargetFin:
		return targetClosed, rest
	case evLost:
		return parted, part
	case evFailed:
		return discarding, release
	case evOverrun, evCut:
		return discarding, abort
	default:
		return holding, none
	}
}

func fromEnding(e event) (state, action) {
	switch e {
	case evTargetFin:
		return lastAck, none
	case evFinished, evFailed, evLost:
		return discarding, release
	case evReset, evTick, evOverrun, evCut:
		return discarding, abort
	default:
		return ending, none
	}
}

func fromTargetClosed(e event) (state, action) {
	switch e {
	case evData, evWritable, evEnd, evReset:
		return targetClosed, rest
	case evHeld, evFinDue, evTick:
		return lastAck, finish
	case evLost:
		return parted, part
	case evFailed:
		return discarding, release
	case evResetDue, evOverrun, evCut:
		return discarding, abort
	default:
		return targetClosed, none
	}
}

func fromLastAck(e event) (state, action) {
	switch e {
	case evLost:
		return parted, part
	case evFinished, evFailed:
		return discarding, release
	case evTick, evOverrun, evCut:
		return discarding, abort
	default:
		return lastAck, none
	}
}

func fromParted(e event) (state, action) {
	switch e {
	case evData, evTurnDue:
		return connecting, redial
	case evEnd, evReset, evCut:
		return over, account
	default:
		return parted, none
	}
}
