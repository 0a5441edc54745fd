package copier

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"flowtwin/copier/capture"
	"flowtwin/copier/recording"
	"flowtwin/copier/report"
	"flowtwin/internal/packet"
	"flowtwin/tunnel"
	"flowtwin/tunnel/frame"
)

// A Record says where the packets that are followed are recorded.
type Record struct {
	Dir   string
	Size  int64         // of a file, bytes
	Every time.Duration // a new file, 0 never for that
	Cap   int64         // of all files, bytes
	Alone bool          // nothing is copied: there is no target
}

// tape records the packet that was just handled if its flow is followed: what a
// replay of the recording needs.
func (s *shard) tape(p *capture.Packet) {
	n := s.book.Packets.ToServer + s.book.Packets.ToClient
	if n == s.followed {
		return
	}
	s.followed = n
	if len(s.orders.taken) > 0 && s.taken() {
		s.book.RecordLeft++
		return
	}
	if s.sink.Add(p) {
		s.book.Recorded++
	} else {
		s.book.RecordDropped++
	}
}

// taken reports whether another target's copier records the packet that was just handled.
func (s *shard) taken() bool {
	for _, m := range s.orders.taken {
		if m.Port == s.tuple.ServerPort && (!m.Addr.IsValid() || packet.AddrFrom(m.Addr) == s.tuple.Server) {
			return true
		}
	}
	return false
}

// openRecorder begins the recording that the configuration asks for, or returns nil.
func openRecorder(cfg *Config) (*recording.Recorder, error) {
	r := cfg.Record
	if r == nil {
		return nil, nil
	}
	names := make(map[int]string)
	return recording.Open(recording.Config{
		Dir: r.Dir, Size: r.Size, Every: r.Every, Cap: r.Cap, Sinks: cfg.Shards * (1 + len(cfg.More)),
		Version: cfg.Version, Log: cfg.Log,
		Name: func(index int) string {
			name, ok := names[index]
			if !ok {
				name = fmt.Sprintf("if%d", index)
				if i, err := net.InterfaceByIndex(index); err == nil && cfg.NetNS == "" {
					name = i.Name
				}
				names[index] = name
			}
			return name
		},
	})
}

// record begins to record what the copiers follow, before they run; r may be nil.
func (f *fleet) record(r *recording.Recorder) {
	if r == nil {
		return
	}
	for _, c := range f.copiers {
		for _, s := range c.shards {
			s.sink = r.Sink()
		}
		c.recorder = r
	}
	f.copiers[0].records = true
	f.share()
}

// share says which copier records which servers' packets: where several get the same,
// the first one that lives. Split clients are no two copiers'.
func (f *fleet) share() {
	if f.cfg.Record == nil || len(f.copiers) == 1 || f.cfg.Split {
		return
	}
	f.sharing.Lock()
	defer f.sharing.Unlock()
	var taken []capture.Match
	for _, c := range f.copiers {
		if c.ended.Load() {
			continue
		}
		c.tellTaken(slices.Clone(taken))
		taken = append(taken, matches(c.maps.list.Load().present())...)
	}
}

// tellTaken tells the shards which servers' packets another copier records.
func (c *copier) tellTaken(taken []capture.Match) {
	c.sampling.mu.Lock()
	defer c.sampling.mu.Unlock()
	c.taken = taken
	c.tellLocked(nil)
}

// recorded says what has been recorded, or nil where nothing was: the files are named
// by the first copier, and by those that have taken over from it.
func (c *copier) recorded(l *report.Ledger) *report.Recorded {
	if c.recorder == nil || !c.records && c.cfg.parts < 2 && l.Recorded+l.RecordDropped == 0 {
		return nil
	}
	st := c.recorder.Stats()
	return &report.Recorded{
		Dir: c.cfg.Record.Dir, Alone: c.cfg.Record.Alone,
		Files: st.Files, Removed: st.Removed, Bytes: st.Bytes, Lost: st.Lost,
	}
}

