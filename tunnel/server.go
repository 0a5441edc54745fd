package tunnel

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
)

const (
	// maxPeers is how many copiers may be connected at a time.
	maxPeers = 1024
	// logBurst lines about refused connections are logged per logPeriod.
	logBurst  = 20
	logPeriod = 10 * time.Second
)

// ServerConfig configures Listen.
type ServerConfig struct {
	Addr     string // UDP host:port
	Identity Identity
	// Accept decides about a copier's maps; an error refuses it, and its text goes
	// to the copier. nil accepts all. It is called from several goroutines.
	Accept func(Hello) error
	Log    *slog.Logger

	now func() time.Time // for tests; nil is time.Now
}

// Hello is what a copier says of itself.
type Hello struct {
	Name    string
	Remote  netip.AddrPort
	Version string
	Lanes   int
	Maps    []Map
	Rates   Rates // to begin with, see [Peer.HandleRates]
}

// A Server accepts copiers.
type Server struct {
	cfg       ServerConfig
	log       *slog.Logger
	socket    *net.UDPConn
	transport *quic.Transport
	listener  *quic.EarlyListener
	peers     chan *Peer // accepted, for Accept to take
	closed    chan struct{}
	wg        sync.WaitGroup
	newcomers newcomers
	refusals  logLimit

	mu      sync.Mutex
	isDone  bool
	waiting map[string]*gathering // sessions that lack connections, by id
	live    map[*Peer]struct{}
}

// Listen opens the UDP port.
func Listen(cfg ServerConfig) (*Server, error) {
	if cfg.Identity.Certificate.PrivateKey == nil || cfg.Identity.Secret == [32]byte{} {
		return nil, errors.New("tunnel: listen: no identity")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.now == nil {
		cfg.now = time.Now
	}
	addr, err := net.ResolveUDPAddr("udp", cfg.Addr)
	if err != nil {
		return nil, fmt.Errorf("tunnel: listen on %s: %w", cfg.Addr, err)
	}
	socket, err := listenUDP("udp", addr)
	if err != nil {
		return nil, fmt.Errorf("tunnel: listen on %s: %w", cfg.Addr, err)
	}
	quiet, err := newQuietConn(socket)
	if err != nil {
		return nil, errors.Join(err, socket.Close())
	}
	s := &Server{
		cfg: cfg, log: cfg.Log, socket: socket,
		peers: make(chan *Peer), closed: make(chan struct{}),
		waiting: make(map[string]*gathering), live: make(map[*Peer]struct{}),
	}
	s.transport = &quic.Transport{
		Conn:                &flapConn{quietConn: quiet},
		StatelessResetKey:   resetKey(cfg.Identity.Secret),
		VerifySourceAddress: func(net.Addr) bool { return s.newcomers.crowded() },
		ConnContext:         s.admit,
	}
	// Early, so that a connection can be closed that never ends its handshake.
	s.listener, err = s.transport.ListenEarly(serverTLS(cfg.Identity), quicConfig(1, MaxLanes, laneWindow))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("tunnel: listen on %s: %w", cfg.Addr, err), socket.Close())
	}
	warnBuffers(s.log, socket)
	s.wg.Go(s.accept)
	return s, nil
}

// resetKey lets a restarted responder tell copiers at once that their
// connections are gone (RFC 9000, 10.3), instead of after the idle timeout.
func resetKey(secret [32]byte) *quic.StatelessResetKey {
	mac := hmac.New(sha256.New, secret[:])
	mac.Write([]byte("flowtwin stateless reset"))
	return (*quic.StatelessResetKey)(mac.Sum(nil))
}

// gaveWay is what a connection is told that lost its place among the newcomers.
const gaveWay = "too many connections without a proof at once, this one was the oldest"

