package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
)

// A session is a copier's set of connections that live and die together.
type session struct {
	links []*link
	clock clock
	asks  chan ask              // for the control stream
	owed  atomic.Pointer[Rates] // that the responder could not be told in time

	once   sync.Once
	err    error         // why it ended; set before failed is closed
	failed chan struct{} // closed when it ends
	done   chan struct{} // closed when all its goroutines have ended too
}

func newSession() *session {
	return &session{asks: make(chan ask), failed: make(chan struct{}), done: make(chan struct{})}
}

// over reports whether the session has ended.
func (s *session) over() bool {
	select {
	case <-s.failed:
		return true
	default:
		return false
	}
}

func (s *session) remote() string { return s.links[0].conn.RemoteAddr().String() }

// fail ends the session, the first time that it is called.
func (s *session) fail(err error) {
	s.once.Do(func() {
		code, reason := codePartner, "another connection of the session broke"
		switch {
		case errors.Is(err, ErrClosed):
			code, reason = codeDone, "copier stops"
		case errors.Is(err, ErrProtocol):
			code, reason = codeProtocol, err.Error()
		}
		s.err = err
		close(s.failed)
		for _, l := range s.links {
			closeReason(l.conn, code, reason)
		}
	})
}

// release frees the sockets of a session that has ended.
func (s *session) release() {
	for _, l := range s.links {
		l.close(codeDone, "")
	}
}

// start brings the lanes up and runs the session until it ends; ended is then
// told why.
func (s *session) start(lanes []*Lane, epoch uint64, returned *atomic.Uint64, t pingTimes, ended func(error)) {
	var wg sync.WaitGroup
	run := func(f func() error) {
		wg.Go(func() {
			if err := f(); err != nil {
				s.fail(lost(err))
			}
		})
	}
	for _, l := range s.links {
		context.AfterFunc(l.conn.Context(), func() { s.fail(lost(context.Cause(l.conn.Context()))) })
	}
	for i, lane := range lanes {
		stream, err := s.link(i).conn.OpenUniStream()
		if err == nil {
			_, err = stream.Write(preamble(i))
		}
		if err != nil {
			s.fail(lost(err))
			break
		}
		lane.attach(epoch, stream)
		run(func() error { return lane.write(stream, s.link(i).socket.expect) })
	}
	for i, l := range s.links {
		run(func() error { return s.acceptReturns(l, i, lanes, epoch, returned, run) })
	}
	run(func() error { return s.converse(s.links[0], t) })
	go func() {
		<-s.failed
		for _, lane := range lanes {
			lane.detach()
		}
		wg.Wait()
		s.release()
		ended(s.err)
		close(s.done)
	}()
}

// link returns the connection that carries lane i.
func (s *session) link(i int) *link { return s.links[i%len(s.links)] }

// acceptReturns takes the responder's streams on link index, one for each of its
// lanes.
func (s *session) acceptReturns(l *link, index int, lanes []*Lane, epoch uint64, returned *atomic.Uint64, run func(func() error)) error {
	seen := make(map[int]bool)
	for {
		stream, err := l.conn.AcceptUniStream(l.conn.Context())
		if err != nil {
			return err
		}
		var b [preambleLen]byte
		if _, err := io.ReadFull(stream, b[:]); err != nil {
			return err
		}
		i, err := parsePreamble(b, len(lanes), index, len(s.links))
		if err != nil {
			return err
		}
		if seen[i] {
			return fmt.Errorf("%w: lane %d has returns already", ErrProtocol, i)
		}
		seen[i] = true
		run(func() error { return lanes[i].readReturns(stream, epoch, returned) })
	}
}

// lost names why a connection that was up has ended.
func lost(err error) error {
	var app *quic.ApplicationError
	var idle *quic.IdleTimeoutError
	var reset *quic.StatelessResetError
	switch {
	case errors.As(err, &app) && app.Remote && app.ErrorCode == codeProtocol:
		return fmt.Errorf("connection lost: the other side reports a %w: %s", ErrProtocol, app.ErrorMessage)
	case errors.As(err, &app) && app.Remote:
		return fmt.Errorf("connection ended by the other side: %s", app.ErrorMessage)
	case errors.As(err, &idle):
		return fmt.Errorf("connection lost: nothing was heard for %v", idleTimeout)
	case errors.As(err, &reset):
		return errors.New("connection lost: the other side was restarted")
	case errors.Is(err, ErrProtocol):
		return err
	}
	return fmt.Errorf("connection lost: %w", err)
}

