package traffic

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"sync"
	"time"
)

// defaultAnswer is the size of an answer when the request names none.
const defaultAnswer = 600

// A Server is an HTTP server that records each connection and each request's
// body. A request for /path?answer=N gets N bytes.
type Server struct {
	http http.Server
	done sync.WaitGroup

	mu       sync.Mutex
	conns    []*serverConn
	open     int
	requests int
}

// serverConn is the record of one connection.
type serverConn struct {
	remote   netip.AddrPort
	requests Conversation
}

type connKey struct{}

// Serve starts a server on the listeners. Close ends it.
func Serve(listeners ...net.Listener) *Server {
	s := &Server{}
	s.http = http.Server{
		Handler:           http.HandlerFunc(s.answer),
		ReadHeaderTimeout: time.Minute,
		ConnContext:       s.connected,
		ConnState:         s.state,
	}
	for _, ln := range listeners {
		s.done.Go(func() { _ = s.http.Serve(ln) })
	}
	return s
}

// Close closes the listeners and all connections.
func (s *Server) Close() error {
	err := s.http.Close()
	s.done.Wait()
	return err
}

// Counts returns the connections and requests seen so far, and how many
// connections are still open.
func (s *Server) Counts() (connections, requests, open int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns), s.requests, s.open
}

// Log returns what was seen so far.
func (s *Server) Log() Log {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := make(Log, len(s.conns))
	for i, c := range s.conns {
		l[i] = append(Conversation(nil), c.requests...)
	}
	return l
}

// Remotes returns the clients' ends of the connections in Log, in the same order.
func (s *Server) Remotes() []netip.AddrPort {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []netip.AddrPort
	for _, c := range s.conns {
		all = append(all, c.remote)
	}
	return all
}

func (s *Server) connected(ctx context.Context, conn net.Conn) context.Context {
	c := &serverConn{}
	if a, ok := conn.RemoteAddr().(*net.TCPAddr); ok {
		c.remote = netip.AddrPortFrom(a.AddrPort().Addr().Unmap(), a.AddrPort().Port())
	}
	s.mu.Lock()
	s.conns = append(s.conns, c)
	s.mu.Unlock()
	return context.WithValue(ctx, connKey{}, c)
}

func (s *Server) state(_ net.Conn, state http.ConnState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch state {
	case http.StateNew:
		s.open++
	case http.StateClosed, http.StateHijacked:
		s.open--
	case http.StateActive, http.StateIdle:
	}
}

func (s *Server) answer(w http.ResponseWriter, r *http.Request) {
	req := Request{Method: r.Method, Path: r.URL.Path}
	if r.ContentLength != 0 {
		h := sha256.New()
		var err error
		if req.Bytes, err = io.Copy(h, r.Body); err != nil {
			return
		}
		req.Sum = hex.EncodeToString(h.Sum(nil)[:8])
	}
	s.mu.Lock()
	if c, ok := r.Context().Value(connKey{}).(*serverConn); ok {
		c.requests = append(c.requests, req)
	}
	s.requests++
	s.mu.Unlock()
	// The client went away when this fails: its own business.
	_ = writeAnswer(w, answerSize(r.URL))
}

func answerSize(u *url.URL) int {
	if u.RawQuery == "" {
		return defaultAnswer
	}
	n, err := strconv.Atoi(u.Query().Get("answer"))
	if err != nil || n < 0 {
		return defaultAnswer
	}
	return n
}

func writeAnswer(w http.ResponseWriter, size int) error {
	w.Header().Set("Content-Length", strconv.Itoa(size))
	var chunk [4096]byte
	for size > 0 {
		n, err := w.Write(chunk[:min(size, len(chunk))])
		if err != nil {
			return err
		}
		if n == 0 {
			return errors.New("wrote nothing")
		}
		size -= n
	}
	return nil
}
