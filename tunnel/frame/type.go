package frame

// Type is the first byte of a frame.
type Type uint8

// Frames on a lane, from copier to responder.
const (
	TypeOpen  Type = 1 + iota // a flow begins: [Open]
	TypeData                  // bytes the client sent: [Data]
	TypeFin                   // the client closed its side: [End]
	TypeReset                 // the client reset the connection: [End]
	TypeAbort                 // the copier gives the flow up: [Abort]
	TypeBye                   // no frame follows on this lane: empty body, flow 0
)

// Frames on a lane's returns, from responder to copier.
const (
	TypeTargetHeader Type = 0x41 + iota // headers of one packet of the target: [TargetHeader]
	TypeEstablished                     // the target accepted the connection: [Established]
	TypeClosed                          // the session is over; its account: [Closed]
	TypeProgress                        // about once a second: [Progress]
	TypeReturnBye                       // all sessions of the lane are over: empty body, flow 0
	TypeCopies                          // what became of the flows' copies, so far: [Copies]
	TypeMoved                           // how much of the lane's data is done with: [Moved]
)

// OnLane reports whether frames of this type travel on lanes.
func (t Type) OnLane() bool { return t >= TypeOpen && t <= TypeBye }

// OnReturns reports whether frames of this type travel on returns.
func (t Type) OnReturns() bool { return t >= TypeTargetHeader && t <= TypeMoved }

// String returns the type's name as a metric label.
func (t Type) String() string {
	switch t {
	case TypeOpen:
		return "open"
	case TypeData:
		return "data"
	case TypeFin:
		return "fin"
	case TypeReset:
		return "reset"
	case TypeAbort:
		return "abort"
	case TypeBye:
		return "bye"
	case TypeTargetHeader:
		return "target_header"
	case TypeEstablished:
		return "established"
	case TypeClosed:
		return "closed"
	case TypeProgress:
		return "progress"
	case TypeReturnBye:
		return "return_bye"
	case TypeCopies:
		return "copies"
	case TypeMoved:
		return "moved"
	}
	return "unknown"
}
