package replay

import (
	"time"

	"flowtwin/tunnel/frame"
)

// ConnState is how a connection to the target stands.
type ConnState uint8

// States of a connection.
const (
	ConnConnecting ConnState = iota
	ConnEstablished
	ConnRefused  // the SYN was answered with a reset
	ConnTimedOut // no answer
	ConnReset    // by the target, after it was established
	ConnFinished // both FINs are acknowledged
)

// A Conn is what a session needs of its TCP connection. No method blocks, and all
// are called from the shard's goroutine. It borrows what it is given.
type Conn interface {
	State() ConnState
	// Connect returns how long the handshake took, 0 when it did not come about. It
	// may have, although State says how the connection ended since.
	Connect() time.Duration
	// Write takes bytes, fewer than len(p) when the send buffer is full.
	Write(p []byte) (int, error)
	// Absorb discards what the target sent and says how much that was, and whether
	// the target has closed its side.
	Absorb() (n int, eof bool, err error)
	CloseWrite() error
	// Acked returns how many written bytes the target's kernel has acknowledged.
	Acked() uint64
	// Abort sends RST. Release ends our interest; nothing is called after it.
	Abort()
	Release()
}

// A Listener is told what its owner must pass on, and makes connections. It is
// called from the shard's goroutine and must not call the session.
type Listener interface {
	// Redial starts another connection to the target of s, or returns nil.
	Redial(s *Session) Conn
	// Accepted returns how many connections the target of s has accepted of anybody.
	Accepted(s *Session) uint64
	// Reached: the target accepted a connection of s, or refused it.
	Reached(s *Session, accepted bool)
	// Parted: the connection of s ended, but its client goes on.
	Parted(s *Session, how frame.CloseHow)
	// Gate: there is news of the gate of s.
	Gate(s *Session, news GateNews)
	// Established: the first handshake with the target is done.
	Established(s *Session, now int64)
	// Wrote: the last byte of a segment captured at the given time was written.
	Wrote(s *Session, captured, now int64)
	// Moved: so many more bytes were acknowledged by the target, and absorbed.
	Moved(s *Session, delivered, absorbed uint64)
	// Closed: the session is over. It is the last call for s.
	Closed(s *Session, c frame.Closed, now int64)
}

// Config of a shard's sessions. The zero value of a field means its default.
type Config struct {
	GateOff      bool
	Reconnect    bool // when the target closes and the client goes on
	Settle       time.Duration
	MaxHold      time.Duration
	Linger       time.Duration // without any progress, once the target has closed; default 10 s
	Patience     time.Duration // the same, once the client has closed; default 30 s
	AbortLinger  time.Duration // for all that is left of a flow the copier gave up; default 2 s
	SessionBytes int           // queued per session, default 8 MiB
	ShardBytes   int           // queued per shard, default 256 MiB; a session may hold a share of what is free
}

// maxSegments bounds the segments of one session that are not acknowledged yet;
// the record of one is 16 bytes.
const maxSegments = 1 << 18

func (c Config) withDefaults() Config {
	setDefault(&c.Settle, DefaultSettle)
	setDefault(&c.MaxHold, DefaultMaxHold)
	setDefault(&c.Linger, 10*time.Second)
	setDefault(&c.Patience, 30*time.Second)
	setDefault(&c.AbortLinger, 2*time.Second)
	setDefault(&c.SessionBytes, 8<<20)
	setDefault(&c.ShardBytes, 256<<20)
	return c
}

func setDefault[T int | time.Duration](p *T, v T) {
	if *p == 0 {
		*p = v
	}
}

// A Shard is what the sessions of one goroutine share: configuration, memory and
// timers. Times are nanoseconds of a clock of the owner's that never steps.
type Shard struct {
	cfg      Config
	quiet    Config // where a target that is quiet is waited for longer: pings, and ends without a gate
	ends     Config // for the client's FIN and reset behind the gate
	listener Listener
	pool     pool
	timers   timers
	ripe     []*Session // copies that Feed looks at
}

// endHolds is how many times max-hold a client's end waits for the answer before it. A
// request that leaves too early arrives pipelined, but an end that does makes servers
// give up the request, which no client did.
const endHolds = 10

// NewShard returns a shard whose sessions report to l.
func NewShard(cfg Config, l Listener) *Shard {
	cfg = cfg.withDefaults()
	quiet := cfg
	quiet.Settle = max(cfg.Settle, cfg.MaxHold/4)
	ends := quiet
	ends.MaxHold = endHolds * cfg.MaxHold
	return &Shard{cfg: cfg, quiet: quiet, ends: ends, listener: l, pool: pool{budget: cfg.ShardBytes}}
}

// Start begins s on a connection that was just dialled. baseSeen is what the
// client had seen of the online answers before its first segment.
func (sh *Shard) Start(s *Session, conn Conn, baseSeen uint64, now int64) {
	*s = Session{
		Owner: s.Owner, shard: sh, conn: conn, copied: s.copied, place: notArmed, lastSeen: baseSeen,
		gate: gate{off: sh.cfg.GateOff, zero: baseSeen, seen: baseSeen},
	}
}

// Refuse begins s without a connection: what the client sends is counted as
// dropped until it ends, and its account says how.
func (sh *Shard) Refuse(s *Session, how frame.CloseHow) {
	*s = Session{Owner: s.Owner, shard: sh, copied: s.copied, place: notArmed, state: discarding, how: how}
}

// NextTimer returns when Expire wants to be called, 0 for never.
func (sh *Shard) NextTimer() int64 { return sh.timers.next() }

// Expire lets the sessions act whose time has come.
func (sh *Shard) Expire(now int64) {
	for at := sh.timers.next(); at != 0 && at <= now; at = sh.timers.next() {
		s := sh.timers.heap[0]
		sh.timers.remove(s)
		s.tick(now)
	}
}

// Queued returns how much memory holds bytes that wait.
func (sh *Shard) Queued() int { return sh.pool.lent }
