package frame

// AbortReason says why the copier gave a flow up.
type AbortReason uint8

// Why the copier gives a flow up.
const (
	AbortCaptureHole AbortReason = 1 + iota // bytes are missing and will not come
	AbortIdle                               // nothing was captured for the idle timeout
	AbortReplaced                           // a new SYN on the same tuple
	AbortDrain                              // the copier stops copying it: it ends, or was told to
	AbortOverload                           // the lane's queue or a memory budget was full
)

// String returns the reason as a metric label.
func (r AbortReason) String() string {
	switch r {
	case AbortCaptureHole:
		return "capture_hole"
	case AbortIdle:
		return "idle"
	case AbortReplaced:
		return "replaced"
	case AbortDrain:
		return "drain"
	case AbortOverload:
		return "overload"
	}
	return "unknown"
}

// Abort ends a flow that its client did not end.
type Abort struct{ Reason AbortReason }

// abortLen: reason 1.
const abortLen = 1

// AppendAbort appends an Abort frame.
func AppendAbort(b []byte, flow uint32, a *Abort) []byte {
	return append(appendHeader(b, TypeAbort, flow, abortLen), byte(a.Reason))
}

// ParseAbort reads the body of an Abort frame. Reasons that this version does
// not know are passed on: they only end in a counter.
func ParseAbort(body []byte) (a Abort, ok bool) {
	if len(body) != abortLen {
		return Abort{}, false
	}
	return Abort{Reason: AbortReason(body[0])}, true
}
