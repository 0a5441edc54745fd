// Package tunnel carries flows from copier to responder over QUIC, and headers
// and accounts back. It is the only importer of quic-go. PROTOCOL.md describes
// the wire.
package tunnel

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net/netip"
	"time"

	"flowtwin/tunnel/frame"
)

// CONTRACT FILE: signatures agreed between packages; the tunnel's owner moves
// them into files of one idea each and writes the bodies.

// A Map says where flows to one server address go.
type Map struct {
	Server netip.Addr // the zero Addr: any local address
	Port   uint16
	Target netip.AddrPort
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
)

// An Invite is what a copier needs to reach and trust a responder.
type Invite struct {
	Addrs       []string // host:port, in the order to try
	Fingerprint [32]byte // SHA-256 of the responder's public key (SPKI)
	Secret      [32]byte
	Expires     time.Time // zero: never
}

// String returns the invite in its printable form, one line without spaces.
func (i Invite) String() string { panic("todo") }

// ParseInvite reads what String wrote.
func ParseInvite(s string) (Invite, error) { panic("todo") }

// An Identity is the responder's key and secret, kept in its state directory.
type Identity struct {
	Certificate tls.Certificate
	Secret      [32]byte
}

// LoadIdentity reads the identity in dir, or makes one (files mode 0600).
func LoadIdentity(dir string) (Identity, error) { panic("todo") }

// Invite returns the invite for this identity, reachable at addrs.
func (id Identity) Invite(addrs []string, expires time.Time) Invite { panic("todo") }

// ---- copier's side

// ClientConfig configures a Client.
type ClientConfig struct {
	Invite      Invite
	Addr        string // host[:port] instead of the invite's addresses, "" none
	Lanes       int    // one per shard
	Connections int    // QUIC connections that the lanes are spread over, default 1
	Maps        []Map
	Name        string // of this host, for the responder's log
	QueueBytes  int    // per lane, default 4 MiB: what waits for the network
	Log         *slog.Logger
}

// A Client keeps a connection to the responder, again and again.
type Client struct{}

// NewClient returns a client that is not yet connected; each Lane exists from
// the start and is down.
func NewClient(cfg ClientConfig) (*Client, error) { panic("todo") }

// Connect makes the first connection: it returns when the handshake is done, or
// with the reason why not (errors.Is tells the sentinel errors above).
func (c *Client) Connect(ctx context.Context) error { panic("todo") }

// Run keeps the connection up, reconnecting with backoff, until ctx ends. It
// returns nil then, or an error that reconnecting cannot cure (refusals).
func (c *Client) Run(ctx context.Context) error { panic("todo") }

// Lane returns lane i.
func (c *Client) Lane(i int) *Lane { panic("todo") }

// Stats returns the tunnel's own figures; safe from any goroutine.
func (c *Client) Stats() ClientStats { panic("todo") }

// Finish sends Bye on all lanes and waits until every ReturnBye is here or ctx
// ends. The lanes' owners must go on reading returns meanwhile.
func (c *Client) Finish(ctx context.Context) error { panic("todo") }

// Close ends the connection and frees everything.
func (c *Client) Close() error { panic("todo") }

// ClientStats are a client's figures.
type ClientStats struct {
	Up            bool
	Remote        string
	Connects      uint64
	RTT           time.Duration // smoothed
	ClockOffset   time.Duration // responder's clock minus ours, estimated
	BytesSent     uint64        // lane bytes written to QUIC
	BytesReturned uint64
	LastError     string
}

// A Lane carries the frames of one shard. Its writing methods are for one
// goroutine, the shard's; they copy what they are given into the lane's queue,
// never block and never allocate. They report false, having written nothing,
// when the queue is full or the lane is down.
type Lane struct{}

// Epoch counts the lane's connections: 0 before the first, and another value
// after each reconnect. Up reports whether frames can be sent now. A shard that
// sees the epoch change (or Up become false) gives all its flows up: their
// sessions ended with the connection.
func (l *Lane) Epoch() uint64 { panic("todo") }
func (l *Lane) Up() bool      { panic("todo") }

// Room returns how many bytes the queue still takes; Size its whole size.
func (l *Lane) Room() int { panic("todo") }
func (l *Lane) Size() int { panic("todo") }

func (l *Lane) Open(flow uint32, o *frame.Open) bool                           { panic("todo") }
func (l *Lane) Data(flow uint32, seen uint64, time int64, payload []byte) bool { panic("todo") }
func (l *Lane) Fin(flow uint32) bool                                           { panic("todo") }
func (l *Lane) Reset(flow uint32) bool                                         { panic("todo") }
func (l *Lane) Abort(flow uint32, r frame.AbortReason) bool                    { panic("todo") }

// Flush hands what was appended to the lane's writer. The shard calls it when it
// has no more packets at hand; the lane flushes by itself at 16 KiB.
func (l *Lane) Flush() { panic("todo") }

// Returns hands over the return frames that have arrived since the last call, as
// whole frames one behind the other, lent until the next call; nil when there are
// none. epoch is the connection they belong to. Frames are never lost here: when
// the shard does not read, the responder is held back.
func (l *Lane) Returns() (frames []byte, epoch uint64) { panic("todo") }

// SetWake sets what the lane calls when returns wait that ought to be read soon
// (64 KiB, or a ReturnBye) or when it went up or down; from another goroutine.
func (l *Lane) SetWake(wake func()) { panic("todo") }

// ---- responder's side

// ServerConfig configures Listen.
type ServerConfig struct {
	Addr     string // UDP host:port
	Identity Identity
	Expires  time.Time // when the current invite's secret stops working; zero never
	// Accept decides about a copier's maps; an error refuses it, and its text goes
	// to the copier.
	Accept func(Hello) error
	Log    *slog.Logger
}

// Hello is what a copier says of itself.
type Hello struct {
	Name    string
	Remote  netip.AddrPort
	Version string
	Lanes   int
	Maps    []Map
}

// A Server accepts copiers.
type Server struct{}

// Listen opens the UDP port.
func Listen(cfg ServerConfig) (*Server, error) { panic("todo") }

// Addr returns the address that Listen bound.
func (s *Server) Addr() netip.AddrPort { panic("todo") }

// Accept returns the next copier that passed the handshake.
func (s *Server) Accept(ctx context.Context) (*Peer, error) { panic("todo") }

// Close stops accepting and closes all peers.
func (s *Server) Close() error { panic("todo") }

// A Peer is one connected copier (with --connections: all its QUIC connections
// together; when one breaks, all end).
type Peer struct{}

func (p *Peer) Hello() Hello              { panic("todo") }
func (p *Peer) Lane(i int) *PeerLane      { panic("todo") }
func (p *Peer) Context() context.Context  { panic("todo") } // ends with the connection
func (p *Peer) Close(reason string) error { panic("todo") }

// A PeerLane is the responder's end of a lane.
type PeerLane struct{}

// Read blocks until frames have arrived and returns whole ones, one behind the
// other, lent until the next call (at most about 256 KiB, or one frame). io.EOF
// after Bye. One goroutine at a time.
func (l *PeerLane) Read() ([]byte, error) { panic("todo") }

// Return queues whole return frames for the copier, copying them. must says that
// they may not be dropped (Established, Closed, ReturnBye): they are always taken
// and count against the number of sessions; others are refused (false) when the
// queue (2 MiB) is full. Safe from any goroutine. Written after at most 10 ms, or
// at 16 KiB; at once when urgent.
func (l *PeerLane) Return(frames []byte, must, urgent bool) bool { panic("todo") }
