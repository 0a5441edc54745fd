package tunnel

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/quic-go/quic-go"
)

// A refusalError ends a handshake with a code and a reason for the copier.
type refusalError struct {
	code   quic.ApplicationErrorCode
	reason string
}

func (e *refusalError) Error() string { return e.reason }

func refuse(code quic.ApplicationErrorCode, format string, args ...any) error {
	return &refusalError{code, fmt.Sprintf(format, args...)}
}

// A gathering is a session whose further connections are still to come.
type gathering struct {
	id       []byte
	hello    Hello
	conns    []serverLink  // by index; conn is nil where one is missing
	complete chan struct{} // closed when all are there
	joined   chan struct{} // another one is
	missing  int
}

// A serverLink is one proven connection and its control stream.
type serverLink struct {
	conn    *quic.Conn
	control *quic.Stream
}

// receive carries a connection through the handshake.
func (s *Server) receive(conn *quic.Conn) {
	who, ok := conn.Context().Value(newcomerKey{}).(*newcomer)
	if !ok || who.named.Swap(true) {
		return // it has ended already
	}
	ctx, cancel := context.WithTimeout(conn.Context(), handshakeTimeout)
	defer cancel()
	var err error
	if s.newcomers.arrived(who, conn) {
		err = s.handshake(ctx, conn, who.left)
	} else {
		err = refuse(codeBusy, gaveWay)
	}
	if err == nil {
		return
	}
	code, reason := codeFailed, err.Error()
	var refused *refusalError
	switch {
	case errors.As(err, &refused):
		code = refused.code
	case conn.Context().Err() != nil: // closed already
		cause := context.Cause(conn.Context())
		reason = leaving(cause)
		if stopped(cause) {
			s.log.Debug("copier left in the handshake", "remote", addrPort(conn.RemoteAddr()), "reason", reason)
			return
		}
	case errors.Is(err, ErrProtocol):
		code = codeProtocol
	case errors.Is(err, os.ErrDeadlineExceeded), ctx.Err() != nil:
		reason = "the handshake took too long"
	}
	closeReason(conn, code, reason)
	s.logRefusal(conn.RemoteAddr(), reason)
}

// leaving is the text of what ended a connection in the handshake, most often
// the copier's own reason.
func leaving(err error) string {
	var app *quic.ApplicationError
	if errors.As(err, &app) && !app.Remote {
		return app.ErrorMessage
	}
	if errors.As(err, &app) && app.Remote {
		return "the copier left: " + app.ErrorMessage
	}
	// QUIC carries no reason while the handshake lasts (RFC 9000, 10.2.3), and a
	// copier that meets the wrong key leaves at its very end.
	var transport *quic.TransportError
	if errors.As(err, &transport) && transport.Remote && transport.ErrorCode == quic.ApplicationErrorErrorCode {
		return "the copier left in the handshake, most likely because its invite names another key"
	}
	return fmt.Sprintf("the copier left: %v", err)
}

// stopped reports whether the copier went without a complaint: it stops, or
// reached the responder at another address sooner.
func stopped(err error) bool {
	var app *quic.ApplicationError
	return errors.As(err, &app) && app.Remote && app.ErrorCode == codeDone
}

// handshake proves the secret, calls proved, and reads what the copier wants.
// When it returns nil the connection belongs to a peer.
func (s *Server) handshake(ctx context.Context, conn *quic.Conn, proved func()) error {
	quiet := forbidStreams(ctx, conn)
	defer quiet()
	control, err := conn.AcceptStream(ctx)
	if err != nil {
		return err
	}
	if end, ok := ctx.Deadline(); ok {
		if err := control.SetDeadline(end); err != nil {
			return err
		}
	}
	if err := s.prove(conn, control, func() { quiet(); proved() }); err != nil {
		return err
	}
	link := serverLink{conn, control}

	t, body, err := readRequest(control)
	if err != nil {
		return err
	}
	var g *gathering
	if t == controlHello {
		g, err = s.hello(link, body)
	} else {
		g, err = s.join(link, body)
	}
	if err != nil {
		return err
	}
	if err := writeControl(control, controlWelcome, welcomeMsg{Session: g.id}); err != nil {
		return err
	}
	if t != controlHello {
		return nil // the first connection's goroutine does the rest
	}
	return s.gather(conn.Context(), g)
}

