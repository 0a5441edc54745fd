package tunnel

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/quic-go/quic-go"

	"flowtwin/tunnel/frame"
)

const (
	readFirst = 64 << 10  // a lane's read buffer at first,
	readMost  = 256 << 10 // and when there is much to read; a longer frame makes it larger

	returnQueue  = 2 << 20 // returns that may be dropped are refused beyond it
	returnFlush  = 16 << 10
	returnWait   = 25 * time.Millisecond
	returnKeep   = 256 << 10 // larger buffers, left by a jam, go to the collector
	returnPieces = 32 << 10  // written to QUIC at once
)

// A PeerLane is the responder's end of a lane.
type PeerLane struct {
	peer    *Peer
	arrived chan *quic.ReceiveStream

	// The reader's own.
	stream *quic.ReceiveStream
	buf    []byte
	lent   int // buf begins with so much that was lent
	filled int // and has so much in all
	err    error

	mu      sync.Mutex
	pending []byte // returns, whole frames
	writing int    // bytes that the writer has taken and not yet written
	over    bool
	bye     bool // ReturnBye is among them: nothing follows
	timed   bool // timer runs
	timer   *time.Timer
	work    chan struct{}
}

func newPeerLane(p *Peer) *PeerLane {
	l := &PeerLane{
		peer: p, arrived: make(chan *quic.ReceiveStream, 1),
		buf: make([]byte, readFirst), work: make(chan struct{}, 1),
	}
	l.timer = time.AfterFunc(time.Hour, l.signal)
	l.timer.Stop()
	return l
}

// Read blocks until frames have arrived and returns whole ones, one behind the
// other, lent until the next call (at most about 256 KiB, or one frame). io.EOF
// after Bye, which is not among them. One goroutine at a time.
func (l *PeerLane) Read() ([]byte, error) {
	if l.err != nil {
		return nil, l.err
	}
	if l.stream == nil {
		select {
		case l.stream = <-l.arrived:
		case <-l.peer.failed:
			return nil, l.stop(l.peer.err)
		}
	}
	l.filled = copy(l.buf, l.buf[l.lent:l.filled])
	l.lent = 0
	for {
		n, err := l.stream.Read(l.buf[l.filled:])
		l.filled += n
		whole, need, bye, ferr := wholeFrames(l.buf[:l.filled])
		switch {
		case ferr != nil:
			l.peer.fail(ferr)
			return nil, l.stop(ferr)
		case bye:
			l.err = io.EOF
			if whole == 0 {
				return nil, io.EOF
			}
			return l.buf[:whole:whole], nil
		case errors.Is(err, io.EOF):
			err = fmt.Errorf("%w: lane ended without Bye", ErrProtocol)
			l.peer.fail(err)
			return nil, l.stop(err)
		case err != nil:
			l.peer.fail(err)
			return nil, l.stop(l.peer.err)
		}
		l.grow(need)
		if whole > 0 {
			l.lent = whole
			return l.buf[:whole:whole], nil
		}
	}
}

// stop makes err the answer from now on.
func (l *PeerLane) stop(err error) error {
	l.err = err
	return err
}

// grow makes the buffer larger when it was filled, or when the frame at its end,
// of need bytes, is longer. What has been read stays where it is.
func (l *PeerLane) grow(need int) {
	size := len(l.buf)
	if l.filled == size && size < readMost {
		size *= 2
	}
	if size = max(size, need); size > len(l.buf) {
		b := make([]byte, size)
		copy(b, l.buf[:l.filled])
		l.buf = b
	}
}

// wholeFrames returns the length of the whole frames that b begins with, up to
// Bye; need is the length of the one that follows when it is known.
func wholeFrames(b []byte) (n, need int, bye bool, err error) {
	rest := b
	for {
		t, _, _, next, err := frame.Next(rest)
		if errors.Is(err, frame.ErrShort) {
			if len(rest) >= frame.HeaderLen {
				need = frame.HeaderLen + (int(rest[1])<<16 | int(rest[2])<<8 | int(rest[3]))
			}
			return len(b) - len(rest), need, false, nil
		}
		if err == nil && !t.OnLane() {
			err = frame.ErrType
		}
		if err != nil {
			return 0, 0, false, fmt.Errorf("%w: lane: type %d: %w", ErrProtocol, t, err)
		}
		if t == frame.TypeBye {
			if len(next) > 0 {
				return 0, 0, false, fmt.Errorf("%w: lane: frames after Bye", ErrProtocol)
			}
			return len(b) - len(rest), 0, true, nil
		}
		rest = next
	}
}

// Return queues whole return frames for the copier, copying them. must says that
// they may not be dropped (Established, Closed, ReturnBye): they are always taken
// and count against the number of sessions; others are refused (false) when the
// queue (2 MiB) is full. Safe from any goroutine. Written after at most 25 ms, or
// at 16 KiB; at once when urgent. ReturnBye comes last, in a call of its own.
// After the connection has ended everything is refused.
func (l *PeerLane) Return(frames []byte, must, urgent bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over || l.bye || !must && l.writing+len(l.pending)+len(frames) > returnQueue {
		return false
	}
	l.bye = len(frames) >= frame.HeaderLen && frame.Type(frames[0]) == frame.TypeReturnBye
	l.pending = append(l.pending, frames...)
	switch {
	case urgent || l.bye || len(l.pending) >= returnFlush:
		l.signal()
	case !l.timed:
		l.timed = true
		l.timer.Reset(returnWait)
	}
	return true
}

func (l *PeerLane) signal() {
	select {
	case l.work <- struct{}{}:
	default:
	}
}

// end makes the writer stop and refuses returns from now on.
func (l *PeerLane) end() {
	l.mu.Lock()
	l.over = true
	l.pending = nil
	l.timer.Stop()
	l.mu.Unlock()
	l.signal()
}

// write carries returns to the copier until the lane ends or ReturnBye is
// written.
func (l *PeerLane) write(conn *quic.Conn, index int) error {
	stream, err := conn.OpenUniStream()
	if err != nil {
		return err
	}
	if _, err := stream.Write(preamble(index)); err != nil {
		return err
	}
	var spare []byte
	for {
		<-l.work
		batch, last, over := l.takeReturns(spare)
		if over {
			return nil
		}
		for rest := batch; len(rest) > 0; {
			n, err := stream.Write(rest[:min(len(rest), returnPieces)])
			if err != nil {
				return err
			}
			rest = rest[n:]
			l.wrote(n)
		}
		if last {
			return stream.Close()
		}
		if spare = batch[:0]; cap(spare) > returnKeep {
			spare = nil
		}
	}
}

// takeReturns swaps the pending returns for spare.
func (l *PeerLane) takeReturns(spare []byte) (batch []byte, last, over bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.timed {
		l.timer.Stop()
		l.timed = false
	}
	batch, l.pending = l.pending, spare
	l.writing = len(batch)
	return batch, l.bye, l.over
}

func (l *PeerLane) wrote(n int) {
	l.mu.Lock()
	l.writing -= n
	l.mu.Unlock()
}
