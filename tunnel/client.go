package tunnel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// ClientConfig configures a Client.
type ClientConfig struct {
	Invite      Invite
	Addr        string // host[:port] instead of the invite's addresses, "" none
	Lanes       int    // one per shard
	Connections int    // QUIC connections that the lanes are spread over, default 1
	Maps        []Map
	Rates       Rates  // that the responder is to keep for this copier
	Name        string // of this host, for the responder's log
	Version     string // of this program, for the responder's log
	QueueBytes  int    // per lane, default 4 MiB, at least 1 MiB: what waits for the network
	Log         *slog.Logger
}

// populate checks cfg and fills in the defaults.
func (cfg ClientConfig) populate() (ClientConfig, error) {
	if cfg.Invite.Secret == [32]byte{} || cfg.Invite.Fingerprint == [32]byte{} {
		return cfg, ErrNoInvite
	}
	if cfg.Connections == 0 {
		cfg.Connections = 1
	}
	if cfg.QueueBytes == 0 {
		cfg.QueueBytes = defaultQueue
	}
	if cfg.QueueBytes < minQueue {
		return cfg, fmt.Errorf("queue of %d bytes, at least %d are needed", cfg.QueueBytes, minQueue)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Addr == "" && len(cfg.Invite.Addrs) == 0 {
		return cfg, fmt.Errorf("%w: it has no address, and none was given", ErrBadInvite)
	}
	hello := cfg.hello()
	return cfg, hello.check()
}

// SetMaps names other maps to the responder: those there are, and more behind them.
// Flows may name one of these once it has returned nil. Reconnecting names them too.
func (c *Client) SetMaps(ctx context.Context, maps []Map) error {
	if err := checkMaps(maps); err != nil {
		return fmt.Errorf("tunnel: %w", err)
	}
	// While a connection is being made it is not settled which maps it names.
	c.connecting.Lock()
	defer c.connecting.Unlock()
	if err := c.ask(ctx, ask{what: controlMaps, msg: mapsMsg{Maps: maps}}); err != nil {
		return fmt.Errorf("tunnel: maps: %w", err)
	}
	c.cfg.Maps = maps
	return nil
}

// SetRates bounds what the responder takes of this copier's flows. told is false when
// it has not said yes in time: then it hears it as soon as it can, with the next
// connection at the latest, which begins with these rates. An error leaves them as they
// were.
func (c *Client) SetRates(ctx context.Context, r Rates) (told bool, err error) {
	if err := r.check(); err != nil {
		return false, fmt.Errorf("tunnel: %w", err)
	}
	// While a connection is being made it is not settled which rates it begins with.
	c.connecting.Lock()
	defer c.connecting.Unlock()
	s := c.current()
	if s != nil {
		s.owed.Store(nil)
	}
	err = c.ask(ctx, askRates(r))
	if errors.Is(err, ErrRefused) {
		return false, fmt.Errorf("tunnel: rates: %w", err)
	}
	if c.cfg.Rates = r; err != nil && s != nil {
		s.owed.Store(&r)
	}
	return err == nil, nil
}

// ask asks the responder on the connection there is, and waits for the answer.
func (c *Client) ask(ctx context.Context, a ask) error {
	s := c.current()
	if s == nil || s.over() {
		return ErrNotConnected
	}
	answer := make(chan error, 1)
	a.answer = answer
	select {
	case s.asks <- a:
		select {
		case err := <-answer:
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	case <-s.failed:
		return s.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (cfg *ClientConfig) hello() helloMsg {
	return helloMsg{Name: cfg.Name, Version: cfg.Version, Lanes: cfg.Lanes, Connections: cfg.Connections, Maps: cfg.Maps, Rates: cfg.Rates}
}

// addrs returns where to connect to, each with a port.
func (cfg *ClientConfig) addrs() []string {
	addrs := cfg.Invite.Addrs
	port := strconv.Itoa(DefaultPort)
	if cfg.Addr != "" {
		if len(addrs) > 0 {
			if _, p, err := net.SplitHostPort(addrs[0]); err == nil {
				port = p
			}
		}
		addrs = []string{cfg.Addr}
	}
	out := make([]string, len(addrs))
	for i, a := range addrs {
		out[i] = a
		if _, _, err := net.SplitHostPort(a); err != nil {
			out[i] = net.JoinHostPort(trimBrackets(a), port)
		}
	}
	return out
}

func trimBrackets(host string) string {
	if n := len(host); n > 1 && host[0] == '[' && host[n-1] == ']' {
		return host[1 : n-1]
	}
	return host
}

// A Client keeps a connection to the responder, again and again.
type Client struct {
	cfg   ClientConfig
	log   *slog.Logger
	lanes []*Lane
	slow  time.Duration // between tries after a refusal
	pings pingTimes

	connecting sync.Mutex // one try at a time
	returned   atomic.Uint64
	epoch      atomic.Uint64 // counts connections

	mu      sync.Mutex
	session *session // the latest; it may have ended
	lastErr error
	closed  chan struct{}
	isDone  bool // closed is closed

	finished atomic.Bool // all accounts are here
}

// NewClient returns a client that is not yet connected; each Lane exists from
// the start and is down.
func NewClient(cfg ClientConfig) (*Client, error) {
	cfg, err := cfg.populate()
	if err != nil {
		return nil, fmt.Errorf("tunnel: %w", err)
	}
	c := &Client{cfg: cfg, log: cfg.Log, slow: backoffRefused, pings: pingTimes{pingEvery, pingPatience}, closed: make(chan struct{})}
	for range cfg.Lanes {
		c.lanes = append(c.lanes, newLane(cfg.QueueBytes))
	}
	return c, nil
}

// Lane returns lane i.
func (c *Client) Lane(i int) *Lane { return c.lanes[i] }

// Connect makes the first connection: it returns when the handshake is done, or
// with the reason why not (errors.Is tells the sentinel errors above). A
// responder that does not answer costs 3 s, and 250 ms for each address but one.
func (c *Client) Connect(ctx context.Context) error {
	c.connecting.Lock()
	defer c.connecting.Unlock()
	if s := c.current(); s != nil {
		if !s.over() {
			return nil
		}
		select { // its end still takes lanes down
		case <-s.done:
		case <-ctx.Done():
			return fmt.Errorf("tunnel: %w", context.Cause(ctx))
		}
	}
	s, err := c.dial(ctx)
	if err != nil {
		err = fmt.Errorf("tunnel: %w", err)
		c.setError(err)
		return err
	}
	return c.adopt(s)
}

// adopt makes s the client's session and brings the lanes up.
func (c *Client) adopt(s *session) error {
	c.mu.Lock()
	if c.isDone {
		c.mu.Unlock()
		s.fail(ErrClosed)
		s.release()
		return fmt.Errorf("tunnel: %w", ErrClosed)
	}
	c.session = s
	c.mu.Unlock()
	epoch := c.epoch.Add(1)
	s.start(c.lanes, epoch, &c.returned, c.pings, func(err error) {
		if !errors.Is(err, ErrClosed) && !c.finished.Load() { // else the other side has nothing left to do
			c.setError(fmt.Errorf("tunnel: %w", err))
			c.log.Warn("tunnel is down", "remote", s.remote(), "err", err)
		}
	})
	// Only now: whoever waits for this line may rely on the lanes.
	c.log.Info("tunnel is up", "remote", s.remote(), "lanes", len(c.lanes), "connections", len(s.links))
	return nil
}

func (c *Client) current() *session {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.session
}

func (c *Client) setError(err error) {
	c.mu.Lock()
	c.lastErr = err
	c.mu.Unlock()
}

// refusal reports whether err will stay unless somebody changes something.
func refusal(err error) bool {
	for _, e := range []error{ErrSecret, ErrFingerprint, ErrRefused, ErrExpired, ErrVersion, ErrProtocol} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// Run keeps the connection up, reconnecting with backoff, until ctx ends or the
// client is closed; it leaves the connection as it is then, and returns nil. It
// returns an error where reconnecting cannot help: the invite has expired, or
// the responder refused a client that had never been connected. A refusal after
// that may be a restarted responder's; it is asked again every 30 s.
func (c *Client) Run(ctx context.Context) error {
	wait, logged := backoffFirst, ""
	for {
		if s := c.current(); s != nil && !s.over() {
			select {
			case <-ctx.Done():
				return nil
			case <-c.closed:
				return nil
			case <-s.done:
			}
			wait, logged = backoffFirst, ""
		}
		err := c.Connect(ctx)
		if ctx.Err() != nil || errors.Is(err, ErrClosed) {
			return nil
		}
		if err == nil {
			continue
		}
		delay := wait/2 + rand.N(wait/2)
		if refusal(err) {
			if c.epoch.Load() == 0 || errors.Is(err, ErrExpired) {
				return err
			}
			delay = c.slow
		}
		if text := err.Error(); text != logged { // once per state, not per try
			logged = text
			c.log.Warn("tunnel cannot be connected, trying on", "err", err)
		}
		wait = min(2*wait, backoffMost)
		timer := time.NewTimer(delay)
		select {
		case <-ctx.Done():
		case <-c.closed:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// Finish sends Bye on all lanes and waits until every ReturnBye is here or ctx
// ends. The lanes' owners must have flushed, and must go on reading returns
// meanwhile, and afterwards until there are none.
func (c *Client) Finish(ctx context.Context) error {
	s := c.current()
	if s == nil || s.over() {
		return fmt.Errorf("tunnel: finish: %w", ErrNotConnected)
	}
	var wait []chan struct{}
	for _, l := range c.lanes {
		wait = append(wait, l.inbox.byeOf())
		l.bye()
	}
	for _, bye := range wait {
		select {
		case <-bye:
		case <-s.failed:
			select { // both may be true
			case <-bye:
				continue
			default:
			}
			return fmt.Errorf("tunnel: finish: %w", s.err)
		case <-ctx.Done():
			return fmt.Errorf("tunnel: finish: %w", context.Cause(ctx))
		}
	}
	c.finished.Store(true)
	return nil
}

// Close ends the connection and frees everything. Returns that have arrived can
// still be read.
func (c *Client) Close() error {
	c.mu.Lock()
	s := c.session
	if !c.isDone {
		c.isDone = true
		close(c.closed)
	}
	c.mu.Unlock()
	if s != nil {
		s.fail(ErrClosed)
		<-s.done
	}
	return nil
}

// ClientStats are a client's figures.
type ClientStats struct {
	Up            bool
	Remote        string
	Connects      uint64
	RTT           time.Duration // the shortest of the last 8 pings
	ClockOffset   time.Duration // responder's clock minus ours, estimated
	BytesSent     uint64        // lane bytes written to QUIC
	BytesReturned uint64
	LastError     string
}

// Stats returns the tunnel's own figures; safe from any goroutine.
func (c *Client) Stats() ClientStats {
	c.mu.Lock()
	s, err := c.session, c.lastErr
	c.mu.Unlock()
	st := ClientStats{Connects: c.epoch.Load(), BytesReturned: c.returned.Load()}
	if err != nil {
		st.LastError = err.Error()
	}
	for _, l := range c.lanes {
		st.BytesSent += l.sent.Load()
	}
	if s != nil {
		st.Up = !s.over()
		st.Remote = s.remote()
		ping := s.clock.best()
		st.RTT, st.ClockOffset = ping.rtt, ping.offset
	}
	return st
}
