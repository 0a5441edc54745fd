// Package tunnel carries flows from copier to responder over QUIC, and headers
// and accounts back. It is the only importer of quic-go. PROTOCOL.md describes
// the wire.
//
// A copier makes a [Client] with a fixed number of lanes, one per shard, and
// writes frames to each [Lane]; nothing on that way blocks or allocates. A
// responder's [Server] hands out a [Peer] per connected copier, with a
// [PeerLane] for each lane. All queues are bounded, and a lane that is full or
// down says so.
package tunnel

import (
	"errors"
	"net/netip"
	"time"
)

// DefaultPort is the UDP port of an address that names none.
const DefaultPort = 7443

// Limits that both sides keep.
const (
	MaxLanes       = 64
	MaxMaps        = 256
	MaxConnections = 16

	maxName = 256 // bytes of a copier's name or version
)

// Times of connecting and staying connected.
const (
	dialTimeout      = 3 * time.Second // copier: for QUIC's handshake
	linkTimeout      = 4 * time.Second // copier: from the first packet to the Welcome
	handshakeTimeout = 5 * time.Second // responder: the same, and between a session's connections
	raceDelay        = 250 * time.Millisecond
	keepAlive        = 2 * time.Second
	idleTimeout      = 10 * time.Second
	pingEvery        = 3 * time.Second
	pingPatience     = 15 * time.Second // then a ping's answer comes no more: longer than a path may be silent
	backoffFirst     = 100 * time.Millisecond
	backoffMost      = 5 * time.Second
	backoffRefused   = 30 * time.Second
)

// protocolVersions are the versions of PROTOCOL.md that this program speaks.
func protocolVersions() []int { return []int{1} }

// alpn names the protocol in the TLS handshake. Versions are negotiated behind
// it, so that a mismatch gets a readable answer.
const alpn = "flowtwin"

// A Map says where flows to one server address go.
type Map struct {
	Server netip.Addr     `json:"server"` // the zero Addr: any local address
	Port   uint16         `json:"port"`
	Target netip.AddrPort `json:"target"`
}

// Errors that a handshake ends with. The reason text of the other side follows
// in the wrapped message.
var (
	ErrNoInvite    = errors.New("no invite")
	ErrBadInvite   = errors.New("invite is malformed")
	ErrExpired     = errors.New("invite has expired")
	ErrFingerprint = errors.New("responder's key is not the one in the invite")
	ErrSecret      = errors.New("secret does not match")
	ErrRefused     = errors.New("refused by the responder")
	ErrVersion     = errors.New("no common protocol version")

	// ErrNotNow is wrapped by an error of ServerConfig.Accept that another try, soon,
	// may not meet: the copier comes again as if it had not got through.
	ErrNotNow = errors.New("not now")
)

// Errors of a tunnel that is, or was, connected.
var (
	// ErrProtocol says that the other side broke the protocol.
	ErrProtocol = errors.New("protocol error")
	// ErrNotConnected says that there is no connection now.
	ErrNotConnected = errors.New("not connected")
	// ErrClosed says that this side has been closed.
	ErrClosed = errors.New("tunnel is closed")
)
