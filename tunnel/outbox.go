package tunnel

import "github.com/quic-go/quic-go"

const (
	// directMost is the longest flush that goes straight into the stream, so that
	// its next packet takes it without another goroutine: what surely fits into a
	// packet.
	directMost = 1200
	// directBytes may be written so before the writer must have its turn. QUIC
	// holds such bytes without telling when they have left; the writer's Write
	// returns only after them, so that no more than this escapes the queue's
	// bound.
	directBytes = 64 << 10
)

// An outbox is the queue of a lane's chunks. All of it is guarded by the lane's
// mutex, but for work.
type outbox struct {
	stream *quic.SendStream
	queue  [][]byte // in the order to write; the last one has room for more
	free   [][]byte
	busy   bool // the writer is at work, or has been told to be
	direct int  // bytes written past the writer since it last was idle
	work   chan struct{}
}

func (o *outbox) attach(s *quic.SendStream) {
	o.stream, o.busy, o.direct = s, false, 0
	select { // a signal left from the last connection
	case <-o.work:
	default:
	}
}

func (o *outbox) detach() {
	o.stream = nil
	clear(o.queue)
	o.queue = o.queue[:0]
	o.signal()
}

func (o *outbox) signal() {
	select {
	case o.work <- struct{}{}:
	default:
	}
}

// tryDirect writes b to the stream if that needs neither waiting nor the writer.
func (o *outbox) tryDirect(b []byte) bool {
	if o.busy || len(b) > directMost || o.direct+len(b) > directBytes {
		return false
	}
	if o.stream.TryWriteAll(b) != nil {
		return false
	}
	o.direct += len(b)
	return true
}

// push queues b, taking it over, and returns an empty chunk instead. Small ones
// are joined, so that two neighbours together hold more than a chunk: the queue
// needs at most twice the memory of its bytes.
func (o *outbox) push(b []byte) []byte {
	if n := len(o.queue); n > 0 && len(o.queue[n-1])+len(b) <= chunkLen {
		o.queue[n-1] = append(o.queue[n-1], b...)
		return b[:0]
	}
	o.queue = append(o.queue, b)
	if !o.busy {
		o.busy = true
		o.signal()
	}
	return o.chunk()
}

// pop returns the next chunk to write; nil, and idle, when there is none.
func (o *outbox) pop() []byte {
	if len(o.queue) == 0 {
		o.busy, o.direct = false, 0
		return nil
	}
	b := o.queue[0]
	n := copy(o.queue, o.queue[1:])
	o.queue[n] = nil
	o.queue = o.queue[:n]
	return b
}

// chunk returns an empty one.
func (o *outbox) chunk() []byte {
	n := len(o.free)
	if n == 0 {
		return make([]byte, 0, chunkLen)
	}
	b := o.free[n-1]
	o.free[n-1] = nil
	o.free = o.free[:n-1]
	return b
}

func (o *outbox) recycle(b []byte) {
	if len(o.free) < freeChunks {
		o.free = append(o.free, b[:0])
	}
}
