package responder

import (
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"flowtwin/tunnel/frame"
)

// Each copy must get all that the flow's own session gets, in order, from an address
// of its own; and what the copier is told of them must add up.
func TestCopiesOfFlows(t *testing.T) {
	t.Parallel()
	const flows, copies, turns = 5, 40, 4
	for name, jitter := range map[string]uint32{"at once": 0, "spread": 30} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, Config{Shards: 3}, newFakeNet(3, target{answer: 10}))
			want := make(map[uint32]string)
			for turn := range turns {
				for f := range uint32(flows) {
					if turn == 0 {
						r.openAs(f, frame.Open{Copies: copies, Jitter: jitter})
					}
					p := fmt.Sprintf("turn %d of %d;", turn, f)
					want[f] += p
					r.data(f, uint64(10*turn), p)
				}
				r.lane().Flush()
			}
			for f := range uint32(flows) {
				r.lane().Fin(f, 10*turns, false)
			}
			r.lane().Flush()
			r.wait("the accounts", func() bool { return len(r.closed) == flows })
			r.wait("the copies' ends", func() bool { return r.copies.Opened == flows*(copies-1) && r.copies.Open == 0 })
			bytes := uint64(0)
			for f := range uint32(flows) {
				bytes += uint64(len(want[f])) * (copies - 1)
				for n := range copies {
					if got := r.net.received(copyOf(client(f), n)); got != want[f] {
						t.Errorf("flow %d, copy %d: target got %q, want %q", f, n, got, want[f])
					}
				}
			}
			c := r.copies
			if c.GivenBytes != bytes || c.DeliveredBytes != bytes || c.DroppedBytes != 0 ||
				c.DeliveredSegments != flows*(copies-1)*turns || c.Established != c.Opened ||
				c.Closed[frame.ClosedBoth] != c.Opened || c.AnswerBytes != flows*(copies-1)*turns*10 {
				t.Errorf("copies %+v, want %d bytes each given and delivered", c, bytes)
			}
			if r.estab != flows {
				t.Errorf("%d established, want %d", r.estab, flows)
			}
		})
	}
}

// A copier that leaves must not wait for copies that have not begun, and has to be
// told of each.
func TestByeHurriesCopies(t *testing.T) {
	t.Parallel()
	const copies = 50
	r := newRig(t, Config{Shards: 2}, newFakeNet(2, target{}))
	r.openAs(0, frame.Open{Copies: copies, Jitter: 3_600_000})
	r.data(0, 0, "abc")
	r.lane().Flush()
	r.wait("the flow's own session", func() bool { return r.estab == 1 })
	done := make(chan error, 1)
	go func() { done <- r.client.Finish(t.Context()) }()
	r.wait("the lane's end", func() bool { return r.said })
	if err := <-done; err != nil {
		t.Error(err)
	}
	if c := r.copies; c.Opened != copies-1 || c.Closed[frame.ClosedAborted] != copies-1 || c.DeliveredBytes != 3*(copies-1) {
		t.Errorf("copies %+v", c)
	}
}

// Whatever ends a flow's copies, each is in one account, and no place or address is
// kept.
func TestCopiesThatDoNotComeAbout(t *testing.T) {
	t.Parallel()
	const copies = 20
	for name, tt := range map[string]struct {
		cfg  Config
		net  *fakeNet
		end  func(r *rig)
		how  frame.CloseHow
		sent uint64 // given to copies
	}{
		"refused by the target": {Config{}, newFakeNet(2, target{refuse: true}), fin, frame.ClosedRefused, 3 * (copies - 1)},
		"too many sessions":     {Config{Sessions: copies - 1}, newFakeNet(2, target{}), fin, frame.ClosedRejected, 0},
		"no address":            {Config{}, exhausted(newFakeNet(2, target{})), fin, frame.ClosedNoTuple, 0},
		"stop":                  {Config{Drain: time.Millisecond}, newFakeNet(2, target{silent: true}), func(r *rig) { r.stop() }, frame.ClosedDrain, 3 * (copies - 1)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tt.cfg.Shards = 2
			r := newRig(t, tt.cfg, tt.net)
			r.openAs(0, frame.Open{Copies: copies, Jitter: 10})
			r.data(0, 0, "abc")
			r.lane().Flush()
			wait(t, "the frames", func() bool { return r.server.host.received.bytes.Load() == 3 })
			tt.end(r)
			r.wait("the account", func() bool { return len(r.closed) == 1 })
			wait(t, "free places", func() bool { return r.server.host.open.Load() == 0 })
			wait(t, "the books", func() bool {
				c := r.server.summary().Copies
				return c.Opened == copies-1 && c.Open == 0
			})
			c := r.server.summary().Copies
			if c.Closed[tt.how] != copies-1 || c.GivenBytes != tt.sent || c.DeliveredBytes+c.DroppedBytes != tt.sent {
				t.Errorf("copies %+v, want all %s", c, tt.how)
			}
			tt.net.mu.Lock()
			defer tt.net.mu.Unlock()
			if tt.net.leased != 0 {
				t.Errorf("%d addresses are still leased", tt.net.leased)
			}
		})
	}
}

func fin(r *rig) {
	r.lane().Fin(0, 0, false)
	r.lane().Flush()
}

func exhausted(n *fakeNet) *fakeNet {
	n.exhausted = true
	return n
}

// More copies than a flow may have is a protocol error, not work for an hour.
func TestTooManyCopies(t *testing.T) {
	h := &host{net: newFakeNet(1, target{}), most: 10, workers: []*worker{nil}}
	l := newLane(h, &fakeLane{}, oneTarget(h), &limits{})
	if err := l.sort(frame.AppendOpen(nil, 3, &frame.Open{Copies: frame.MaxCopies + 1})); err == nil {
		t.Error("no error")
	}
}

// The figures that the copier is left with are the last ones, also when the lane ends
// while the progress of a second before is being told.
func TestLastCopiesAreTheLast(t *testing.T) {
	h := &host{net: newFakeNet(1, target{}), workers: []*worker{nil}}
	io := &endingLane{}
	l := newLane(h, io, oneTarget(h), &limits{})
	l.copies = CopyBook{Opened: 7, Open: 1}
	ended := make(chan struct{})
	io.early = func() {
		go func() {
			l.mu.Lock()
			l.copies.Open = 0
			l.mu.Unlock()
			l.strandEnded()
			close(ended)
		}()
		for range 1000 {
			runtime.Gosched()
		}
	}
	l.progress(time.Now())
	<-ended
	var last frame.Copies
	for b := io.returned; len(b) > 0; {
		kind, _, body, rest, err := frame.Next(b)
		if err != nil {
			t.Fatal(err)
		}
		if b = rest; kind == frame.TypeCopies {
			last, _ = frame.ParseCopies(body)
		}
	}
	if last.Open != 0 || last.Opened != 7 {
		t.Errorf("the copier is left with %d of %d copies open", last.Open, last.Opened)
	}
}

// An endingLane has something happen when the first returns are on their way.
type endingLane struct {
	mu    sync.Mutex
	early func()
	fakeLane
}

func (l *endingLane) Return(frames []byte, must, urgent bool) bool {
	if early := l.early; early != nil {
		l.early = nil
		early()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fakeLane.Return(frames, must, urgent)
}
