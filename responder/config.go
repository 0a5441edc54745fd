// Package responder is the target half of FlowTwin: it takes the flows that
// copiers send, gives each a session with the target, and returns the headers of
// what the target answers.
//
// A frame's way, and the files in its order:
//
//	lane.go (a reader per lane) ▶ batch.go ▶ worker.go ▶ replay ▶ stack.go ▶ target
//	returns.go ◀ taps.go ◀ headers of the target's packets
//
// A lane's reader sorts frames by shard; a shard's worker is the one goroutine
// that its sessions and its netstack.Stack know. Readers wait for workers, and
// QUIC's flow control makes the copier's lane wait for its reader; workers wait
// for nobody.
package responder

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"runtime"
	"time"

	"flowtwin/netstack"
	"flowtwin/responder/replay"
)

// Config configures [Run].
type Config struct {
	Listen     string         // UDP host:port
	Allow      []Rule         // targets that copiers may name; empty: all of this host
	InviteFile string         // where the invite is written, "" nowhere
	InviteTTL  time.Duration  // how long it is good for; 0 for ever
	Advertise  []string       // host:port for the invite; empty: this host's addresses
	StateDir   string         // of key and secret; "" DefaultStateDir, or the home folder where that cannot be had
	Pool       []netip.Prefix // outward client addresses; empty: netstack's default
	Original   bool           // the target sees clients' own addresses
	Force      bool           // with Original: also where the target serves others
	Line       Line           // the network that is emulated between clients and target
	Shards     int            // 0: one for each CPU, at most 4
	Sessions   int            // at most, 0: 200,000
	GateOff    bool

	// New flows are refused while more is under way, 0 without a limit: connections
	// (copies are some) and bytes for targets, by the second.
	RateConnections, RateBytes float64

	End        bool          // a session ends when its target closes, instead of reconnecting
	Settle     time.Duration // 0: DefaultSettle
	MaxHold    time.Duration // 0: DefaultMaxHold
	Drain      time.Duration
	Control    string // path of the control socket, "" none
	ReportFile string // final summary as JSON, "" none
	Version    string

	Log    *slog.Logger
	Out    io.Writer        // the final summary as text; nil: it is a record of Log
	Status <-chan os.Signal // log the status now
	Ready  func()           // called when copiers can connect
}

// Line is the network that is emulated; with Leased each session gets the round-trip
// time that its client had online.
type Line = netstack.Line

// DefaultStateDir is where the responder keeps its key.
const DefaultStateDir = "/var/lib/flowtwin"

// Defaults of the gate.
const (
	DefaultSettle  = replay.DefaultSettle
	DefaultMaxHold = replay.DefaultMaxHold
)

const (
	maxShards       = 64
	defaultShards   = 4 // at most: netstack's part is small against the target's own work
	defaultSessions = 200_000
	statusEvery     = 10 * time.Second
	// farewell is how long copiers have to take the last accounts: those that finish
	// themselves close the connection as soon as they have them.
	farewell = time.Second
)

// populate checks cfg and fills in the defaults; errors name the field.
func (cfg Config) populate() (Config, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Ready == nil {
		cfg.Ready = func() {}
	}
	if cfg.Shards == 0 {
		cfg.Shards = min(runtime.GOMAXPROCS(0), defaultShards)
	}
	if cfg.Sessions == 0 {
		cfg.Sessions = defaultSessions
	}
	if cfg.Settle == 0 {
		cfg.Settle = DefaultSettle
	}
	if cfg.MaxHold == 0 {
		cfg.MaxHold = DefaultMaxHold
	}
	switch {
	case cfg.Listen == "":
		return cfg, errors.New("config: Listen: no address")
	case cfg.Shards < 1 || cfg.Shards > maxShards:
		return cfg, fmt.Errorf("config: Shards: %d is not within 1..%d", cfg.Shards, maxShards)
	case cfg.Sessions < 1:
		return cfg, fmt.Errorf("config: Sessions: %d is less than 1", cfg.Sessions)
	case !(cfg.RateConnections >= 0) || !(cfg.RateBytes >= 0):
		return cfg, errors.New("config: RateConnections, RateBytes: less than 0")
	case cfg.Settle < 0 || cfg.MaxHold < 0 || cfg.Drain < 0 || cfg.InviteTTL < 0:
		return cfg, errors.New("config: Settle, MaxHold, Drain, InviteTTL: a time is negative")
	}
	if err := cfg.Line.Check(); err != nil {
		return cfg, fmt.Errorf("config: Line: %w", err)
	}
	return cfg, nil
}

// replay returns the part that is the sessions'.
func (cfg *Config) replay() replay.Config {
	return replay.Config{GateOff: cfg.GateOff, Reconnect: !cfg.End, Settle: cfg.Settle, MaxHold: cfg.MaxHold}
}
