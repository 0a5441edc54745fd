package report

import (
	"fmt"

	"flowtwin/tunnel/frame"
)

// An Ends is how many connections have ended in which way. The target's ought to
// be as the online server's, but for one: a reset of the online server's is played
// as the client's.
type Ends struct {
	ClientFirst uint64 `json:"client_first"`
	ServerFirst uint64 `json:"server_first"`
	ClientReset uint64 `json:"client_reset"`
	ServerReset uint64 `json:"server_reset"`
	Other       uint64 `json:"other"` // idle, given up, refused, lost: no end, or none of the connection's own
}

// EndedThere reports whether a session that ended so had the time to be answered: it
// was the target that ended it, or fell silent. Those that were cut by their client
// or by us had not.
func EndedThere(h frame.CloseHow) bool {
	switch h {
	case frame.ClosedBoth, frame.ClosedTargetFirst, frame.ClosedTargetReset, frame.ClosedRefused, frame.ClosedTimeout:
		return true
	default:
		return false
	}
}

// Ends returns how the flows ended online, and how their sessions did.
func (l *Ledger) Ends() (online, target Ends) {
	e, c := &l.Flows.Ended, &l.Sessions.Closed
	online = Ends{e[ClientFirst], e[ServerFirst], e[ClientReset], e[ServerReset], total(l.Flows.GivenUp[:])}
	target = Ends{
		c[frame.ClosedBoth], c[frame.ClosedTargetFirst], c[frame.ClosedClientReset], c[frame.ClosedTargetReset],
		total(c[:]) + l.Sessions.Lost + l.Sessions.AccountMissing,
	}
	target.Other -= target.ClientFirst + target.ServerFirst + target.ClientReset + target.ServerReset
	return online, target
}

// ends prints both side by side.
func (l *Ledger) ends(p *page) {
	online, target := l.Ends()
	if online == (Ends{}) && target == (Ends{}) {
		return
	}
	p.b = fmt.Appendf(p.b, "%-36s %16s  %s\n", "ends", "online", "at the target")
	row := func(label string, online, target uint64, note string) {
		if online+target > 0 {
			p.line("  "+label, thousands(online), thousands(target)+note)
		}
	}
	row("the client closed first", online.ClientFirst, target.ClientFirst, "")
	row("the server closed first", online.ServerFirst, target.ServerFirst, "")
	row("the client reset", online.ClientReset, target.ClientReset, "")
	row("the server reset", online.ServerReset, target.ServerReset, ", played as the client's if it had not closed")
	row("otherwise", online.Other, target.Other, ", idle, refused, timed out or given up: see above")
}
