package copier

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"time"

	"flowtwin/copier/capture"
	"flowtwin/internal/flow"
	"flowtwin/internal/http1"
	"flowtwin/internal/packet"
	"flowtwin/tunnel"
	"flowtwin/tunnel/frame"
)

// Config configures [Run].
type Config struct {
	Target
	More  []Target // that get the same
	Split bool     // each client goes to one of the targets only

	Interfaces  []string      // empty: all that are up
	NetNS       string        // where to capture: a network namespace's file or a process in it, "" here
	Decap       packet.Encap  // what mirrored packets come in; 0: this host's own packets are captured
	Shards      int           // 0: one for every 4 CPUs, 1 to 4
	Connections int           // QUIC connections, 0: 1
	Sample      float64       // percent of the connections that are copied; 0: 100
	Ramp        time.Duration // in which Sample is reached, from 0 on
	Copies      float64       // sessions that replay each flow, on average, 1 to MaxCopies; 0: 1
	Jitter      time.Duration // over which those behind the first are spread
	Rates       tunnel.Rates  // that each responder is to keep
	HTTP        *http1.Rules  // requests that are copied, and what is changed in them; nil: everything, as it is
	HTTPPass    bool          // with HTTP, copy what is no HTTP/1
	Midstream   string        // MidstreamAdopt or MidstreamSkip, "": the first
	Replay      *Replay       // a recording in the place of live packets, or nil
	Record      *Record       // what is followed is recorded, or nil
	Drain       time.Duration
	Control     string // the path of the control socket, "" none
	ReportFile  string // JSON ledger, "" none
	HeaderFile  string // pcap of the headers that targets send, "" none; of several targets each has its own, with .1 and so on
	Version     string
	InjectLoss  float64 // share of the captured packets that is thrown away, for tests

	Log      *slog.Logger
	Out      io.Writer         // the final ledger as text; nil: it is a record of Log
	Progress func(line string) // draws how far a replay is, or nil
	Status   <-chan os.Signal  // print a status line now
	Ready    func()            // called when packets are captured and the responder has answered or was found silent

	// ParseMaps reads maps that somebody adds by the control socket.
	ParseMaps func(ctx context.Context, text string) ([]tunnel.Map, error)

	// Of one of several targets.
	name        string // "": there is only one
	status      chan os.Signal
	part, parts int // of the clients, with Split
}

// What becomes of connections that began before the copier.
const (
	MidstreamAdopt = "adopt" // copied from their next turn on
	MidstreamSkip  = "skip"  // not copied
)

// How often a flow may be replayed, and how far the copies may be spread.
const (
	MaxCopies = frame.MaxCopies
	MaxJitter = 24 * time.Hour
)

// Defaults and bounds.
const (
	maxShards     = 64
	defaultShards = 4        // at most, one for every 4 CPUs: one copies 200,000 requests/s
	ringBytes     = 16 << 20 // of a shard
	queueBudget   = 64 << 20 // what may wait for the network, over all lanes; memory only while it does
	queueLeast    = 4 << 20

	statusEvery = 10 * time.Second
	finishWait  = 3 * time.Second // for the responder's accounts
)

