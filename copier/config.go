package copier

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"time"

	"flowtwin/copier/capture"
	"flowtwin/tunnel"
)

// Config configures [Run].
type Config struct {
	Maps        []tunnel.Map
	Invite      tunnel.Invite
	Server      string   // host[:port] instead of the invite's addresses, "" none
	Interfaces  []string // empty: all that are up
	Shards      int      // 0: one for every 4 CPUs, 1 to 4
	Connections int      // QUIC connections, 0: 1
	Drain       time.Duration
	ReportFile  string // JSON ledger, "" none
	Version     string

	Log    *slog.Logger
	Out    io.Writer        // the final ledger
	Status <-chan os.Signal // print a status line now
	Ready  func()           // called when packets are captured and the responder has answered or was found silent
}

// Defaults and bounds.
const (
	// DefaultShards is the most that are taken by default, one for every 4 CPUs: one
	// copies 200,000 requests/s.
	DefaultShards = 4

	maxShards   = 64
	ringBytes   = 16 << 20 // of a shard
	queueBudget = 64 << 20 // what may wait for the network, over all lanes; memory only while it does
	queueLeast  = 4 << 20

	statusEvery = 10 * time.Second
	finishWait  = 3 * time.Second // for the responder's accounts
)

// populate checks cfg and fills in the defaults.
func (cfg Config) populate() (Config, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Out == nil {
		cfg.Out = io.Discard
	}
	if cfg.Ready == nil {
		cfg.Ready = func() {}
	}
	if cfg.Shards == 0 {
		cfg.Shards = min(max(runtime.GOMAXPROCS(0)/4, 1), DefaultShards)
	}
	if cfg.Connections == 0 {
		cfg.Connections = 1
	}
	switch {
	case len(cfg.Maps) == 0:
		return cfg, errors.New("maps: none given")
	case cfg.Shards < 1 || cfg.Shards > maxShards:
		return cfg, fmt.Errorf("shards: %d is not within 1..%d", cfg.Shards, maxShards)
	case cfg.Connections < 1 || cfg.Connections > tunnel.MaxConnections:
		return cfg, fmt.Errorf("connections: %d is not within 1..%d", cfg.Connections, tunnel.MaxConnections)
	case cfg.Drain < 0:
		return cfg, fmt.Errorf("drain: %v is negative", cfg.Drain)
	}
	// More connections than lanes would carry nothing.
	cfg.Shards = max(cfg.Shards, cfg.Connections)
	return cfg, nil
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
		Rings:      cfg.Shards,
		RingBytes:  ringBytes,
		Retire:     retire,
		Log:        cfg.Log,
	}
	for _, m := range cfg.Maps {
		c.Matches = append(c.Matches, capture.Match{Addr: m.Server, Port: m.Port})
	}
	return c
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
		Name:        name,
		Version:     cfg.Version,
		QueueBytes:  max(queueBudget/cfg.Shards, queueLeast),
		Log:         cfg.Log,
	}
}
