package report

import (
	"fmt"
	"strings"

	"flowtwin/tunnel/frame"
)

// Names of losses that are neither a Reason nor how a session ended.
const (
	lossReconnect   = "target_reconnect"
	lossSessionOver = "session_was_over"
	lossTunnel      = "tunnel_lost_fate_unknown"
	lossAccount     = "account_missing"
)

// Meaning says in a few words why something was not copied for r.
func (r Reason) Meaning() string {
	switch r {
	case None:
	case Midstream:
		return "began before the copier, or came before a request to begin with"
	case NeverEstablished:
		return "no handshake with the online server: nothing to copy"
	case TableFull:
		return "as many connections as the table holds"
	case TunnelDown:
		return "no tunnel to the responder"
	case Overload:
		return "the network or the target was too slow: the queue was full"
	case Draining:
		return "the copier was about to end"
	case CaptureHole:
		return "bytes before these were not captured"
	case Truncated:
		return "captured shorter than sent"
	case ReorderFull:
		return "no room for segments that came early"
	case Idle:
		return "nothing was captured of the connection for long"
	case Replaced:
		return "the client's next connection had the same port"
	case TunnelLost:
		return "the connection to the responder broke"
	case SessionOver:
		return "the connection to the target had ended before: see sessions"
	case Outside:
		return "far from the connection's other bytes, or without an ACK"
	case AfterEnd:
		return "came behind the client's end or reset"
	case SampledOut:
		return "not in the sample, or another target's"
	case HTTPUnselected:
		return "not selected by the rules for HTTP"
	case HTTPUnparsed:
		return "no HTTP/1"
	case HTTPHeads:
		return "no room to hold the beginnings of requests"
	case Paused:
		return "somebody had paused the copier"
	case MapRemoved:
		return "somebody had removed the map"
	}
	return ""
}

// howMeaning says in a few words what index i of arrays by CloseHow stands for.
func howMeaning(i int) string {
	switch frame.CloseHow(i) {
	case 0:
		return "the responder is of a later version"
	case frame.ClosedBoth:
		return "by both, the client first"
	case frame.ClosedTargetFirst:
		return "by both, the target first"
	case frame.ClosedClientReset:
		return "the client reset"
	case frame.ClosedTargetReset:
		return "the target reset"
	case frame.ClosedRefused:
		return "nobody listened there"
	case frame.ClosedTimeout:
		return "the target did not answer"
	case frame.ClosedNoTuple:
		return "no address and port was free for the client"
	case frame.ClosedBacklog:
		return "the target read too slowly: the responder's memory for it was full"
	case frame.ClosedAborted:
		return "the copier gave the connection up"
	case frame.ClosedDrain:
		return "the responder was shutting down"
	case frame.ClosedRejected:
		return "the responder was at --max-sessions"
	case frame.ClosedRate:
		return "the rate was reached"
	case frame.ClosedPaused:
		return "somebody had paused or stopped the responder"
	}
	return ""
}

// lossName returns the name of what is lost when a session ends in the way of index i.
func lossName(i int) string { return "target_" + strings.TrimPrefix(howName(i), "target_") }

// Failures formats how many sessions ended in which way, under the names of losses.
func Failures(closed *[NumHows]uint64) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s, %s %s", lossName(int(frame.ClosedTimeout)), thousands(closed[frame.ClosedTimeout]),
		lossName(int(frame.ClosedRefused)), thousands(closed[frame.ClosedRefused]))
	for i, n := range closed {
		if h := frame.CloseHow(i); n > 0 && h != frame.ClosedTimeout && h != frame.ClosedRefused {
			fmt.Fprintf(&b, ", %s %s", lossName(i), thousands(n))
		}
	}
	return b.String()
}
