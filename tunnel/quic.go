package tunnel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"syscall"
	"unicode/utf8"

	"github.com/quic-go/quic-go"
)

// Codes that a connection is closed with; the reason text goes with them.
const (
	codeDone        quic.ApplicationErrorCode = iota // an orderly end
	codeSecret                                       // the proof is wrong
	codeVersion                                      // no common version
	codeRefused                                      // maps or limits
	codeExpired                                      // the invite has expired
	codeFingerprint                                  // the responder has another key
	codeProtocol                                     // the other side broke the protocol
	codeBusy                                         // too many connections now
	codeShutdown                                     // the responder stops
	codePartner                                      // another connection of the session broke
	codeFailed                                       // the handshake took too long, or broke off
)

// maxReason keeps a reason inside one packet.
const maxReason = 900

// udpBuffer is what quic-go wants of the sockets' buffers.
const udpBuffer = 7 << 20

// smallestPacket is how large packets are to begin with: what every path has to carry
// (RFC 9000, 14), VPNs with an MTU of 1280 included. quic-go finds out what fits; its
// own beginning, 1280, does not fit there, and nobody would ever answer.
const smallestPacket = 1200

// Flow control: what may wait unread in a lane, and in a lane's returns.
const (
	laneWindow    = 16 << 20
	returnsWindow = 4 << 20
	controlWindow = 1 << 20
)

// quicConfig returns the settings of both sides; biStreams is how many
// bidirectional streams the peer may open, lanes how many unidirectional ones,
// with window bytes each. The connection has room for all of them, from the
// start: however many lanes stand still, they hold no other back.
func quicConfig(biStreams int64, lanes int, window uint64) *quic.Config {
	if biStreams == 0 {
		biStreams = -1 // quic-go's word for none
	}
	room := uint64(lanes)*window + controlWindow
	return &quic.Config{
		InitialPacketSize:              smallestPacket,
		HandshakeIdleTimeout:           handshakeTimeout / 2, // quic-go allows twice that in all
		MaxIdleTimeout:                 idleTimeout,
		MaxStreamReceiveWindow:         window,
		InitialConnectionReceiveWindow: room,
		MaxConnectionReceiveWindow:     room,
		MaxIncomingStreams:             biStreams,
		MaxIncomingUniStreams:          int64(lanes),
	}
}

// listenUDP opens a socket. quic-go would print its own warning about small
// buffers to standard error; warnBuffers says it in the log instead.
func listenUDP(network string, addr *net.UDPAddr) (*net.UDPConn, error) {
	const silence = "QUIC_GO_DISABLE_RECEIVE_BUFFER_WARNING"
	if _, set := os.LookupEnv(silence); !set {
		if err := os.Setenv(silence, "true"); err != nil {
			return nil, err
		}
	}
	return net.ListenUDP(network, addr)
}

// warnBuffers logs when the kernel's limit kept c's buffers small; after quic-go
// has tried to enlarge them.
func warnBuffers(log *slog.Logger, c udpSocket) {
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	size := udpBuffer
	err = raw.Control(func(fd uintptr) {
		for _, opt := range []int{syscall.SO_RCVBUF, syscall.SO_SNDBUF} {
			if n, err := syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, opt); err == nil {
				size = min(size, n)
			}
		}
	})
	if err == nil && size < udpBuffer {
		log.Info("udp buffers are small, bursts may be lost and sent again: raise net.core.rmem_max and wmem_max",
			"bytes", size, "wanted", udpBuffer)
	}
}

// closeReason closes conn with a reason that fits in a packet.
func closeReason(conn *quic.Conn, code quic.ApplicationErrorCode, reason string) {
	if len(reason) > maxReason {
		reason = reason[:maxReason]
		for !utf8.ValidString(reason) && len(reason) > 0 {
			reason = reason[:len(reason)-1]
		}
	}
	_ = conn.CloseWithError(code, reason) // fails only when it is closed already
}

// handshakeError names what the other side, or the network, ended a handshake
// with.
func handshakeError(err error) error {
	var app *quic.ApplicationError
	var transport *quic.TransportError
	switch {
	case errors.As(err, &app) && app.Remote:
		if s := sentinel(app.ErrorCode); s != nil {
			return fmt.Errorf("%w: %s", s, app.ErrorMessage)
		}
		return fmt.Errorf("the other side ended the connection: %s", app.ErrorMessage)
	case errors.As(err, &transport) && transport.ErrorCode == noALPN:
		return &elsewhereError{fmt.Errorf("%w: what listens there does not speak FlowTwin's protocol", ErrVersion)}
	case errors.As(err, &transport) && transport.ErrorCode == quic.ConnectionRefused:
		return errors.New("the other side takes no more connections now")
	case errors.As(err, &transport) && transport.Remote && transport.ErrorCode == quic.ApplicationErrorErrorCode:
		return errors.New("the other side broke the handshake off") // QUIC carries no reason while it lasts
	case errors.Is(err, os.ErrDeadlineExceeded):
		return errSlow
	}
	return err
}

// noALPN is QUIC's form of TLS's alert no_application_protocol.
const noALPN quic.TransportErrorCode = 0x178

// sentinel is the error that a close code means, nil for those that are none of
// a handshake's.
func sentinel(code quic.ApplicationErrorCode) error {
	switch code {
	case codeSecret:
		return ErrSecret
	case codeVersion:
		return ErrVersion
	case codeRefused:
		return ErrRefused
	case codeExpired:
		return ErrExpired
	case codeFingerprint:
		return ErrFingerprint
	case codeProtocol:
		return ErrProtocol
	}
	return nil
}

// A lane's stream, and its returns, begin with the lane's number: streams of one
// connection may appear in any order.
const (
	preambleLen   = 4
	preambleMagic = 0x4654 // "FT"
)

func preamble(lane int) []byte {
	return binary.BigEndian.AppendUint32(nil, preambleMagic<<16|uint32(lane))
}

// parsePreamble returns the number of the lane, which is one of lanes and
// belongs to connection index of n.
func parsePreamble(b [preambleLen]byte, lanes, index, n int) (lane int, err error) {
	word := binary.BigEndian.Uint32(b[:])
	lane = int(word & 0xffff)
	if word>>16 != preambleMagic || lane >= lanes || lane%n != index {
		return 0, fmt.Errorf("%w: a stream begins with %#08x", ErrProtocol, word)
	}
	return lane, nil
}
