package tunnel

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
)

// Whatever goes wrong, both sides must say what, and nobody gets a peer.
func TestHandshakeRefusals(t *testing.T) {
	tests := []struct {
		name       string
		expires    time.Time // of the invite
		server     func(*ServerConfig)
		client     func(*ClientConfig)
		want       error
		copierSays string
		serverSays string
	}{
		{
			name:   "wrong secret",
			client: func(c *ClientConfig) { c.Invite.Secret[0] ^= 1 },
			want:   ErrSecret, copierSays: "its invite may be an old one", serverSays: "secret is not this responder's",
		},
		{
			name:   "wrong fingerprint",
			client: func(c *ClientConfig) { c.Invite.Fingerprint[31] ^= 1 },
			want:   ErrFingerprint, copierSays: "has got a new key", serverSays: "invite names another key",
		},
		{
			name:    "expired at the responder",
			server:  func(s *ServerConfig) { s.now = func() time.Time { return time.Now().Add(2 * time.Hour) } },
			expires: time.Now().Add(time.Hour),
			want:    ErrExpired, copierSays: "expired on", serverSays: "expired on",
		},
		{
			name:    "time of the invite put off",
			expires: time.Now().Add(time.Hour),
			client:  func(c *ClientConfig) { c.Invite.Expires = c.Invite.Expires.Add(time.Hour) },
			want:    ErrSecret, copierSays: "its invite may be an old one", serverSays: "secret is not this responder's",
		},
		{
			name: "map not allowed",
			server: func(s *ServerConfig) {
				s.Accept = func(h Hello) error { return fmt.Errorf("target %v is not in --allow", h.Maps[0].Target) }
			},
			want: ErrRefused, copierSays: "target 192.0.2.1:80 is not in --allow", serverSays: "target 192.0.2.1:80 is not in --allow",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			checkLeaks(t)
			var log logBuffer
			id := testIdentity(t)
			scfg := ServerConfig{Identity: id, Log: log.logger()}
			if tt.server != nil {
				tt.server(&scfg)
			}
			s := listen(t, scfg)
			ccfg := ClientConfig{Invite: id.Invite([]string{s.Addr().String()}, tt.expires)}
			if tt.client != nil {
				tt.client(&ccfg)
			}
			c := newClient(t, ccfg)
			err := c.Connect(testContext(t))
			if !errors.Is(err, tt.want) {
				t.Fatalf("err = %v, want %v", err, tt.want)
			}
			if !strings.Contains(err.Error(), tt.copierSays) {
				t.Errorf("copier says %q, want %q in it", err, tt.copierSays)
			}
			eventually(t, "the responder's log", func() bool { return strings.Contains(log.String(), tt.serverSays) })
			if c.Lane(0).Up() || c.Stats().Up {
				t.Error("a lane is up")
			}
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if p, err := s.Accept(ctx); err == nil {
				t.Errorf("the responder has got a peer: %+v", p.Hello())
			}
		})
	}
}

func TestNewClientRefuses(t *testing.T) {
	good := ClientConfig{Invite: exampleInvite(), Lanes: 1, Maps: testMaps()}
	good.Invite.Expires = time.Time{}
	tests := []struct {
		name   string
		change func(*ClientConfig)
		want   error
		says   string
	}{
		{"no invite", func(c *ClientConfig) { c.Invite = Invite{} }, ErrNoInvite, "no invite"},
		{"no address", func(c *ClientConfig) { c.Invite.Addrs = nil }, ErrBadInvite, "no address"},
		{"no lanes", func(c *ClientConfig) { c.Lanes = 0 }, nil, "0 lanes"},
		{"too many lanes", func(c *ClientConfig) { c.Lanes = 65 }, nil, "65 lanes"},
		{"too many maps", func(c *ClientConfig) { c.Maps = make([]Map, 257) }, nil, "257 maps"},
		{"map without target", func(c *ClientConfig) { c.Maps = []Map{{Port: 80}} }, nil, "map 1"},
		{"more connections than lanes", func(c *ClientConfig) { c.Connections = 2 }, nil, "2 connections"},
		{"tiny queue", func(c *ClientConfig) { c.QueueBytes = 1000 }, nil, "queue of 1000 bytes"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := good
			tt.change(&cfg)
			_, err := NewClient(cfg)
			if err == nil || tt.want != nil && !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("err = %v, want %v saying %q", err, tt.want, tt.says)
			}
		})
	}
	if _, err := NewClient(good); err != nil {
		t.Errorf("the unchanged config is refused: %v", err)
	}
}

// rawCopier speaks the handshake by hand, to break it.
func rawCopier(t *testing.T, addr string) (*quic.Conn, *quic.Stream) {
	t.Helper()
	conn, err := quic.DialAddr(testContext(t), addr, clientTLS(), quicConfig(0, MaxLanes, returnsWindow))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.CloseWithError(0, "") })
	control, err := conn.OpenStream()
	if err != nil {
		t.Fatal(err)
	}
	return conn, control
}

