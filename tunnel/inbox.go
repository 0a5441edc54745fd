package tunnel

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"github.com/quic-go/quic-go"

	"flowtwin/tunnel/frame"
)

const (
	returnsMost = 1 << 20  // bytes of returns that wait for the shard
	returnsWake = 64 << 10 // from here on the shard is woken
	returnsRead = 64 << 10 // read from QUIC at once, at most
)

// An inbox holds what came back on a lane until the shard takes it.
type inbox struct {
	waiting atomic.Bool // fill is not empty

	mu    sync.Mutex
	room  *sync.Cond // fill was taken, or the inbox detached
	fill  []byte     // whole frames
	epoch uint64     // the connection of fill's frames
	up    uint64     // the epoch of the connection that delivers, 0 none
	lent  []byte
	bye   chan struct{} // closed when ReturnBye has come in this epoch
}

func (i *inbox) init() {
	i.room = sync.NewCond(&i.mu)
	i.bye = make(chan struct{})
}

func (i *inbox) attach(epoch uint64) {
	i.mu.Lock()
	i.up = epoch
	i.bye = make(chan struct{})
	i.mu.Unlock()
}

func (i *inbox) detach() {
	i.mu.Lock()
	i.up = 0
	i.mu.Unlock()
	i.room.Broadcast()
}

// deliver adds whole frames, waiting while the inbox is full or holds those of
// an earlier connection. It reports whether the shard should be woken.
//
// When the connection breaks while it waits, frames of this connection are added
// beyond the bound (64 KiB at most); behind those of an earlier connection they
// are dropped: their flows ended without an account, and count as lost.
func (i *inbox) deliver(epoch uint64, frames []byte, bye bool) (wake bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for i.up == epoch && len(i.fill) > 0 && (i.epoch != epoch || len(i.fill)+len(frames) > returnsMost) {
		i.room.Wait()
	}
	if len(i.fill) > 0 && i.epoch != epoch {
		return false
	}
	before := len(i.fill)
	i.fill = append(i.fill, frames...)
	i.epoch = epoch
	i.waiting.Store(true)
	if bye && i.up == epoch {
		close(i.bye)
	}
	return bye || before < returnsWake && len(i.fill) >= returnsWake
}

// take hands the waiting frames over.
func (i *inbox) take() (frames []byte, epoch uint64) {
	if !i.waiting.Load() {
		return nil, 0
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.fill, i.lent = i.lent[:0], i.fill
	i.waiting.Store(false)
	i.room.Signal()
	return i.lent, i.epoch
}

// Returns hands over the return frames that have arrived since the last call, as
// whole frames one behind the other, lent until the next call; nil when there are
// none. epoch is the connection they belong to, and 0 when there are none. Frames
// are never lost here: when the shard does not read, the responder is held back.
func (l *Lane) Returns() (frames []byte, epoch uint64) { return l.inbox.take() }

// readReturns carries what comes on s to the inbox until the connection ends or
// the responder has said ReturnBye. The bytes read are added to count.
func (l *Lane) readReturns(s *quic.ReceiveStream, epoch uint64, count *atomic.Uint64) error {
	b, n := make([]byte, returnsRead), 0
	for {
		k, err := s.Read(b[n:])
		n += k
		count.Add(uint64(k))
		whole, bye, ferr := wholeReturns(b[:n])
		if ferr != nil {
			return ferr
		}
		if whole > 0 {
			if l.inbox.deliver(epoch, b[:whole], bye) {
				l.callWake()
			}
			n = copy(b, b[whole:n])
		}
		switch {
		case bye && n > 0:
			return fmt.Errorf("%w: frames after ReturnBye", ErrProtocol)
		case bye:
			return nil
		case errors.Is(err, io.EOF):
			return fmt.Errorf("%w: returns ended without ReturnBye", ErrProtocol)
		case err != nil:
			return err
		}
	}
}

// wholeReturns returns the length of the whole frames that b begins with, and
// whether the last is ReturnBye.
func wholeReturns(b []byte) (n int, bye bool, err error) {
	rest := b
	for !bye {
		t, _, _, next, err := frame.Next(rest)
		if errors.Is(err, frame.ErrShort) {
			break
		}
		if err == nil && !t.OnReturns() {
			err = frame.ErrType
		}
		if err != nil {
			return 0, false, fmt.Errorf("%w: returns: type %d: %w", ErrProtocol, t, err)
		}
		bye = t == frame.TypeReturnBye
		rest = next
	}
	return len(b) - len(rest), bye, nil
}

// byeOf returns the channel that is closed when ReturnBye has come on the
// present connection.
func (i *inbox) byeOf() chan struct{} {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.bye
}