// admit gives a new connection a place among the newcomers, until it is proven
// or ends.
func (s *Server) admit(ctx context.Context, info *quic.ClientInfo) (context.Context, error) {
	n := &newcomer{source: sourceOf(addrPort(info.RemoteAddr).Addr()), since: time.Now()}
	out, err := s.newcomers.admit(n)
	if err != nil {
		return nil, err
	}
	if out != nil {
		s.wg.Go(func() { closeReason(out, codeBusy, gaveWay) })
	}
	context.AfterFunc(ctx, func() {
		n.left()
		// Those that end before they have said anything never come to receive.
		if !n.named.Swap(true) {
			s.logRefusal(info.RemoteAddr, leaving(context.Cause(ctx)))
		}
	})
	return context.WithValue(ctx, newcomerKey{}, n), nil
}

// logRefusal says who did not get in, and why.
func (s *Server) logRefusal(remote net.Addr, reason string) {
	select {
	case <-s.closed:
		return
	default:
	}
	if ok, suppressed := s.refusals.allow(time.Now()); ok {
		s.log.Warn("copier refused", "remote", addrPort(remote), "reason", reason, "suppressed", suppressed)
	}
}

// accept takes connections until the listener is closed.
func (s *Server) accept() {
	ctx := context.Background() //nolint:forbidigo // closing the listener ends it
	for {
		conn, err := s.listener.Accept(ctx)
		if err != nil {
			return
		}
		s.wg.Go(func() { s.receive(conn) })
	}
}

// Addr returns the address that Listen bound.
func (s *Server) Addr() netip.AddrPort { return addrPort(s.socket.LocalAddr()) }

func addrPort(a net.Addr) netip.AddrPort {
	u, ok := a.(*net.UDPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := u.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// Accept returns the next copier that passed the handshake.
func (s *Server) Accept(ctx context.Context) (*Peer, error) {
	select {
	case p := <-s.peers:
		return p, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-s.closed:
		return nil, fmt.Errorf("tunnel: accept: %w", ErrClosed)
	}
}

// Close stops accepting and closes all peers.
func (s *Server) Close() error {
	s.mu.Lock()
	if s.isDone {
		s.mu.Unlock()
		return nil
	}
	s.isDone = true
	close(s.closed)
	var peers []*Peer
	for p := range s.live {
		peers = append(peers, p)
	}
	s.mu.Unlock()
	for _, p := range peers {
		p.end(codeShutdown, "responder stops", ErrClosed)
	}
	err := errors.Join(s.listener.Close(), s.transport.Close(), s.socket.Close())
	s.wg.Wait()
	return err
}

// adopt makes p one of the live peers and offers it to Accept.
func (s *Server) adopt(p *Peer) {
	s.mu.Lock()
	full := len(s.live) >= maxPeers
	if !s.isDone && !full {
		s.live[p] = struct{}{}
	}
	done := s.isDone
	s.mu.Unlock()
	if done || full {
		p.end(codeBusy, "the responder takes no more copiers", ErrClosed)
		return
	}
	s.log.Info("copier connected", "name", p.hello.Name, "remote", p.hello.Remote, "version", p.hello.Version,
		"lanes", p.hello.Lanes, "connections", len(p.conns), "maps", len(p.hello.Maps))
	s.wg.Go(func() {
		p.run()
		s.mu.Lock()
		delete(s.live, p)
		s.mu.Unlock()
		s.log.Info("copier disconnected", "name", p.hello.Name, "remote", p.hello.Remote, "reason", p.err)
	})
	select {
	case s.peers <- p:
	case <-p.failed:
	case <-s.closed:
	}
}

// A logLimit bounds how much a stranger can write into the log.
type logLimit struct {
	mu    sync.Mutex
	since time.Time
	lines int
}

// allow reports whether a line may be logged at now, and how many were not
// before it.
func (l *logLimit) allow(now time.Time) (ok bool, suppressed int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now.Sub(l.since) >= logPeriod {
		suppressed = max(0, l.lines-logBurst)
		l.since, l.lines = now, 0
	}
	l.lines++
	return l.lines <= logBurst, suppressed
}
