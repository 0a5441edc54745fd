// Package flow follows client TCP connections through captured packets: which
// connection a packet belongs to, and which of its bytes are new, old, early or
// missing.
//
// It holds no goroutine, lock or clock: a shard owns its [Table] and [Store] and
// passes the time in. All memory is bounded at construction.
package flow

import "flowtwin/internal/packet"

// A Tuple names the two ends of a connection. It holds no pointers.
type Tuple struct {
	Client, Server         packet.Addr
	ClientPort, ServerPort uint16
}

// A Key names one connection for good: its tuple, and its client's initial
// sequence number as epoch, since ports are used again.
type Key struct {
	Tuple
	ISS packet.Seq
}
