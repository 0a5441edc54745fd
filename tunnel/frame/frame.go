// Package frame holds the byte layouts of the tunnel: what copier and responder
// write on lanes and returns. Append… adds a frame to a buffer, Parse… reads one
// from it; neither does I/O, keeps bytes, or knows of QUIC. The prose is in
// tunnel/PROTOCOL.md.
package frame

import (
	"net/netip"

	"flowtwin/internal/flow"
	"flowtwin/internal/packet"
)

// HeaderLen is the length of what every frame begins with: type (1 byte), body
// length (3 bytes, big endian), flow (4 bytes, big endian).
const HeaderLen = 8

// MaxBody is the largest body a frame may have: a payload of 512 KiB (BIG TCP
// super-packets) and its fixed fields. A longer one is a protocol error.
const MaxBody = 512<<10 + 64

// Type is the first byte of a frame.
type Type uint8

// Frames on a lane, from copier to responder.
const (
	TypeOpen  Type = 1 + iota // a flow begins: [Open]
	TypeData                  // bytes the client sent: [Data]
	TypeFin                   // the client closed its side: empty body
	TypeReset                 // the client reset the connection: empty body
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
)

// Open begins a flow. Its number is chosen by the copier, dense from 0, and is
// free for another flow of the same lane only after the responder's Closed.
type Open struct {
	Key      flow.Key
	Map      uint16 // index into the maps of the handshake
	Time     int64  // capture time of the first packet, ns since the epoch
	BaseSeen uint64 // answer bytes that the client had acknowledged before this frame
	MSS      uint16 // the client's, from its SYN; 0 unknown
	RTT      uint32 // client's round-trip time in µs, from its handshake; 0 unknown
}

// Data carries in-order client bytes, each once.
type Data struct {
	Seen    uint64 // answer bytes that the client had acknowledged when it sent this
	Time    int64  // capture time, ns since the epoch
	Payload []byte // lent by ParseData: aliases the buffer
}

// AbortReason says why the copier gave a flow up.
type AbortReason uint8

// Why the copier gives a flow up.
const (
	AbortCaptureHole AbortReason = 1 + iota // bytes are missing and will not come
	AbortIdle                               // nothing was captured for the idle timeout
	AbortReplaced                           // a new SYN on the same tuple
	AbortDrain                              // the copier is shutting down
	AbortOverload                           // the lane's queue or a memory budget was full
)

// Abort ends a flow that its client did not end.
type Abort struct{ Reason AbortReason }

// TargetHeader is what the target sent: headers, never payload.
type TargetHeader struct {
	Time    int64  // when the TUN delivered it, ns since the epoch, the responder's clock
	Headers []byte // IP and TCP header as the target sent them, with the outward client address; lent
}

// Established reports the handshake with the target.
type Established struct {
	Time    int64          // ns since the epoch, the responder's clock
	Connect uint32         // µs from SYN to SYN-ACK
	Client  netip.AddrPort // the outward client address that the target sees
}

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
)

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
}

// Progress is a lane's state at the responder, about once a second.
type Progress struct {
	Time           int64  // responder's clock, ns
	Sessions       uint32 // open now
	LagP50         int64  // responder's clock at the write to the target minus capture time, ns, clocks not aligned
	LagP99         int64
	LagMax         int64
	LagCount       uint64 // how many segments the three speak of
	DeliveredBytes uint64 // so far, this lane
	AnswerBytes    uint64
}

// keep the imports used while the bodies are written
var _ = packet.Seq(0)
