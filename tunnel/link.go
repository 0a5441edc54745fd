package tunnel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
)

// A link is one QUIC connection of a copier with its own socket: several links
// take several paths where the network hashes by port.
type link struct {
	to        netip.AddrPort
	deadline  time.Time // of its handshake
	socket    *patientSocket
	transport *quic.Transport
	conn      *quic.Conn
	control   *quic.Stream
}

// joinsAtOnce is how many further connections of a session are made at a time: a
// responder takes only so many newcomers of one host.
const joinsAtOnce = 8

// dial connects and returns a session that has not been started.
func (c *Client) dial(ctx context.Context) (*session, error) {
	addrs := c.cfg.addrs()
	first, err := race(ctx, len(addrs), func(ctx context.Context, i int) (*link, error) {
		l, err := c.dialAddr(ctx, addrs[i])
		if err != nil {
			return nil, fmt.Errorf("connect to %s: %w", addrs[i], err)
		}
		return l, nil
	})
	if err != nil {
		return nil, err
	}
	s, err := c.dialSession(ctx, first)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", first.to, err)
	}
	return s, nil
}

// dialAddr tries all IP addresses that addr stands for.
func (c *Client) dialAddr(ctx context.Context, addr string) (*link, error) {
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
	return race(ctx, len(ips), func(ctx context.Context, i int) (*link, error) {
		return c.dialLink(ctx, netip.AddrPortFrom(ips[i].Unmap(), uint16(number)))
	})
}

// dialSession makes a session of its first link and the further ones, which it
// dials.
func (c *Client) dialSession(ctx context.Context, first *link) (*session, error) {
	links := make([]*link, c.cfg.Connections)
	links[0] = first
	id, err := c.enter(ctx, first, controlHello, c.cfg.hello())
	if err == nil {
		err = c.join(ctx, links, id)
	}
	if err != nil {
		for _, l := range links {
			if l != nil {
				l.close(codePartner, "another connection of the session could not be made")
			}
		}
		return nil, err
	}
	warnBuffers(c.log, first.socket)
	s := newSession()
	s.links = links
	return s, nil
}

// join makes all links but the first.
func (c *Client) join(ctx context.Context, links []*link, session []byte) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	slots := make(chan struct{}, joinsAtOnce)
	var wg sync.WaitGroup
	for i := 1; i < len(links); i++ {
		wg.Go(func() {
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				return
			}
			defer func() { <-slots }()
			l, err := c.dialLink(ctx, links[0].to)
			if err == nil {
				links[i] = l
				_, err = c.enter(ctx, l, controlJoin, joinMsg{Session: session, Index: i})
			}
			if err != nil {
				cancel(err)
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

// dialLink makes one connection, to whoever has the invite's key.
func (c *Client) dialLink(ctx context.Context, to netip.AddrPort) (_ *link, err error) {
	l := &link{to: to, deadline: time.Now().Add(linkTimeout)}
	defer func() {
		if err != nil {
			l.close(codeDone, "handshake failed")
		}
	}()
	network := "udp4"
	if to.Addr().Is6() {
		network = "udp6"
	}
	socket, err := listenUDP(network, nil)
	if err != nil {
		return nil, err
	}
	if l.socket, err = takeOver(socket); err != nil {
		return nil, fmt.Errorf("UDP socket: %w", err)
	}
	quiet, err := newQuietConn(l.socket)
	if err != nil {
		return nil, err
	}
	quiet.wrote = l.socket.wrote
	l.transport = &quic.Transport{Conn: &flapConn{quietConn: quiet}}
	config := quicConfig(0, (c.cfg.Lanes+c.cfg.Connections-1)/c.cfg.Connections, returnsWindow)
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
		return nil, &elsewhereError{fmt.Errorf("%w: %s is another host, or its responder has got a new key", ErrFingerprint, to)}
	}
	return l, nil
}

var (
	errNoAnswer = errors.New("no answer: is the responder running, and is its UDP port open on the way?")
	errSlow     = errors.New("the responder was too slow to answer")
)

// enter proves the secret, both ways, sends the request and returns the session
// that the responder welcomes the link to.
func (c *Client) enter(ctx context.Context, l *link, t controlType, request any) (session []byte, err error) {
	var welcome welcomeMsg
	err = l.within(ctx, func() error {
		if err := c.prove(l); err != nil {
			return err
		}
		if err := writeControl(l.control, t, request); err != nil {
			return err
		}
		return readControl(l.control, controlWelcome, &welcome)
	})
	return welcome.Session, err
}

// within runs the handshake on the control stream, which ends with ctx or when
// time is up, and names what the responder said if that ended it.
func (l *link) within(ctx context.Context, shake func() error) error {
	stop := context.AfterFunc(ctx, func() { closeReason(l.conn, codeDone, "copier stops") })
	err := shake()
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		cause := context.Cause(l.conn.Context())
		switch {
		case errors.Is(err, ErrProtocol):
			closeReason(l.conn, codeProtocol, err.Error())
		case refusal(err): // prove has told the responder why
		case cause != nil:
			err = cause
		default:
			closeReason(l.conn, codeFailed, "the responder took too long to answer")
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
	if err := l.control.SetDeadline(l.deadline); err != nil {
		return err
	}
	state := l.conn.ConnectionState().TLS
	proof, err := prove(&state, c.cfg.Invite.Secret, copierLabel)
	if err != nil {
		return err
	}
	if err := writeControl(l.control, controlProof, proofMsg{Versions: protocolVersions(), Expires: unixOrZero(c.cfg.Invite.Expires), Proof: proof}); err != nil {
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