func TestHandshakeProtocolErrors(t *testing.T) {
	good := func(conn *quic.Conn, id Identity) []byte {
		cs := conn.ConnectionState().TLS
		proof, err := prove(&cs, id.secretUntil(0), copierLabel)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := appendControl(nil, controlProof, proofMsg{Versions: []int{1}, Proof: proof})
		return b
	}
	tests := []struct {
		name string
		send func(conn *quic.Conn, id Identity) []byte
		code quic.ApplicationErrorCode
		says string
	}{
		{"other versions only", func(*quic.Conn, Identity) []byte {
			b, _ := appendControl(nil, controlProof, proofMsg{Versions: []int{7, 8}})
			return b
		}, codeVersion, "versions [7 8], the responder [1]"},
		{"no proof", func(*quic.Conn, Identity) []byte {
			b, _ := appendControl(nil, controlProof, proofMsg{Versions: []int{1}})
			return b
		}, codeSecret, "secret is not"},
		{"the responder's proof sent back", func(conn *quic.Conn, id Identity) []byte {
			cs := conn.ConnectionState().TLS
			proof, _ := prove(&cs, id.secretUntil(0), responderLabel)
			b, _ := appendControl(nil, controlProof, proofMsg{Versions: []int{1}, Proof: proof})
			return b
		}, codeSecret, "secret is not"},
		{"Hello before the proof", func(*quic.Conn, Identity) []byte {
			b, _ := appendControl(nil, controlHello, helloMsg{})
			return b
		}, codeProtocol, "type 3 where 1 belongs"},
		{"huge message before the proof", func(*quic.Conn, Identity) []byte {
			return []byte{byte(controlProof), 0xff, 0xff, 0xff}
		}, codeProtocol, "16777215 bytes"},
		{"not JSON", func(*quic.Conn, Identity) []byte {
			return []byte{byte(controlProof), 0, 0, 3, 'x', 'y', 'z'}
		}, codeProtocol, "control message"},
		{"too many lanes", func(conn *quic.Conn, id Identity) []byte {
			b, _ := appendControl(good(conn, id), controlHello, helloMsg{Lanes: 65, Connections: 1, Maps: testMaps()})
			return b
		}, codeRefused, "65 lanes"},
		{"joining a session that is not there", func(conn *quic.Conn, id Identity) []byte {
			b, _ := appendControl(good(conn, id), controlJoin, joinMsg{Session: make([]byte, 16), Index: 1})
			return b
		}, codeFailed, "no session waits"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			id := testIdentity(t)
			s := listen(t, ServerConfig{Identity: id})
			conn, control := rawCopier(t, s.Addr().String())
			if _, err := control.Write(tt.send(conn, id)); err != nil {
				t.Fatal(err)
			}
			<-conn.Context().Done()
			var app *quic.ApplicationError
			if err := context.Cause(conn.Context()); !errors.As(err, &app) || app.ErrorCode != tt.code || !strings.Contains(app.ErrorMessage, tt.says) {
				t.Errorf("closed with %v, want code %d saying %q", err, tt.code, tt.says)
			}
		})
	}
}

// tlsPair returns the two ends of a TLS session.
func tlsPair(t *testing.T, id Identity) (copier, responder *tls.ConnectionState) {
	t.Helper()
	a, b := net.Pipe()
	client, server := tls.Client(a, clientTLS()), tls.Server(b, serverTLS(id))
	done := make(chan error, 1)
	go func() { done <- server.Handshake() }()
	if err := client.Handshake(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = a.Close(), b.Close() })
	c, s := client.ConnectionState(), server.ConnectionState()
	return &c, &s
}

// Somebody between copier and responder has two TLS sessions, and passes proofs
// on from one to the other: they must be worth nothing there.
func TestProofIsBoundToTheSession(t *testing.T) {
	id := testIdentity(t)
	copier, middleIn := tlsPair(t, id)
	middleOut, responder := tlsPair(t, id)

	proof, err := prove(copier, id.Secret, copierLabel)
	if err != nil {
		t.Fatal(err)
	}
	if !proven(middleIn, id.Secret, copierLabel, proof) {
		t.Error("the other end of the same session does not accept the proof")
	}
	if proven(responder, id.Secret, copierLabel, proof) || proven(middleOut, id.Secret, copierLabel, proof) {
		t.Error("the proof is accepted in another session")
	}
	if proven(middleIn, id.Secret, responderLabel, proof) {
		t.Error("the copier's proof is accepted as the responder's")
	}
	other := id.Secret
	other[0] ^= 1
	if proven(middleIn, other, copierLabel, proof) {
		t.Error("the proof is accepted for another secret")
	}
}

