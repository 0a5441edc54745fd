package tunnel

import (
	"sync"
	"sync/atomic"

	"github.com/quic-go/quic-go"

	"flowtwin/tunnel/frame"
)

const (
	// chunkLen is what the lane's writer hands to QUIC at most at once, and
	// flushAt where a lane flushes by itself.
	chunkLen = 32 << 10
	flushAt  = 16 << 10

	defaultQueue = 4 << 20
	minQueue     = 1 << 20 // room for the longest frame
	// endReserve is kept beyond the queue for Fin, Reset and Abort: 24,000 flows
	// can be ended while the queue is full.
	endReserve = 384 << 10

	// freeChunks are kept for use; more, left by a jam, go to the collector.
	freeChunks = 16
)

// A Lane carries the frames of one shard. Its writing methods, Epoch, Up, Room
// and Returns are for one goroutine, the shard's; they copy what they are given
// into the lane's queue, never block and never allocate (but for growing the
// queue up to its bound). They report false, having written nothing, when the
// queue is full or the lane is down.
//
// A lane that has been reconnected stays down for the shard until it has called
// Epoch: frames of flows that the break ended can so never reach the new
// connection.
type Lane struct {
	// The shard's own.
	cur  []byte // frames not yet handed over
	seen uint64 // the epoch that the shard knows

	size   int
	live   atomic.Uint64 // the epoch whose frames are taken, 0 none
	epoch  atomic.Uint64
	queued atomic.Int64 // bytes handed over and not yet written
	sent   atomic.Uint64
	wake   atomic.Pointer[func()]

	mu    sync.Mutex
	out   outbox
	inbox inbox
	ended atomic.Bool // Bye is in the queue; set under mu
}

func newLane(queueBytes int) *Lane {
	l := &Lane{size: queueBytes, cur: make([]byte, 0, chunkLen)}
	l.out.work = make(chan struct{}, 1)
	l.inbox.init()
	return l
}

// Epoch counts the lane's connections: 0 before the first, and another value
// after each reconnect. A shard that sees it change gives all its flows up:
// their sessions ended with the connection.
func (l *Lane) Epoch() uint64 {
	if e := l.epoch.Load(); e != l.seen {
		l.seen = e
		l.cur = l.cur[:0]
	}
	return l.seen
}

// Up reports whether the lane is connected. A shard that sees it become false
// gives all its flows up and calls Epoch. After [Client.Finish] the lane takes no
// more frames, but stays up until the accounts are back.
func (l *Lane) Up() bool {
	live := l.live.Load()
	return live != 0 && live == l.seen
}

// Room returns how many bytes the queue still takes.
func (l *Lane) Room() int {
	return max(0, l.size-int(l.queued.Load())-len(l.cur))
}

// Size returns how many bytes the queue takes when it is empty.
func (l *Lane) Size() int { return l.size }

// admits reports whether n bytes more may be written, when limit are allowed.
func (l *Lane) admits(n, limit int) bool {
	return l.Up() && !l.ended.Load() && int(l.queued.Load())+len(l.cur)+n <= limit
}

// Open begins a flow.
func (l *Lane) Open(flow uint32, o *frame.Open) bool {
	if !l.admits(frame.OpenSize, l.size) {
		return false
	}
	l.reserve(frame.OpenSize)
	l.cur = frame.AppendOpen(l.cur, flow, o)
	l.flushFull()
	return true
}

// Data sends client bytes. Payloads longer than [frame.MaxPayload], which no
// packet carries, are refused.
func (l *Lane) Data(flow uint32, seen uint64, time int64, payload []byte) bool {
	n := frame.DataOverhead + len(payload)
	if !l.admits(n, l.size) || len(payload) > frame.MaxPayload {
		return false
	}
	if len(l.cur)+n <= cap(l.cur) {
		l.cur = frame.AppendDataHead(l.cur, flow, seen, time, len(payload))
		l.cur = append(l.cur, payload...)
		l.flushFull()
		return true
	}
	l.reserve(frame.DataOverhead)
	l.cur = frame.AppendDataHead(l.cur, flow, seen, time, len(payload))
	for {
		k := min(len(payload), cap(l.cur)-len(l.cur))
		l.cur = append(l.cur, payload[:k]...)
		if payload = payload[k:]; len(payload) == 0 {
			l.flushFull()
			return true
		}
		l.Flush()
	}
}

// Fin says that the client closed its side, when it had acknowledged seen bytes
// of answers; second: and the server had closed before.
func (l *Lane) Fin(flow uint32, seen uint64, second bool) bool {
	return l.end(frame.TypeFin, flow, &frame.End{Seen: seen, Second: second})
}