// forbidStreams closes conn when a lane is opened, until allow is called:
// otherwise strangers could leave there what all lanes may hold.
func forbidStreams(ctx context.Context, conn *quic.Conn) (allow func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if _, err := conn.AcceptUniStream(ctx); err == nil {
			closeReason(conn, codeProtocol, "a lane was opened before the proof")
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

// prove checks the copier's proof, calls proved and answers with our proof.
func (s *Server) prove(conn *quic.Conn, control *quic.Stream, proved func()) error {
	var msg proofMsg
	if err := readControl(control, controlProof, &msg); err != nil {
		return err
	}
	version, ok := commonVersion(protocolVersions(), msg.Versions)
	if !ok {
		return refuse(codeVersion, "the copier speaks versions %v, the responder %v", msg.Versions, protocolVersions())
	}
	state := conn.ConnectionState().TLS
	secret := s.cfg.Identity.secretUntil(msg.Expires)
	if !proven(&state, secret, copierLabel, msg.Proof) {
		return refuse(codeSecret, "the copier's secret is not this responder's, its invite may be an old one")
	}
	if t := time.Unix(msg.Expires, 0).UTC(); msg.Expires != 0 && expired(t, s.cfg.now()) {
		return refuse(codeExpired, "the invite expired on %s", t.Format(time.DateTime))
	}
	proof, err := prove(&state, secret, responderLabel)
	if err != nil {
		return err
	}
	proved()
	return writeControl(control, controlProved, proofMsg{Version: version, Proof: proof})
}

// hello begins a session.
func (s *Server) hello(link serverLink, body []byte) (*gathering, error) {
	var msg helloMsg
	if err := parseControlBody(body, &msg); err != nil {
		return nil, err
	}
	if err := msg.check(); err != nil {
		return nil, refuse(codeRefused, "%v", err)
	}
	g := &gathering{
		id: make([]byte, 16),
		hello: Hello{
			Name: msg.Name, Version: msg.Version, Lanes: msg.Lanes, Maps: msg.Maps, Rates: msg.Rates,
			Remote: addrPort(link.conn.RemoteAddr()),
		},
		conns:    make([]serverLink, msg.Connections),
		complete: make(chan struct{}),
		joined:   make(chan struct{}, msg.Connections),
		missing:  msg.Connections - 1,
	}
	g.conns[0] = link
	_, _ = rand.Read(g.id) // never fails, see its documentation
	if s.cfg.Accept != nil {
		h := g.hello
		h.Maps = slices.Clone(h.Maps)
		if err := s.cfg.Accept(h); errors.Is(err, ErrNotNow) {
			return nil, refuse(codeBusy, "%v", err)
		} else if err != nil {
			return nil, refuse(codeRefused, "%v", err)
		}
	}
	if g.missing == 0 {
		close(g.complete)
		return g, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.waiting) >= maxUnproven {
		return nil, refuse(codeBusy, "too many copiers are connecting at once")
	}
	s.waiting[string(g.id)] = g
	return g, nil
}

// join adds a connection to a session that waits for it.
func (s *Server) join(link serverLink, body []byte) (*gathering, error) {
	var msg joinMsg
	if err := parseControlBody(body, &msg); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.waiting[string(msg.Session)]
	if g == nil || !bytes.Equal(g.id, msg.Session) {
		// It may have been given up a moment ago, on a slow path.
		return nil, refuse(codeFailed, "no session waits for this connection")
	}
	if msg.Index < 1 || msg.Index >= len(g.conns) || g.conns[msg.Index].conn != nil {
		return nil, refuse(codeRefused, "the session does not wait for connection %d", msg.Index)
	}
	g.conns[msg.Index] = link
	g.joined <- struct{}{} // has room for all
	if g.missing--; g.missing == 0 {
		delete(s.waiting, string(g.id))
		close(g.complete)
	}
	return g, nil
}

// gather waits for the session's connections, each handshakeTimeout after the
// one before at most, and makes it a peer.
func (s *Server) gather(ctx context.Context, g *gathering) error {
	timer := time.NewTimer(handshakeTimeout)
	defer timer.Stop()
	for whole := false; !whole; {
		select {
		case <-g.complete:
			whole = true
		case <-g.joined:
			timer.Reset(handshakeTimeout)
		case <-timer.C:
			s.abandon(g)
			return refuse(codeFailed, "connections of the session did not come in time")
		case <-ctx.Done():
			s.abandon(g)
			return context.Cause(ctx)
		}
	}
	for _, l := range g.conns {
		if err := l.control.SetDeadline(time.Time{}); err != nil {
			return err
		}
	}
	s.adopt(newPeer(g, s.log))
	return nil
}

// abandon closes the connections that have joined g.
func (s *Server) abandon(g *gathering) {
	s.mu.Lock()
	delete(s.waiting, string(g.id))
	links := slices.Clone(g.conns[1:])
	s.mu.Unlock()
	for _, l := range links {
		if l.conn != nil {
			closeReason(l.conn, codePartner, "the session's other connections did not come")
		}
	}
}

// readRequest reads a Hello or a Join.
func readRequest(control *quic.Stream) (t controlType, body []byte, err error) {
	h, err := readControlHeader(control)
	if err != nil {
		return 0, nil, err
	}
	t = controlHello
	if controlType(h[0]) == controlJoin {
		t = controlJoin
	}
	limit := maxHello
	if t == controlJoin {
		limit = maxControl
	}
	body, err = readControlBody(control, h, t, limit)
	return t, body, err
}
