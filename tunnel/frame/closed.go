package frame

import "encoding/binary"

// CloseHow says how a session ended.
type CloseHow uint8

// How sessions end.
const (
	ClosedBoth        CloseHow = 1 + iota // FIN both ways, the client's first
	ClosedTargetFirst                     // FIN both ways, the target's first
	ClosedClientReset                     // the online client reset, so did we
	ClosedTargetReset                     // the target reset an established connection
	ClosedRefused                         // the target answered the SYN with a reset
	ClosedTimeout                         // the target never answered the SYN, or stopped answering
	ClosedNoTuple                         // no client address and port was free
	ClosedBacklog                         // the target read too slowly: the session's or shard's memory budget was full
	ClosedAborted                         // the copier gave the flow up
	ClosedDrain                           // responder or copier is shutting down
	ClosedRejected                        // the responder was at its session limit
	ClosedRate                            // the responder was at its rate of connections or bytes
	ClosedPaused                          // the responder was told to take no more sessions, or to end them all

	// NumCloseHow is one more than the largest of them.
	NumCloseHow = int(ClosedPaused) + 1
)

// String returns how as a metric label.
func (h CloseHow) String() string {
	switch h {
	case ClosedBoth:
		return "both"
	case ClosedTargetFirst:
		return "target_first"
	case ClosedClientReset:
		return "client_reset"
	case ClosedTargetReset:
		return "target_reset"
	case ClosedRefused:
		return "refused"
	case ClosedTimeout:
		return "timeout"
	case ClosedNoTuple:
		return "no_tuple"
	case ClosedBacklog:
		return "backlog"
	case ClosedAborted:
		return "aborted"
	case ClosedDrain:
		return "drain"
	case ClosedRejected:
		return "rejected"
	case ClosedRate:
		return "rate"
	case ClosedPaused:
		return "paused"
	}
	return "unknown"
}

// Closed is a session's account. SentBytes of the copier for this flow equal
// DeliveredBytes + DroppedBytes, and likewise for segments: a segment is one Data
// frame, delivered when all of its bytes are.
type Closed struct {
	How               CloseHow
	DeliveredBytes    uint64 // acknowledged by the target's kernel
	DroppedBytes      uint64 // received here, not delivered
	DeliveredSegments uint64
	DroppedSegments   uint64
	AnswerBytes       uint64 // absorbed
	Turns             uint64 // turns released
	HeldMax           uint64 // turns released by --max-hold
	HeadersReturned   uint64
	HeadersDropped    uint64 // returns were full
	Reconnects        uint64 // connections to the target after the first
	Resent            uint64 // turns that were written to two of them
	GapBytes          uint64 // of the dropped, lost between two of them
	GapSegments       uint64
}

// closedLen: how 1, thirteen counters of 8 in the order of [Closed].
const closedLen = 1 + 13*8

// AppendClosed appends a Closed frame.
func AppendClosed(b []byte, flow uint32, c *Closed) []byte {
	b = append(appendHeader(b, TypeClosed, flow, closedLen), byte(c.How))
	for _, v := range [...]uint64{
		c.DeliveredBytes, c.DroppedBytes, c.DeliveredSegments, c.DroppedSegments,
		c.AnswerBytes, c.Turns, c.HeldMax, c.HeadersReturned, c.HeadersDropped,
		c.Reconnects, c.Resent, c.GapBytes, c.GapSegments,
	} {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	return b
}

// ParseClosed reads the body of a Closed frame. Ways to end that this version
// does not know are passed on: they only end in a counter.
func ParseClosed(body []byte) (c Closed, ok bool) {
	if len(body) != closedLen {
		return Closed{}, false
	}
	c.How = CloseHow(body[0])
	for i, p := range [...]*uint64{
		&c.DeliveredBytes, &c.DroppedBytes, &c.DeliveredSegments, &c.DroppedSegments,
		&c.AnswerBytes, &c.Turns, &c.HeldMax, &c.HeadersReturned, &c.HeadersDropped,
		&c.Reconnects, &c.Resent, &c.GapBytes, &c.GapSegments,
	} {
		*p = binary.BigEndian.Uint64(body[1+8*i:])
	}
	return c, true
}
