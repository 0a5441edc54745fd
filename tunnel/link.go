package tunnel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/quic-go/quic-go"
)

// A link is one QUIC connection of a copier, both secrets proven, with its own
// socket: several links take several paths where the network hashes by port.
type link struct {
	socket    *net.UDPConn
	transport *quic.Transport
	conn      *quic.Conn
	control   *quic.Stream
}

// dial connects and returns a session that has not been started.
func (c *Client) dial(ctx context.Context) (*session, error) {
	var errs []error
	for _, addr := range c.cfg.addrs() {
		s, err := c.dialAddr(ctx, addr)
		if err == nil {
			return s, nil
		}
		errs = append(errs, fmt.Errorf("connect to %s: %w", addr, err))
		if ctx.Err() != nil {
			break
		}
	}
	return nil, errors.Join(errs...)
}

// dialAddr tries all IP addresses that addr stands for.
func (c *Client) dialAddr(ctx context.Context, addr string) (*session, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	lookup, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	number, err := net.DefaultResolver.LookupPort(lookup, "udp", port)
	if err != nil {
		return nil, err
	}
	ips, err := net.DefaultResolver.LookupNetIP(lookup, "ip", host)
	if err != nil {
		return nil, err
	}
	var last error
	for _, ip := range ips {
		s, err := c.dialSession(ctx, netip.AddrPortFrom(ip.Unmap(), uint16(number)))
		if err == nil {
			return s, nil
		}
		if last == nil || refusal(err) {
			last = err
		}
	}
	return nil, last
}

// dialSession makes all connections of a session.
func (c *Client) dialSession(ctx context.Context, to netip.AddrPort) (_ *session, err error) {
	s := newSession()
	defer func() {
		if err != nil {
			s.fail(err)
			s.release()
		}
	}()
	var welcome welcomeMsg
	for i := range c.cfg.Connections {
		l, err := c.dialLink(ctx, to)
		if err != nil {
			return nil, err
		}
		s.links = append(s.links, l)
		err = l.within(ctx, func() error {
			if i == 0 {
				if err := writeControl(l.control, controlHello, c.cfg.hello()); err != nil {
					return err
				}
			} else if err := writeControl(l.control, controlJoin, joinMsg{Session: welcome.Session, Index: i}); err != nil {
				return err
			}
			return readControl(l.control, controlWelcome, &welcome)
		})
		if err != nil {
			return nil, err
		}
	}
	warnBuffers(c.log, s.links[0].socket)
	return s, nil
}

// dialLink makes one connection, up to and including both proofs.
func (c *Client) dialLink(ctx context.Context, to netip.AddrPort) (_ *link, err error) {
	l := &link{}
	defer func() {
		if err != nil {
			l.close(codeDone, "handshake failed")
		}
	}()
	network := "udp4"
	if to.Addr().Is6() {
		network = "udp6"
	}
	if l.socket, err = listenUDP(network, nil); err != nil {
		return nil, err
	}
	l.transport = &quic.Transport{Conn: l.socket}
	config := quicConfig(0)
	config.KeepAlivePeriod = keepAlive
	short, cancel := context.WithTimeoutCause(ctx, dialTimeout, errNoAnswer)
	defer cancel()
	l.conn, err = l.transport.Dial(short, net.UDPAddrFromAddrPort(to), clientTLS(), config)
	if err != nil {
		var idle *quic.IdleTimeoutError
		var slow *quic.HandshakeTimeoutError
		if errors.Is(context.Cause(short), errNoAnswer) || errors.As(err, &idle) || errors.As(err, &slow) {
			return nil, errNoAnswer
		}
		return nil, handshakeError(err)
	}
	state := l.conn.ConnectionState().TLS
	if len(state.PeerCertificates) == 0 || fingerprint(state.PeerCertificates[0]) != c.cfg.Invite.Fingerprint {
		l.close(codeFingerprint, "the copier's invite names another key")
		return nil, fmt.Errorf("%w: %s is another host, or its responder has got a new key", ErrFingerprint, to)
	}
	return l, l.within(ctx, func() error { return c.prove(l) })
}

var errNoAnswer = errors.New("no answer: is the responder running, and is its UDP port open on the way?")

// within runs a step of the handshake, which ends with ctx or when time is up,
// and names what the responder said if that ended it.
func (l *link) within(ctx context.Context, step func() error) error {
	if l.control != nil {
		if err := l.control.SetDeadline(time.Now().Add(dialTimeout)); err != nil {
			return err
		}
	}
	stop := context.AfterFunc(ctx, func() { closeReason(l.conn, codeDone, "copier stops") })
	err := step()
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		if errors.Is(err, ErrProtocol) {
			closeReason(l.conn, codeProtocol, err.Error())
		}
		if cause := context.Cause(l.conn.Context()); cause != nil && !errors.Is(err, ErrSecret) && !errors.Is(err, ErrProtocol) {
			err = cause
		}
		return handshakeError(err)
	}
	return l.control.SetDeadline(time.Time{})
}

// prove opens the control stream and proves the secret, both ways.
func (c *Client) prove(l *link) (err error) {
	l.control, err = l.conn.OpenStream()
	if err != nil {
		return err
	}
	if err := l.control.SetDeadline(time.Now().Add(dialTimeout)); err != nil {
		return err
	}
	state := l.conn.ConnectionState().TLS
	proof, err := prove(&state, c.cfg.Invite.Secret, copierLabel)
	if err != nil {
		return err
	}
	if err := writeControl(l.control, controlProof, proofMsg{Versions: protocolVersions(), Proof: proof}); err != nil {
		return err
	}
	var answer proofMsg
	if err := readControl(l.control, controlProved, &answer); err != nil {
		return err
	}
	if !proven(&state, c.cfg.Invite.Secret, responderLabel, answer.Proof) {
		closeReason(l.conn, codeSecret, "the responder's proof is wrong")
		return fmt.Errorf("%w: the responder cannot prove it", ErrSecret)
	}
	if _, ok := commonVersion(protocolVersions(), []int{answer.Version}); !ok {
		closeReason(l.conn, codeVersion, "the copier does not speak the version chosen")
		return fmt.Errorf("%w: the responder chose %d", ErrVersion, answer.Version)
	}
	return nil
}

// close ends the connection and its socket; parts that do not exist yet are
// passed over.
func (l *link) close(code quic.ApplicationErrorCode, reason string) {
	if l.conn != nil {
		closeReason(l.conn, code, reason)
	}
	if l.transport != nil {
		_ = l.transport.Close()
	}
	if l.socket != nil {
		_ = l.socket.Close()
	}
}
