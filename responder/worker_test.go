package responder

import (
	"testing"
	"testing/synctest"
	"time"

	"flowtwin/netstack"
	"flowtwin/responder/replay"
	"flowtwin/tunnel/frame"
)

// A bench is one worker with one strand, in a bubble of synctest.
type bench struct {
	net    *fakeNet
	worker *worker
	host   *host
	lane   *lane
	io     *fakeLane
	stop   chan struct{}
}

func newBench(t *testing.T, cfg replay.Config, tg target) *bench {
	t.Helper()
	b := &bench{net: newFakeNet(1, tg), stop: make(chan struct{})}
	b.host = &host{net: b.net, most: 100}
	b.worker = newWorker(0, b.net.Stack(0), cfg, &b.host.open)
	b.host.workers = []*worker{b.worker}
	b.io = &fakeLane{}
	b.lane = newLane(b.host, b.io, oneTarget(b.host), &limits{})
	go b.worker.run(b.stop)
	return b
}

func (b *bench) send(s *session, seen uint64, p string) {
	batch := b.host.newBatch(s.strand)
	body := frame.AppendData(nil, 0, &frame.Data{Seen: seen, Payload: []byte(p)})[frame.HeaderLen:]
	batch.add(frame.TypeData, s, body)
	b.worker.batches <- batch
}

// The worker must wake up for a session when nothing else happens.
func TestWorkerKeepsTheTimeOfSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const maxHold = 300 * time.Millisecond // less than a tick
		b := newBench(t, replay.Config{MaxHold: maxHold}, target{})
		defer close(b.stop)
		addr := client(1)
		s := &session{strand: b.lane.strands[0], flow: 1, lease: netstack.Lease{Client: addr}}
		open := b.host.newBatch(s.strand)
		open.add(frame.TypeOpen, s, nil)
		b.worker.batches <- open
		b.send(s, 0, "first,")
		b.send(s, 100, "second")
		synctest.Wait()
		if got := b.net.received(addr); got != "first," {
			t.Errorf("target has %q at first", got)
		}
		<-time.After(maxHold - time.Millisecond)
		synctest.Wait()
		if got := b.net.received(addr); got != "first," {
			t.Errorf("target has %q before max-hold", got)
		}
		<-time.After(2 * time.Millisecond)
		synctest.Wait()
		if got := b.net.received(addr); got != "first,second" {
			t.Errorf("target has %q after max-hold", got)
		}
	})
}

// A copier that replays a recording may wait for room until it is told that what it has
// sent is done with. It must not wait for the next tick when nothing else happens here;
// one that copies live does not wait, and a word about each request would cost it a wake-up.
func TestLaneIsToldWhatHasMoved(t *testing.T) {
	for name, tt := range map[string]struct {
		more, atOnce, later uint64
	}{"much": {worthSegments, 1, 1 + worthSegments}, "little": {worthSegments / 2, 1, 1}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, replay.Config{}, target{})
				defer close(b.stop)
				s := &session{strand: b.lane.strands[0], flow: 1, lease: netstack.Lease{Client: client(1)}}
				open := b.host.newBatch(s.strand)
				open.add(frame.TypeOpen, s, nil)
				b.worker.batches <- open
				told := func() (n uint64) {
					synctest.Wait()
					for rest := b.io.returned; len(rest) > 0; {
						kind, _, body, behind, err := frame.Next(rest)
						if err != nil {
							t.Fatal(err)
						}
						if rest = behind; kind == frame.TypeMoved {
							m, _ := frame.ParseMoved(body)
							n += m.Segments
						}
					}
					return n
				}
				b.send(s, 0, "a")
				if got := told(); got != tt.atOnce {
					t.Errorf("told of %d segments at first, want %d", got, tt.atOnce)
				}
				for range tt.more {
					b.send(s, 0, "a")
				}
				if got := told(); got != tt.atOnce {
					t.Errorf("told of %d segments before it is time, want %d", got, tt.atOnce)
				}
				b.worker.batches <- b.host.newBatch(s.strand) // it may write again what was read here
				<-time.After(movedEvery)
				if got := told(); got != tt.later {
					t.Errorf("told of %d segments when it is time, want %d", got, tt.later)
				}
			})
		})
	}
}

// An Open whose batch waited behind the end of the drain must not begin a session
// that nobody ends.
func TestOpenBehindTheDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, replay.Config{}, target{})
		defer close(b.stop)
		drain := b.host.newBatch(nil)
		drain.what, drain.done = whatDrain, make(chan struct{})
		b.worker.batches <- drain
		open := frame.AppendOpen(nil, 3, &frame.Open{})
		if err := b.lane.sort(frame.AppendData(open, 3, &frame.Data{Payload: []byte("abc")})); err != nil {
			t.Fatal(err)
		}
		b.lane.send(whatFrames)
		synctest.Wait()
		_, _, body, _, err := frame.Next(b.io.returned)
		if err != nil {
			t.Fatalf("no account: %v", err)
		}
		if c, ok := frame.ParseClosed(body); !ok || c.How != frame.ClosedDrain {
			t.Errorf("account %+v, want %s", c, frame.ClosedDrain)
		}
		if n := b.host.stray.bytes.Load(); n != 3 {
			t.Errorf("%d bytes behind the account, want 3", n)
		}
		if len(b.net.dialled) != 0 || b.net.leased != 0 || b.host.open.Load() != 0 {
			t.Errorf("dialled %v, %d leases, %d open", b.net.dialled, b.net.leased, b.host.open.Load())
		}
	})
}