// A clock estimates the responder's clock from pings: the one with the shortest
// round trip among the last 8 had the least chance to wait somewhere.
type clock struct {
	pings int // sent

	mu      sync.Mutex
	samples [8]clockSample
	n       int
}

type clockSample struct{ rtt, offset time.Duration }

// add takes a ping that left at t0, was answered at t1 by the responder's clock
// and came back at t2.
func (c *clock) add(t0, t1, t2 int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	rtt := t2 - t0
	c.samples[c.n%len(c.samples)] = clockSample{time.Duration(rtt), time.Duration(t1 - t0 - rtt/2)}
	c.n++
}

// best returns the sample with the shortest round trip, zeros before the first
// ping. Its offset is the responder's clock minus ours.
func (c *clock) best() clockSample {
	c.mu.Lock()
	defer c.mu.Unlock()
	var best clockSample
	for i, s := range c.samples[:min(c.n, len(c.samples))] {
		if i == 0 || s.rtt < best.rtt {
			best = s
		}
	}
	return best
}

// pingTimes are when pings are sent, and how long an answer is waited for.
type pingTimes struct{ every, patience time.Duration }

// fullPacket is more than the largest packet of a tunnel holds.
const fullPacket = 1600

// ping asks the responder for its time. Every second ping is so long that it and its
// answer fill a packet: where a path's MTU becomes smaller without a word, all that
// is short passes, and what is long is lost as often as it is sent again.
func (c *clock) ping(control *quic.Stream, patience time.Duration) error {
	var pong clockMsg
	ping := clockMsg{T0: time.Now().UnixNano()}
	if c.pings++; c.pings%2 == 0 {
		ping.Pad = strings.Repeat(" ", fullPacket)
	}
	err := writeControl(control, controlPing, ping)
	if err == nil {
		err = control.SetReadDeadline(time.Now().Add(patience))
	}
	if err == nil {
		err = readLongControl(control, controlPong, maxPing, &pong)
	}
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded) && ping.Pad != "":
		return fmt.Errorf("packets of full size are not answered for %v: has the MTU of the path become smaller?", patience)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("a ping is not answered for %v", patience)
	case err != nil:
		return err
	}
	c.add(ping.T0, pong.T1, time.Now().UnixNano())
	return control.SetReadDeadline(time.Time{})
}

// An ask is a wish, for other maps or rates, and where the answer goes: a place for
// it must be free.
type ask struct {
	what   controlType // the answer's is the next one
	msg    any
	answer chan<- error
}

// converse uses a link's control stream until the session ends: one question at a
// time, whose answer is read as soon as it is there.
func (s *session) converse(l *link, t pingTimes) error {
	ping := func() error { return s.clock.ping(l.control, t.patience) }
	ask := func(question func() error) error {
		l.socket.expect(1)
		defer l.socket.expect(-1)
		return question()
	}
	tick := time.NewTicker(t.every)
	defer tick.Stop()
	if err := ask(ping); err != nil {
		return err
	}
	for {
		var err error
		if r := s.owed.Swap(nil); r != nil {
			if err := ask(func() error { return askRates(*r).put(l.control) }); err != nil {
				return err
			}
		}
		select {
		case <-tick.C:
			err = ask(ping)
		case a := <-s.asks:
			err = ask(func() error { return a.put(l.control) })
		case <-s.failed:
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// askRates is a wish for other rates, and nobody waits for the answer yet.
func askRates(r Rates) ask {
	return ask{what: controlRates, msg: ratesMsg{Rates: r}, answer: make(chan error, 1)}
}

// attend lets packets wait to be read if the responder is near.
func (s *session) attend() {
	near := s.clock.best().rtt <= nearby
	for _, l := range s.links {
		l.socket.setPatient(near)
	}
}

// put asks the responder. An error of it is the connection's.
func (a ask) put(control *quic.Stream) error {
	var msg answerMsg
	err := writeControl(control, a.what, a.msg)
	if err == nil {
		err = readControl(control, a.what+1, &msg)
	}
	switch {
	case err != nil:
		a.answer <- lost(err)
	case msg.Refused != "":
		a.answer <- fmt.Errorf("%w: %s", ErrRefused, msg.Refused)
	default:
		a.answer <- nil
	}
	return err
}