// populate checks cfg and fills in the defaults.
func (cfg Config) populate() (Config, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Ready == nil {
		cfg.Ready = func() {}
	}
	if cfg.Shards == 0 {
		cfg.Shards = cfg.shardsFor(runtime.GOMAXPROCS(0))
	}
	if cfg.Replay != nil {
		r := *cfg.Replay
		if err := r.populate(&cfg); err != nil {
			return cfg, err
		}
		cfg.Replay = &r
	}
	if cfg.Sample == 0 {
		cfg.Sample = 100
	}
	if cfg.Copies == 0 {
		cfg.Copies = 1
	}
	if cfg.Midstream == "" {
		cfg.Midstream = MidstreamAdopt
	}
	if cfg.Connections == 0 {
		cfg.Connections = 1
	}
	for _, t := range append([]Target{cfg.Target}, cfg.More...) {
		if len(t.Maps) == 0 {
			return cfg, errors.New("maps: none given")
		}
	}
	switch {
	case cfg.Split && len(cfg.More) == 0:
		return cfg, errors.New("split: there is one target only")
	case cfg.Shards < 1 || cfg.Shards > maxShards:
		return cfg, fmt.Errorf("shards: %d is not within 1..%d", cfg.Shards, maxShards)
	case cfg.Connections < 1 || cfg.Connections > tunnel.MaxConnections:
		return cfg, fmt.Errorf("connections: %d is not within 1..%d", cfg.Connections, tunnel.MaxConnections)
	case cfg.Midstream != MidstreamAdopt && cfg.Midstream != MidstreamSkip:
		return cfg, fmt.Errorf("midstream: %q is neither %s nor %s", cfg.Midstream, MidstreamAdopt, MidstreamSkip)
	case cfg.Sample < 0 || cfg.Sample > 100:
		return cfg, fmt.Errorf("sample: %v is not within 0..100", cfg.Sample)
	case cfg.Ramp < 0:
		return cfg, fmt.Errorf("ramp: %v is negative", cfg.Ramp)
	case !(cfg.Copies >= 1 && cfg.Copies <= MaxCopies):
		return cfg, fmt.Errorf("copies: %v is not within 1..%d", cfg.Copies, MaxCopies)
	case cfg.Jitter < 0 || cfg.Jitter > MaxJitter:
		return cfg, fmt.Errorf("jitter: %v is not within 0..%v", cfg.Jitter, MaxJitter)
	case cfg.InjectLoss < 0 || cfg.InjectLoss > 1:
		return cfg, fmt.Errorf("injected loss: %v is not within 0..1", cfg.InjectLoss)
	case cfg.Drain < 0:
		return cfg, fmt.Errorf("drain: %v is negative", cfg.Drain)
	}
	if err := cfg.checkDecap(); err != nil {
		return cfg, err
	}
	// More connections than lanes would carry nothing.
	cfg.Shards = max(cfg.Shards, cfg.Connections)
	return cfg, nil
}

// LimitCPUs lets the process use no more CPUs than there is work for, and returns
// cfg with as many shards as it had CPUs for: a shard keeps one busy at most, the
// tunnel another, and on a host with many Go's collector would spread over a
// quarter of them. It is for main, which owns the process.
func (cfg Config) LimitCPUs() Config {
	cpus := runtime.GOMAXPROCS(0)
	if cfg.Shards == 0 {
		cfg.Shards = cfg.shardsFor(cpus)
	}
	if cfg.Replay != nil {
		cfg.Shards = 2 // one reads
	}
	runtime.GOMAXPROCS(min(cpus, max(cfg.Shards, cfg.Connections)*(1+len(cfg.More))+2))
	return cfg
}

func (cfg *Config) shardsFor(cpus int) int {
	if cfg.Decap != 0 {
		return 1 // what mirrored packets come in does not tell which flow is inside
	}
	return min(max(cpus/4, 1), defaultShards)
}

// retire is how long a packet waits for its block at most. It is the copier's
// largest cost at low rates, a wake-up each time, and the ring's depth in time:
// each uses up a block of 128 KiB, so a reader may be without CPU for 128 times as
// long before packets are lost.
const retire = 2 * time.Millisecond

// capture returns the configuration of the rings.
func (cfg *Config) capture() capture.Config {
	c := capture.Config{
		Interfaces: cfg.Interfaces,
		NetNS:      cfg.NetNS,
		Decap:      cfg.Decap,
		Rings:      cfg.Shards,
		RingBytes:  ringBytes,
		Retire:     retire,
		Log:        cfg.Log,
	}
	c.Matches = cfg.matches()
	c.Choice = cfg.choice(flow.Sampled(cfg.first()))
	return c
}

// matches returns what the maps capture.
func (cfg *Config) matches() []capture.Match { return matches(cfg.Maps) }

func matches(maps []tunnel.Map) (out []capture.Match) {
	for _, m := range maps {
		out = append(out, capture.Match{Addr: m.Server, Port: m.Port})
	}
	return out
}

// first returns the percentage to begin with.
func (cfg *Config) first() float64 {
	if cfg.Ramp > 0 {
		return 0
	}
	return cfg.Sample
}

func (cfg *Config) tunnel() tunnel.ClientConfig {
	name, err := os.Hostname()
	if err != nil {
		name = "" // it only makes the responder's log nicer
	}
	return tunnel.ClientConfig{
		Invite:      cfg.Invite,
		Addr:        cfg.Server,
		Lanes:       cfg.Shards,
		Connections: cfg.Connections,
		Maps:        cfg.Maps,
		Rates:       cfg.Rates,
		Name:        name,
		Version:     cfg.Version,
		QueueBytes:  max(queueBudget/cfg.Shards, queueLeast),
		Log:         cfg.Log,
	}
}
