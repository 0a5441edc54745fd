package responder

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"flowtwin/tunnel/frame"
)

// maxFlows bounds the flow numbers of a lane. Copiers number their flows densely,
// so that this is how many may be under way at a time.
const maxFlows = 1 << 20

// errProtocol says that a copier did what none of ours does.
var errProtocol = errors.New("protocol error")

// laneIO is what a lane needs of tunnel.PeerLane.
type laneIO interface {
	Read() ([]byte, error)
	Return(frames []byte, must, urgent bool) bool
}

// traffic counts bytes that moved between us and the target.
type traffic struct{ delivered, absorbed uint64 }

// A lane is the responder's half of a copier's lane. Its reader sorts the frames
// by the shard of their flow; shards and lanes need not be equal in number.
type lane struct {
	host     *host
	io       laneIO
	targets  *targets
	limits   *limits   // that the copier has set itself, for all its lanes
	strands  []*strand // by shard
	sessions atomic.Int64
	left     atomic.Int32  // strands that have not ended
	done     chan struct{} // all have

	// Of the reader.
	flows   []*session // by number, the last one that had it
	pending []*batch   // by shard

	mu     sync.Mutex
	moved  traffic
	lag    lag
	copies CopyBook
}

// host is what lanes share: the way to sessions.
type host struct {
	net       network
	workers   []*worker
	open      atomic.Int64 // sessions, those that were refused not counted
	most      int64
	draining  atomic.Bool
	paused    atomic.Bool // no flows are taken
	stopped   atomic.Bool // and no sessions begun
	limits    limits      // of all copiers together
	received  tally       // client data that lanes brought
	stray     tally       // the part of it that is of no session, or behind its account
	batches   sync.Pool
	watches   watches
	clientRTT bool // sessions have their client's round-trip time
}

// count counts frames and the client data in them.
type count struct{ frames, segments, bytes uint64 }

// add counts a frame with n client bytes.
func (c *count) add(n int) {
	c.frames++
	if n > 0 {
		c.segments++
		c.bytes += uint64(n)
	}
}

// A tally is a count that several goroutines add to.
type tally struct{ frames, segments, bytes atomic.Uint64 }

func (t *tally) add(c *count) {
	if c.frames > 0 {
		t.frames.Add(c.frames)
		t.segments.Add(c.segments)
		t.bytes.Add(c.bytes)
	}
}

func newLane(h *host, io laneIO, targets *targets, own *limits) *lane {
	l := &lane{host: h, io: io, targets: targets, limits: own, done: make(chan struct{}), pending: make([]*batch, len(h.workers))}
	l.left.Store(int32(len(h.workers)))
	for range h.workers {
		l.strands = append(l.strands, &strand{lane: l})
	}
	return l
}

// run reads the lane until the copier has said Bye or the connection ends, which
// ended tells; then it sees to it that all sessions end. It returns an error when
// the copier broke the protocol.
func (l *lane) run(ended <-chan struct{}) error {
	for {
		frames, err := l.io.Read()
		if err == nil {
			err = l.sort(frames)
			l.send(whatFrames)
		}
		if errors.Is(err, io.EOF) {
			l.send(whatBye)
			select {
			case <-l.done:
				return nil
			case <-ended:
				err = nil
			}
		} else if err == nil {
			continue
		}
		l.send(whatGone)
		<-l.done
		if errors.Is(err, errProtocol) {
			return err
		}
		return nil // the connection's end is the peer's to tell
	}
}

// sort hands each frame to the batch of its flow's shard.
func (l *lane) sort(frames []byte) error {
	var received, stray count
	spent := 0 // bytes for targets, copies included
	defer func() {
		if spent > 0 {
			now := time.Now()
			l.host.limits.bytes.spend(float64(spent), now)
			l.limits.bytes.spend(float64(spent), now)
		}
		l.host.received.add(&received)
		l.host.stray.add(&stray)
	}()
	for len(frames) > 0 {
		t, flow, body, rest, err := frame.Next(frames)
		if err != nil {
			return fmt.Errorf("%w: %w", errProtocol, err)
		}
		frames = rest
		s, carried := l.find(flow), 0
		switch t {
		case frame.TypeOpen:
			if s, err = l.admit(flow, body); err != nil {
				return err
			}
			body = nil
		case frame.TypeAbort:
			body = nil
		case frame.TypeData:
			d, ok := frame.ParseData(body)
			if !ok {
				return fmt.Errorf("%w: malformed data", errProtocol)
			}
			carried = len(d.Payload)
			received.add(carried)
		case frame.TypeFin, frame.TypeReset:
		default:
			return fmt.Errorf("%w: %s frame on a lane", errProtocol, t)
		}
		if s == nil {
			stray.add(carried)
			continue
		}
		if s.refused == 0 {
			spent += carried * s.sessions
		}
		b := l.batch(s.lease.Shard)
		b.add(t, s, body)
		for _, f := range s.fans {
			if f.shard == s.lease.Shard {
				b.again(f)
			} else {
				l.batch(f.shard).addFan(t, f, body)
			}
		}
	}
	return nil
}

func (l *lane) find(flow uint32) *session {
	if int(flow) >= len(l.flows) {
		return nil
	}
	s := l.flows[flow]
	if s == nil || s.over.Load() {
		return nil
	}
	return s
}

// batch returns the batch that is being filled for a shard.
func (l *lane) batch(shard int) *batch {
	b := l.pending[shard]
	if b == nil {
		b = l.host.newBatch(l.strands[shard])
		l.pending[shard] = b
	}
	return b
}

// send hands over the batches; news other than frames go to all shards. It waits
// while a worker is behind, and the copier with it: lanes are flow-controlled.
func (l *lane) send(w what) {
	for i := range l.pending {
		if w != whatFrames {
			l.batch(i).what = w
		}
		if b := l.pending[i]; b != nil {
			l.pending[i] = nil
			l.host.workers[i].batches <- b
		}
	}
}

// strandEnded is called by a worker when its part of the lane is over.
func (l *lane) strandEnded() {
	if l.left.Add(-1) == 0 {
		l.mu.Lock()
		if l.copies.Opened > 0 {
			l.io.Return(frame.AppendCopies(nil, l.copies.frame()), true, false)
		}
		l.io.Return(frame.AppendEmpty(nil, frame.TypeReturnBye, 0), true, true)
		l.mu.Unlock()
		close(l.done)
	}
}

// progress tells the copier how the lane stands. The figures are returned under the
// lock, so that none go out behind later ones.
func (l *lane) progress(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := frame.Progress{
		Time: now.UnixNano(), Sessions: uint32(max(0, l.sessions.Load())),
		LagCount: l.lag.n, DeliveredBytes: l.moved.delivered, AnswerBytes: l.moved.absorbed,
	}
	if l.lag.n > 0 {
		p.LagP50, p.LagP99, p.LagMax = l.lag.quantile(0.5), l.lag.quantile(0.99), l.lag.hi
	}
	l.lag.reset()
	b := frame.AppendProgress(nil, &p)
	if l.copies.Opened > 0 {
		b = frame.AppendCopies(b, l.copies.frame())
	}
	l.io.Return(b, false, false)
}