// Reset says that the client reset the connection, when it had acknowledged seen
// bytes of answers.
func (l *Lane) Reset(flow uint32, seen uint64) bool {
	return l.end(frame.TypeReset, flow, &frame.End{Seen: seen})
}

func (l *Lane) end(t frame.Type, flow uint32, e *frame.End) bool {
	const n = frame.EndSize
	if !l.admits(n, l.size+endReserve) {
		return false
	}
	l.reserve(n)
	l.cur = frame.AppendEnd(l.cur, t, flow, e)
	l.flushFull()
	return true
}

// Abort gives the flow up.
func (l *Lane) Abort(flow uint32, r frame.AbortReason) bool {
	const n = frame.HeaderLen + 1
	if !l.admits(n, l.size+endReserve) {
		return false
	}
	l.reserve(n)
	l.cur = frame.AppendAbort(l.cur, flow, &frame.Abort{Reason: r})
	l.flushFull()
	return true
}

// reserve makes room for n bytes in cur, n being far below a chunk.
func (l *Lane) reserve(n int) {
	if len(l.cur)+n > cap(l.cur) {
		l.Flush()
	}
}

func (l *Lane) flushFull() {
	if len(l.cur) >= flushAt {
		l.Flush()
	}
}

// Flush hands what was appended to the lane's writer. The shard calls it when it
// has no more packets at hand, and before [Client.Finish]; the lane flushes by
// itself at 16 KiB.
func (l *Lane) Flush() {
	if len(l.cur) == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.Up() || l.ended.Load() { // broken meanwhile, or Bye has been said
		l.cur = l.cur[:0]
		return
	}
	if l.out.tryDirect(l.cur) {
		l.sent.Add(uint64(len(l.cur)))
		l.cur = l.cur[:0]
		return
	}
	l.queued.Add(int64(len(l.cur)))
	l.cur = l.out.push(l.cur)
}

// attach brings the lane up on a new connection.
func (l *Lane) attach(epoch uint64, s *quic.SendStream) {
	l.mu.Lock()
	l.out.attach(s)
	l.ended.Store(false)
	l.queued.Store(0)
	l.epoch.Store(epoch)
	l.live.Store(epoch)
	l.mu.Unlock()
	l.inbox.attach(epoch)
	l.callWake()
}

// detach takes the lane down. What is queued is discarded; what has been
// returned stays to be read.
func (l *Lane) detach() {
	l.mu.Lock()
	l.live.Store(0)
	l.out.detach()
	l.queued.Store(0)
	l.mu.Unlock()
	l.inbox.detach()
	l.callWake()
}

// bye queues the last frame of the lane; nothing is taken after it.
func (l *Lane) bye() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended.Load() || l.live.Load() == 0 {
		return
	}
	l.ended.Store(true)
	b := frame.AppendEmpty(l.out.chunk(), frame.TypeBye, 0)
	l.queued.Add(int64(len(b)))
	l.out.push(b)
}

// SetWake sets what the lane calls when returns wait that ought to be read soon
// (64 KiB, or a ReturnBye) or when it went up or down; from another goroutine.
// wake must not block.
func (l *Lane) SetWake(wake func()) { l.wake.Store(&wake) }

func (l *Lane) callWake() {
	if f := l.wake.Load(); f != nil && *f != nil {
		(*f)()
	}
}

// write carries the queue to s until the lane is taken down or Bye is written. It
// tells expect of each chunk that it waits with: for the other side to acknowledge.
func (l *Lane) write(s *quic.SendStream, expect func(int)) error {
	for {
		chunk, last := l.next(s)
		if chunk == nil {
			return nil
		}
		expect(1)
		n, err := s.Write(chunk)
		expect(-1)
		l.sent.Add(uint64(n))
		if err == nil && last {
			err = s.Close()
		}
		l.done(s, chunk)
		if err != nil || last {
			return err
		}
	}
}

// next waits for a chunk; nil when s is the lane's stream no more. last says
// that it ends with Bye.
func (l *Lane) next(s *quic.SendStream) (chunk []byte, last bool) {
	for {
		l.mu.Lock()
		if l.out.stream != s {
			l.mu.Unlock()
			return nil, false
		}
		if chunk = l.out.pop(); chunk != nil {
			last = l.ended.Load() && len(l.out.queue) == 0
			l.mu.Unlock()
			return chunk, last
		}
		l.mu.Unlock()
		<-l.out.work
	}
}

// done takes a written chunk back.
func (l *Lane) done(s *quic.SendStream, chunk []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.out.stream == s {
		l.queued.Add(-int64(len(chunk)))
	}
	l.out.recycle(chunk)
}
