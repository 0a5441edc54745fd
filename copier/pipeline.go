package copier

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"flowtwin/copier/capture"
	"flowtwin/copier/recording"
	"flowtwin/copier/report"
	"flowtwin/internal/flow"
	"flowtwin/internal/packet"
	"flowtwin/tunnel"
	"flowtwin/tunnel/frame"
)

// A shard carries the packets of one capture ring all the way to its own lane.
// The kernel hashes both directions of a flow to one ring, so shards share
// nothing and a packet never changes goroutine.
//
// A packet goes through the functions in the order in which they stand here and
// in toserver.go and toclient.go:
//
//  1. run takes a block from the ring, and packet by packet
//  2. one parses it and tells the directions apart
//  3. fromClient or fromServer finds its flow; without one, stranger decides
//  4. the assembler says which of its bytes are new
//  5. the lane takes those
//
// and when no block is ready, or enough packets have gone that way, turn flushes the
// lane, reads what came back and does what is due. Nothing on this way allocates,
// locks, logs or reads a clock per packet.
type shard struct {
	ring  source
	lane  lane
	maps  *mapping
	table *flow.Table[record]
	store *flow.Store
	limit limits

	pending  chain // flows in their handshake
	observed chain
	waiting  chain
	shunned  chain
	parting  chain // ended: their accounts are awaited

	prologues prologues
	greetings []uint32 // by map: bytes that its servers say before their clients

	sieve *sieve // nil: everything is copied

	skip bool // connections that began before the copier are not adopted

	known memory
	view  packet.View
	tuple flow.Tuple // of the packet
	other flow.Tuple // scratch
	exact bool       // what is sent is as the client sent it: it waited for nothing, and none of it was known
	tally flow.Tally // of the store, as far as it is in the book

	opening frame.Open   // scratch for the lane, here so that it does not escape each time
	headers *headers     // that are recorded, or nil
	copies  frame.Copies // what the responder last told of the lane's

	phase  phase // as of this block
	stop   stop
	at     int64 // time of the packet
	orders *orders
	epoch  uint64 // the lane's, of all open flows
	up     bool
	offset func() time.Duration // responder's clock minus ours

	// clock is the time that timeouts are counted in: how long the shard has been
	// at work. It is not the packets' time, which is set back and forth, and it
	// stands still while the process does. Of a recording it is the time that was
	// recorded, as far as it was played: the player moves it on.
	clock  int64
	player *player // or nil

	sink     *recording.Sink // or nil
	followed uint64          // packets of followed flows, as of the last one
	woke     time.Time       // up to here clock counts
	behind   bool            // blocks were waiting in the ring

	turned uint64 // packets captured before the last turn
	shares int    // blocks since then

	used   int   // slots below this have been used
	cursor int   // where the sweep goes on
	worked int64 // how long the shard has been at work
	swept  int64
	owed   int // records that owe the lane a frame
	book   report.Ledger

	asked   atomic.Int32 // phase, set by Run
	ordered atomic.Int64 // when it was to drain, in the packets' time; 0 at once
	told    atomic.Pointer[orders]
	quiet   chan struct{} // gets a value once draining and no flow is live
	ended   chan struct{} // gets a value once finishing and the responder was told of all ends
	mu      sync.Mutex
	shown   report.Ledger // of book, guarded by mu

	taking, shownTaking taking // the latter guarded by mu
}

// source is what a shard needs of a ring; see [capture.Ring].
type source interface {
	Next(timeout time.Duration) (bool, error)
	Packet(p *capture.Packet) bool
	Release()
	Wake()
}

// lane is what a shard needs of a lane; see [tunnel.Lane].
type lane interface {
	Epoch() uint64
	Up() bool
	Room() int
	Size() int
	Open(flow uint32, o *frame.Open) bool
	Data(flow uint32, seen uint64, time int64, payload []byte) bool
	Fin(flow uint32, seen uint64, second bool) bool
	Reset(flow uint32, seen uint64) bool
	Abort(flow uint32, r frame.AbortReason) bool
	Flush()
	Returns() (frames []byte, epoch uint64)
}

var (
	_ source = (*capture.Ring)(nil)
	_ lane   = (*tunnel.Lane)(nil)
)

// phase is how far a copier is on its way to its end.
type phase int32

const (
	phaseRunning   phase = iota
	phaseDraining        // no flow is admitted any more
	phaseFinishing       // no flow is followed any more; accounts are awaited
	phaseOver            // what has been returned is read, then the shard ends
)

// tick is how long a shard waits for packets before it looks after the rest.
const tick = 100 * time.Millisecond

// turnPackets are handled at most, and the rest of a block, before their frames
// leave: blocks with few packets share a turn. So do at most turnBlocks, since of
// some blocks no packet is wanted.
const (
	turnPackets = 64
	turnBlocks  = 64
)

// run copies until it is asked to be over or the ring is closed, which is
// success.
func (s *shard) run() error {
	var p capture.Packet
	defer s.publish()
	defer s.ring.Release()
	if s.sink != nil {
		defer s.sink.Flush()
	}
	for s.phase != phaseOver {
		ready, err := s.next()
		if errors.Is(err, os.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("capture: %w", err)
		}
		s.advance(time.Now())
		s.follow()
		if ready {
			s.walk(&p)
			s.shares++
		}
		if !ready || s.full() {
			s.turned, s.shares = s.book.Packets.Captured, 0
			s.turn()
		}
	}
	return nil
}

