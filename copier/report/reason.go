package report

import (
	"fmt"

	"flowtwin/tunnel/frame"
)

// Reason says why a flow, or bytes that a client sent, were not copied.
type Reason uint8

// Why something was not copied.
const (
	None             Reason = iota // nothing was lost
	Midstream                      // the flow had begun before it could be followed
	NeverEstablished               // no handshake: nothing to copy
	TableFull                      // as many flows as the table holds
	TunnelDown                     // no connection to the responder when the flow began
	Overload                       // the lane's queue was (half) full: the network or the target was too slow
	Draining                       // the copier was shutting down
	CaptureHole                    // bytes before these were not captured and will not come
	Truncated                      // captured shorter than its headers claim
	ReorderFull                    // the store for segments that came early was full
	Idle                           // nothing was captured of the flow for the idle timeout
	Replaced                       // its client began another connection on the same tuple
	TunnelLost                     // the connection to the responder broke
	SessionOver                    // its session with the target had ended before
	Outside                        // farther from the flow's other bytes than any window, or without an ACK
	AfterEnd                       // came after its client had closed or reset
	SampledOut                     // --sample has not chosen it
	HTTPUnselected                 // the rules for HTTP do not select it, or nothing of the flow
	HTTPUnparsed                   // no HTTP/1, where only that is copied
	HTTPHeads                      // no room to hold the beginnings of requests
	Paused                         // somebody has paused the copier
	MapRemoved                     // somebody has removed its map
	NumReasons       = iota
)

// String returns the reason as a metric label.
func (r Reason) String() string {
	switch r {
	case None:
		return "none"
	case Midstream:
		return "midstream"
	case NeverEstablished:
		return "never_established"
	case TableFull:
		return "table_full"
	case TunnelDown:
		return "tunnel_down"
	case Overload:
		return "overload"
	case Draining:
		return "draining"
	case CaptureHole:
		return "capture_hole"
	case Truncated:
		return "truncated"
	case ReorderFull:
		return "reorder_full"
	case Idle:
		return "idle"
	case Replaced:
		return "replaced"
	case TunnelLost:
		return "tunnel_lost"
	case SessionOver:
		return "session_over"
	case Outside:
		return "outside"
	case AfterEnd:
		return "after_end"
	case SampledOut:
		return "sampled_out"
	case HTTPUnselected:
		return "http_unselected"
	case HTTPUnparsed:
		return "http_unparsed"
	case HTTPHeads:
		return "http_heads"
	case Paused:
		return "paused"
	case MapRemoved:
		return "map_removed"
	}
	return fmt.Sprintf("reason_%d", uint8(r))
}

// Ending says how a client's connection ended online.
type Ending uint8

// How connections end online. The first three are not ends yet.
const (
	Alive       Ending = iota
	ClientHalf         // the client has closed its side, the server not
	ServerHalf         // the server has closed its side, the client not
	ClientFirst        // both closed, the client first
	ServerFirst        // both closed, the server first
	ClientReset
	ServerReset
	RecordingOver // the recording ended first
	NumEndings    = iota
)

// String returns the ending as a metric label.
func (e Ending) String() string {
	switch e {
	case Alive:
		return "alive"
	case ClientHalf:
		return "client_half"
	case ServerHalf:
		return "server_half"
	case ClientFirst:
		return "client_first"
	case ServerFirst:
		return "server_first"
	case ClientReset:
		return "client_reset"
	case ServerReset:
		return "server_reset"
	case RecordingOver:
		return "recording_over"
	}
	return fmt.Sprintf("ending_%d", uint8(e))
}

// Over reports whether the connection is over.
func (e Ending) Over() bool { return e >= ClientFirst }

// ClientClosed returns what e becomes when the client closes its side.
func (e Ending) ClientClosed() Ending {
	switch e {
	case Alive:
		return ClientHalf
	case ServerHalf:
		return ServerFirst
	default:
		return e
	}
}

// ServerClosed returns what e becomes when the server closes its side.
func (e Ending) ServerClosed() Ending {
	switch e {
	case Alive:
		return ServerHalf
	case ClientHalf:
		return ClientFirst
	default:
		return e
	}
}

// NumHows is the number of ways in which a session ends, and one (0) for those
// that this version does not know.
const NumHows = frame.NumCloseHow

// how returns the index of h in arrays by CloseHow.
func how(h frame.CloseHow) int {
	if int(h) < NumHows {
		return int(h)
	}
	return 0
}