// A port that nobody listens on costs 3 s per address and gets one clear line.
func TestUnreachable(t *testing.T) {
	checkLeaks(t)
	silent, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Close() }()
	i := exampleInvite()
	i.Expires, i.Addrs = time.Time{}, []string{silent.LocalAddr().String()}
	c := newClient(t, ClientConfig{Invite: i})
	if err := c.Connect(testContext(t)); !errors.Is(err, errNoAnswer) || !strings.Contains(err.Error(), i.Addrs[0]) {
		t.Errorf("err = %v, want no answer from %s", err, i.Addrs[0])
	}
}

// A copier that is too slow may come again: neither side may take a handshake
// without an answer for a breach of the protocol, which ends a copier that starts.
func TestSlowHandshakeMayBeTriedAgain(t *testing.T) {
	checkLeaks(t)
	t.Run("responder", func(t *testing.T) {
		t.Parallel()
		s := listen(t, ServerConfig{Identity: testIdentity(t)})
		conn, control := rawCopier(t, s.Addr().String())
		if _, err := control.Write([]byte{byte(controlProof), 0}); err != nil {
			t.Fatal(err)
		}
		<-conn.Context().Done()
		err := context.Cause(conn.Context())
		var app *quic.ApplicationError
		if !errors.As(err, &app) || app.ErrorCode != codeFailed || !strings.Contains(app.ErrorMessage, "took too long") {
			t.Errorf("closed with %v, want code %d and that it took too long", err, codeFailed)
		}
		if refusal(handshakeError(err)) {
			t.Errorf("the copier would not try again: %v", err)
		}
	})
	t.Run("copier", func(t *testing.T) {
		t.Parallel()
		id := testIdentity(t)
		mute, err := quic.ListenAddr("127.0.0.1:0", serverTLS(id), quicConfig(1, MaxLanes, laneWindow))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = mute.Close() }()
		c := newClient(t, ClientConfig{Invite: id.Invite([]string{mute.Addr().String()}, time.Time{})})
		if err := c.Connect(testContext(t)); !errors.Is(err, errSlow) || refusal(err) {
			t.Errorf("err = %v, want %v", err, errSlow)
		}
		conn, err := mute.Accept(testContext(t))
		if err != nil {
			t.Fatal(err)
		}
		<-conn.Context().Done()
		var app *quic.ApplicationError
		if err := context.Cause(conn.Context()); !errors.As(err, &app) || app.ErrorCode != codeFailed {
			t.Errorf("closed with %v, want code %d", err, codeFailed)
		}
	})
	if linkTimeout >= handshakeTimeout || dialTimeout >= linkTimeout {
		t.Error("the copier waits longer than the responder")
	}
}

func FuzzControlMessages(f *testing.F) {
	f.Add([]byte{1, 0, 0, 2, '{', '}'})
	hello, _ := appendControl(nil, controlHello, helloMsg{Name: "n", Lanes: 2, Connections: 1, Maps: testMaps()})
	f.Add(hello)
	rates, _ := appendControl(nil, controlRates, ratesMsg{Rates{1, 1e6}})
	f.Add(rates)
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < controlHeader {
			return
		}
		want := controlType(b[0])
		n, err := parseControlHeader([controlHeader]byte(b), want, maxHello)
		if err != nil || len(b) < controlHeader+n {
			return
		}
		body := b[controlHeader : controlHeader+n]
		var hello helloMsg
		var rates ratesMsg
		for _, msg := range []any{&proofMsg{}, &hello, &welcomeMsg{}, &joinMsg{}, &clockMsg{}, &mapsMsg{}, &rates, &answerMsg{}} {
			if err := parseControlBody(body, msg); err != nil && !errors.Is(err, ErrProtocol) {
				t.Fatalf("err = %v", err)
			}
		}
		if hello.check() == nil && (hello.Lanes > MaxLanes || len(hello.Maps) > MaxMaps) {
			t.Fatalf("passed: %+v", hello)
		}
		if rates.Rates.check() == nil && !(rates.Rates.Connections >= 0 && rates.Rates.Bytes <= maxRate) {
			t.Fatalf("passed: %+v", rates)
		}
	})
}

func FuzzPreamble(f *testing.F) {
	f.Add(preamble(3), 4, 1, 2)
	f.Fuzz(func(t *testing.T, b []byte, lanes, index, n int) {
		if len(b) != preambleLen || lanes < 1 || lanes > MaxLanes || n < 1 || n > lanes || index < 0 || index >= n {
			return
		}
		lane, err := parsePreamble([preambleLen]byte(b), lanes, index, n)
		if err != nil {
			return
		}
		if lane < 0 || lane >= lanes || string(preamble(lane)) != string(b) {
			t.Fatalf("%x gave lane %d", b, lane)
		}
	})
}