// full reports whether the blocks since the last turn are all that share the next
// one. What came back is read in the last turn of all, too.
func (s *shard) full() bool {
	return s.player != nil || s.phase == phaseOver ||
		s.book.Packets.Captured-s.turned >= turnPackets || s.shares >= turnBlocks
}

// walk handles the packets of a block.
func (s *shard) walk(p *capture.Packet) {
	for s.ring.Packet(p) {
		s.one(p)
		if s.sink != nil {
			s.tape(p)
		}
	}
}

// next waits for a block, a tick at most.
func (s *shard) next() (ready bool, err error) {
	ready, err = s.ring.Next(0)
	s.behind = ready && s.player == nil
	if ready || err != nil {
		return ready, err
	}
	if s.shares > 0 {
		return false, nil // what is there has been handled: its turn
	}
	return s.ring.Next(s.patience())
}

// advance moves the shard's clock on to now. When the shard was not woken for more
// than its ticks, because the process was stopped or had no CPU, packets wait in
// the ring: nothing has run out meanwhile.
func (s *shard) advance(now time.Time) {
	d := int64(min(now.Sub(s.woke), 2*tick))
	s.worked += d
	if s.player == nil {
		s.clock += d
	}
	s.woke = now
}

// one handles one packet. It borrows p until it returns.
func (s *shard) one(p *capture.Packet) {
	s.book.Packets.Captured++
	s.at = p.Time
	v := &s.view
	f := p.Fault
	if f == packet.OK {
		f = v.Parse(p.Data, p.WireLen)
	}
	if f != packet.OK {
		s.fault(f)
		return
	}
	if p.ToServer {
		// Else what was corrupted on its way would be forwarded, and what the client
		// sends again for it taken for known. What was cut is not forwarded anyway.
		if !p.Checked && v.Whole() && !v.ChecksumOK() {
			s.fault(packet.BadChecksum)
			return
		}
		s.tuple = flow.Tuple{Client: v.Src, Server: v.Dst, ClientPort: v.SrcPort, ServerPort: v.DstPort}
		s.fromClient(p, v)
		return
	}
	s.tuple = flow.Tuple{Client: v.Dst, Server: v.Src, ClientPort: v.DstPort, ServerPort: v.SrcPort}
	s.fromServer(p, v)
}

func (s *shard) fault(f packet.Fault) {
	switch f {
	case packet.Fragment:
		s.book.Packets.Fragment++
	case packet.Truncated:
		s.book.Packets.Truncated++
	case packet.Malformed:
		s.book.Packets.Malformed++
	case packet.BadChecksum:
		s.book.Packets.BadChecksum++
	default:
		s.book.Packets.NotTCP++
	}
}

// turn is what a shard does between two blocks: hand over what was sent, take in
// what came back, and every tick look for flows that time has run out for.
func (s *shard) turn() {
	s.lane.Flush()
	s.receive()
	if !s.ticked() {
		return
	}
	s.swept = s.beat()
	if s.sink != nil {
		s.sink.Flush()
	}
	s.sweep()
	s.lane.Flush()
	s.publish()
}

// beat is what ticks are counted in. A recording is played faster than it was recorded, or
// stands still for a target: either time has a tick.
func (s *shard) beat() int64 {
	if s.player == nil {
		return s.clock
	}
	return s.clock + s.worked
}

// ticked reports whether it is time to look for what time has run out for.
func (s *shard) ticked() bool { return s.beat()-s.swept >= int64(tick) }

// publish makes the books visible to others.
func (s *shard) publish() {
	s.book.Client.Stored = report.Count{Segments: uint64(s.store.Len()), Bytes: uint64(s.store.Bytes())}
	if s.sieve != nil {
		s.book.Client.Stored.Plus(s.sieve.held)
	}
	s.mu.Lock()
	s.shown, s.shownTaking = s.book, s.taking
	s.mu.Unlock()
}

// ledger returns the books as of the last tick. Any goroutine.
func (s *shard) ledger() report.Ledger {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.shown
}

// ask moves the shard on to phase p. Any goroutine.
func (s *shard) ask(p phase) {
	s.asked.Store(int32(p))
	s.ring.Wake()
}

// follow takes over what has changed outside since the last block: the phase that
// Run asked for and the state of the tunnel.
func (s *shard) follow() {
	if epoch, up := s.lane.Epoch(), s.lane.Up(); epoch != s.epoch || up != s.up {
		s.receive() // accounts that came before the break
		s.loseAll()
		s.epoch, s.up = epoch, up
	}
	if o := s.told.Load(); o != s.orders {
		s.obey(o)
	}
	if p := phase(s.asked.Load()); p != s.phase && (p != phaseDraining || s.caughtUp()) {
		if s.phase < phaseFinishing && p >= phaseFinishing {
			s.giveUpAll()
		}
		s.phase = p
	}
	if s.drained() {
		signal(s.quiet)
	}
	if s.phase >= phaseFinishing && (s.owed == 0 || !s.up) {
		s.lane.Flush()
		signal(s.ended)
	}
}

// signal puts a value into c, of capacity 1, unless there is one.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
