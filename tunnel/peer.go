package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
)

// A Peer is one connected copier (with several connections: all of them
// together; when one breaks, all end).
type Peer struct {
	hello Hello
	conns []serverLink
	lanes []*PeerLane
	log   *slog.Logger

	mu      sync.Mutex
	onMaps  func([]Map) error // mu
	onRates func(Rates)       // mu
	rates   Rates             // mu

	once   sync.Once
	err    error         // why it ended; set before failed is closed
	failed chan struct{} // closed when it ends
}

func newPeer(g *gathering, log *slog.Logger) *Peer {
	p := &Peer{hello: g.hello, conns: g.conns, log: log, rates: g.hello.Rates, failed: make(chan struct{})}
	for range g.hello.Lanes {
		p.lanes = append(p.lanes, newPeerLane(p))
	}
	return p
}

// Hello returns what the copier said of itself.
func (p *Peer) Hello() Hello { return p.hello }

// Lane returns lane i.
func (p *Peer) Lane(i int) *PeerLane { return p.lanes[i] }

// Context ends with the connection.
func (p *Peer) Context() context.Context { return p.conns[0].conn.Context() }

// Close ends the connection and tells the copier why.
func (p *Peer) Close(reason string) error {
	p.end(codeShutdown, reason, ErrClosed)
	return nil
}

// end closes all connections, the first time that it is called.
func (p *Peer) end(code quic.ApplicationErrorCode, reason string, err error) {
	p.once.Do(func() {
		p.err = err
		close(p.failed)
		for _, c := range p.conns {
			closeReason(c.conn, code, reason)
		}
	})
}

// fail ends the peer with an error of one of its goroutines.
func (p *Peer) fail(err error) {
	if errors.Is(err, ErrProtocol) {
		p.end(codeProtocol, err.Error(), err)
		return
	}
	p.end(codePartner, "another connection of the session broke", lost(err))
}

// run serves the peer until it ends.
func (p *Peer) run() {
	var wg sync.WaitGroup
	for i, c := range p.conns {
		stop := context.AfterFunc(c.conn.Context(), func() { p.fail(context.Cause(c.conn.Context())) })
		defer stop()
		wg.Go(func() {
			p.fail(p.acceptLanes(c.conn, i))
		})
	}
	wg.Go(func() {
		p.fail(p.converse(p.conns[0].control))
	})
	for i, l := range p.lanes {
		wg.Go(func() {
			if err := l.write(p.conns[i%len(p.conns)].conn, i); err != nil {
				p.fail(err)
			}
		})
	}
	<-p.failed
	for _, l := range p.lanes {
		l.end()
	}
	wg.Wait()
}

// acceptLanes takes the copier's streams on connection index until it ends.
func (p *Peer) acceptLanes(conn *quic.Conn, index int) error {
	taken := make([]bool, len(p.lanes)) // a lane travels on one connection only
	for {
		stream, err := conn.AcceptUniStream(conn.Context())
		if err != nil {
			return err
		}
		var b [preambleLen]byte
		if _, err := io.ReadFull(stream, b[:]); err != nil {
			return err
		}
		i, err := parsePreamble(b, len(p.lanes), index, len(p.conns))
		if err != nil {
			return err
		}
		if taken[i] {
			return fmt.Errorf("%w: lane %d has a stream already", ErrProtocol, i)
		}
		taken[i] = true
		p.lanes[i].arrived <- stream
	}
}

// HandleMaps says who decides about other maps than the Hello named. f is called
// from one goroutine; an error leaves the maps as they are, and its text goes to the
// copier. Without f all are refused. It waits for a call under way.
func (p *Peer) HandleMaps(f func([]Map) error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.onMaps = f
}

// HandleRates says who keeps the copier's rates: f is called at once with what the
// copier has said so far, and whenever it says something else. It waits for a call
// under way.
func (p *Peer) HandleRates(f func(Rates)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.onRates = f; f != nil {
		f(p.rates)
	}
}

// converse answers what the copier asks on the control stream until the connection
// ends: for our time, and for other maps and rates.
func (p *Peer) converse(control *quic.Stream) error {
	for {
		h, err := readControlHeader(control)
		if err != nil {
			return err
		}
		switch controlType(h[0]) {
		case controlMaps:
			err = p.answerMaps(control, h)
		case controlRates:
			err = p.answerRates(control, h)
		default:
			err = answerPing(control, h)
		}
		if err != nil {
			return err
		}
	}
}

// answerPing tells the copier our clock.
func answerPing(control *quic.Stream, h [controlHeader]byte) error {
	body, err := readControlBody(control, h, controlPing, maxPing)
	if err != nil {
		return err
	}
	var msg clockMsg
	if err := parseControlBody(body, &msg); err != nil {
		return err
	}
	msg.T1 = time.Now().UnixNano()
	return writeControl(control, controlPong, msg)
}

// answerMaps takes other maps over, or refuses them.
func (p *Peer) answerMaps(control *quic.Stream, h [controlHeader]byte) error {
	body, err := readControlBody(control, h, controlMaps, maxHello)
	if err != nil {
		return err
	}
	var msg mapsMsg
	if err := parseControlBody(body, &msg); err != nil {
		return err
	}
	var answer answerMsg
	if err := p.decide(msg.Maps); err != nil {
		answer.Refused = fitting(err.Error())
	}
	return writeControl(control, controlMapped, answer)
}

// answerRates takes other rates over.
func (p *Peer) answerRates(control *quic.Stream, h [controlHeader]byte) error {
	body, err := readControlBody(control, h, controlRates, maxControl)
	if err != nil {
		return err
	}
	var msg ratesMsg
	if err := parseControlBody(body, &msg); err != nil {
		return err
	}
	var answer answerMsg
	if err := msg.Rates.check(); err != nil {
		answer.Refused = err.Error()
	} else {
		p.mu.Lock()
		p.rates = msg.Rates
		if p.onRates != nil {
			p.onRates(msg.Rates)
		}
		p.mu.Unlock()
	}
	return writeControl(control, controlRated, answer)
}

// decide asks the handler.
func (p *Peer) decide(maps []Map) error {
	if err := checkMaps(maps); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.onMaps == nil {
		return errors.New("the responder takes no other maps now")
	}
	return p.onMaps(maps)
}

// fitting returns as much of a reason as a control message has room for: JSON may
// make it six times as long.
func fitting(reason string) string {
	const room = maxControl - len(`{"refused":""}`)
	size := 0
	for i, r := range reason {
		switch {
		case r < ' ' || r > '~' || strings.ContainsRune(`"\<>&`, r):
			size += 12
		default:
			size++
		}
		if size > room {
			return reason[:i]
		}
	}
	return reason
}