// useless is closed when there is nothing left to do: nothing is copied, and what is
// recorded cannot be written.
func (c *copier) useless() <-chan struct{} {
	if c.recorder == nil || !c.cfg.Record.Alone {
		return nil
	}
	return c.recorder.Broken()
}

// openAlone returns a copier that only records.
func openAlone(cfg Config) (*copier, error) {
	set, err := capture.Open(cfg.capture())
	if err != nil {
		return nil, err
	}
	maps := newMapping(cfg.Maps)
	maps.refresh(set.Addrs())
	c := newCopier(cfg, maps, set, noTunnel{})
	c.close = set.Close
	for i := range cfg.Shards {
		c.add(set.Ring(i), &voidLane{})
	}
	c.tellLocked(nil)
	cfg.Log.Info("recording", "dir", cfg.Record.Dir, "interfaces", set.Interfaces())
	return c, nil
}

// noTunnel stands for the tunnel where nothing is copied.
type noTunnel struct{}

// Connect implements client.
func (noTunnel) Connect(context.Context) error { return nil }

// Run implements client.
func (noTunnel) Run(ctx context.Context) error { <-ctx.Done(); return nil }

// SetMaps implements client.
func (noTunnel) SetMaps(context.Context, []tunnel.Map) error { return nil }

// SetRates implements client.
func (noTunnel) SetRates(context.Context, tunnel.Rates) (bool, error) {
	return false, errNotCopied
}

// errNotCopied says why sessions cannot be had otherwise.
var errNotCopied = errors.New("nothing is copied: --record without a responder")

// Finish implements client.
func (noTunnel) Finish(context.Context) error { return nil }

// Stats implements client.
func (noTunnel) Stats() tunnel.ClientStats { return tunnel.ClientStats{Connects: 1} }

// A voidLane takes everything and returns accounts that say so: shards follow flows
// as if they were copied.
type voidLane struct {
	sums    []report.Count // by flow
	returns []byte
	lent    []byte
}

// Epoch implements lane.
func (l *voidLane) Epoch() uint64 { return 1 }

// Up implements lane.
func (l *voidLane) Up() bool { return true }

// Room implements lane.
func (l *voidLane) Room() int { return l.Size() }

// Size implements lane.
func (l *voidLane) Size() int { return queueBudget }

// Flush implements lane.
func (l *voidLane) Flush() {}

// Open implements lane.
func (l *voidLane) Open(slot uint32, _ *frame.Open) bool {
	for int(slot) >= len(l.sums) {
		l.sums = append(l.sums, report.Count{})
	}
	l.sums[slot] = report.Count{}
	return true
}

// Data implements lane.
func (l *voidLane) Data(slot uint32, _ uint64, _ int64, payload []byte) bool {
	l.sums[slot].Add(len(payload))
	return true
}

// Fin implements lane.
func (l *voidLane) Fin(slot uint32, _ uint64, _ bool) bool { return l.end(slot, frame.ClosedBoth) }

// Reset implements lane.
func (l *voidLane) Reset(slot uint32, _ uint64) bool { return l.end(slot, frame.ClosedClientReset) }

// Abort implements lane.
func (l *voidLane) Abort(slot uint32, _ frame.AbortReason) bool {
	return l.end(slot, frame.ClosedAborted)
}

// end returns the account of a flow; a second end finds the account on its way.
func (l *voidLane) end(slot uint32, how frame.CloseHow) bool {
	if n := l.sums[slot]; n.Segments != ^uint64(0) {
		l.returns = frame.AppendClosed(l.returns, slot, &frame.Closed{How: how, DeliveredBytes: n.Bytes, DeliveredSegments: n.Segments})
		l.sums[slot].Segments = ^uint64(0)
	}
	return true
}

// Returns implements lane.
func (l *voidLane) Returns() (frames []byte, epoch uint64) {
	if len(l.returns) == 0 {
		return nil, 0
	}
	l.lent, l.returns = l.returns, l.lent[:0]
	return l.lent, 1
}

var _ lane = (*voidLane)(nil)
