package copier

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"flowtwin/copier/capture"
	"flowtwin/copier/offline"
	"flowtwin/copier/report"
	"flowtwin/internal/packet"
	"flowtwin/internal/pcap"
	"flowtwin/tunnel/frame"
)

// take is one recorded packet.
type take struct {
	at time.Duration // after the recording's beginning
	capture.Packet
}

// recordedAt is when the tests' recordings begin.
const recordedAt = int64(1_600_000_000_000_000_000)

// taken returns packets that were recorded at once.
func taken(at time.Duration, packets ...capture.Packet) (out []take) {
	for _, p := range packets {
		out = append(out, take{at, p})
	}
	return out
}

// timedLane notes when it got what.
type timedLane struct {
	*fakeLane
	begun time.Time
	at    []time.Duration // when data came
	times []time.Duration // what it says of its time
}

func (l *timedLane) Data(flow uint32, seen uint64, t int64, payload []byte) bool {
	l.at = append(l.at, time.Since(l.begun))
	l.times = append(l.times, time.Duration(t-l.begun.UnixNano()))
	return l.fakeLane.Data(flow, seen, t, payload)
}

// moved says that so many segments of a byte each are done with.
func (l *timedLane) moved(n int) {
	l.returns = frame.AppendMoved(l.returns, &frame.Moved{Segments: uint64(n), Bytes: uint64(n)})
}

// stage is a player with its shard and what stands around them.
type stage struct {
	t    *testing.T
	c    *copier
	p    *player
	s    *shard
	lane *timedLane
	done chan error
}

// newStage prepares a replay of takes; cfg's files are set here.
func newStage(t *testing.T, r Replay, takes []take) *stage {
	t.Helper()
	b := pcap.AppendHeader(nil)
	for _, k := range takes {
		b = pcap.AppendPacket(b, recordedAt+int64(k.at), k.Data, k.WireLen)
	}
	r.Files = []string{filepath.Join(t.TempDir(), "test.pcap")}
	if err := os.WriteFile(r.Files[0], b, 0o600); err != nil {
		t.Fatal(err)
	}
	feed, err := offline.Open(offline.Config{Files: r.Files, Matches: []capture.Match{{Port: 80}}, Loops: r.Loops})
	if err != nil {
		t.Fatal(err)
	}
	maps := testMaps()
	maps.every = true
	g := &stage{t: t, lane: &timedLane{fakeLane: newFakeLane(), begun: time.Now()}, done: make(chan error, 2)}
	g.c = newCopier(Config{Shards: 1, Sample: 100, Copies: 1, Replay: &r}, maps, anySelector{}, nil)
	g.p = newPlayer(feed, &r)
	g.s = g.c.addPlayer(g.p, g.lane)
	g.c.tellLocked(nil)
	return g
}

// start begins to play.
func (g *stage) start() {
	go func() { g.done <- g.p.feed.Run(g.t.Context()) }()
	go func() { g.done <- g.s.run() }()
}

// finish waits for the end and checks the books.
func (g *stage) finish() {
	g.t.Helper()
	<-g.p.over
	g.s.ask(phaseOver)
	for range 2 {
		if err := <-g.done; err != nil {
			g.t.Error(err)
		}
	}
	g.c.leftover()
	sum := report.Summary{Final: true, Recording: recordingOf(g.p), Ledger: g.s.book}
	for _, w := range sum.Check() {
		g.t.Errorf("books: %s", w)
	}
	for _, m := range g.lane.misuse {
		g.t.Errorf("protocol broken: %s", m)
	}
}

// minutes is a connection whose client speaks at 0 s, 1 s and 61 s.
func minutes() []take {
	c := newConn()
	k := taken(0, append(c.handshake(), c.data("a"), c.answer(5))...)
	k = append(k, taken(time.Second, c.data("b"), c.answer(5))...)
	return append(k, taken(61*time.Second, c.data("c"), c.answer(5), c.fin(), c.serverFin(), c.ack())...)
}

func TestSchedule(t *testing.T) {
	for name, tt := range map[string]struct {
		replay Replay
		want   []time.Duration
	}{
		"as recorded":               {Replay{}, []time.Duration{0, time.Second, 61 * time.Second}},
		"ten times as fast":         {Replay{Speed: 10}, []time.Duration{0, 100 * time.Millisecond, 6100 * time.Millisecond}},
		"slower":                    {Replay{Speed: 0.5}, []time.Duration{0, 2 * time.Second, 122 * time.Second}},
		"without the long pause":    {Replay{MaxGap: 2 * time.Second}, []time.Duration{0, time.Second, 3 * time.Second}},
		"both":                      {Replay{MaxGap: 2 * time.Second, Speed: 10}, []time.Duration{0, 100 * time.Millisecond, 300 * time.Millisecond}},
		"as fast as the target can": {Replay{Pace: PaceTarget}, []time.Duration{0, 0, 0}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newStage(t, tt.replay, minutes())
				g.start()
				g.finish()
				if !slices.Equal(g.lane.at, tt.want) {
					t.Errorf("bytes left at %v, want %v", g.lane.at, tt.want)
				}
				// The responder measures its lag by this.
				if !slices.Equal(g.lane.times, tt.want) {
					t.Errorf("bytes say they are of %v, want %v", g.lane.times, tt.want)
				}
				if f := g.s.book.Flows; f.Ended[report.ClientFirst] != 1 {
					t.Errorf("flows %+v", f)
				}
				// Time of the recording, not ours: else replays that are fast or slow
				// would miss timeouts or meet them wrongly.
				if got := time.Duration(g.s.clock); got != 61*time.Second {
					t.Errorf("the shard's clock is at %v", got)
				}
			})
		})
	}
}

// A pause shifts the schedule: what was due meanwhile must not come all at once when it
// is over.
func TestPauseShiftsTheSchedule(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newStage(t, Replay{}, minutes())
		g.start()
		<-time.After(30 * time.Second)
		_, _ = g.c.setPaused(true)
		<-time.After(time.Hour)
		_, _ = g.c.setPaused(false)
		g.finish()
		if got, want := time.Since(g.lane.begun), time.Hour+61*time.Second; got != want {
			t.Errorf("it was over after %v, want %v", got, want)
		}
	})
}

// Each loop's connections are new ones, though they have the same tuples and numbers,
// and those that the recording breaks off end in order.
func TestLoops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		whole, open, half := newConn(), newConn(), newConn()
		open.client = netip.AddrPortFrom(clientAddr.Addr(), 1)
		half.client = netip.AddrPortFrom(clientAddr.Addr(), 2)
		k := taken(0, append(whole.handshake(), whole.data("whole"), whole.answer(5), whole.fin(), whole.serverFin(), whole.ack())...)
		k = append(k, taken(0, append(open.handshake(), open.data("open"), open.answer(5))...)...)
		k = append(k, taken(time.Second, half.syn(), half.synAck())...) // its client never speaks
		g := newStage(t, Replay{Loops: 3, Pace: PaceTarget}, k)
		g.start()
		g.finish()
		var got []string
		for _, s := range g.lane.sessions {
			got = append(got, string(s.data))
			if len(s.ends) != 1 || s.ends[0] != "fin" {
				t.Errorf("session of %q ends %v", s.data, s.ends)
			}
		}
		slices.Sort(got)
		if want := []string{"open", "open", "open", "whole", "whole", "whole"}; !slices.Equal(got, want) {
			t.Errorf("sessions got %q, want %q", got, want)
		}
		f := g.s.book.Flows
		if f.Seen != 9 || f.Ended[report.ClientFirst] != 3 || f.Ended[report.RecordingOver] != 3 || f.Refused[report.NeverEstablished] != 3 {
			t.Errorf("flows %+v", f)
		}
	})
}

// What a recording breaks off inside a gap cannot be sent, and is counted.
func TestRecordingEndsInsideAGap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newConn()
		k := taken(0, append(c.handshake(), c.data("one"))...)
		c.data("gap")
		k = append(k, taken(0, c.data("three"), c.fin())...)
		g := newStage(t, Replay{Pace: PaceTarget}, k)
		g.start()
		g.finish()
		s := g.lane.sessions[0]
		if string(s.data) != "one" || !slices.Equal(s.ends, []string{"abort:capture_hole"}) {
			t.Errorf("session got %q and ends %v", s.data, s.ends)
		}
		if n := g.s.book.Client.Missing; n != 3 {
			t.Errorf("%d bytes are said to be missing", n)
		}
	})
}

// A replay waits where a copier of live traffic would shed.
func TestPlayerWaitsForRoom(t *testing.T) {
	for name, jam := range map[string]func(g *stage) (release func()){
		"no tunnel yet": func(g *stage) func() {
			g.lane.up = false
			return func() { g.lane.up = true }
		},
		"the network is slow": func(g *stage) func() {
			g.lane.room = 700
			return func() { g.lane.room = 1000 }
		},
		"somebody has paused it": func(g *stage) func() {
			_, _ = g.c.setPaused(true)
			return func() { _, _ = g.c.setPaused(false) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newStage(t, Replay{Pace: PaceTarget}, minutes())
				release := jam(g)
				g.start()
				<-time.After(time.Hour)
				synctest.Wait()
				if len(g.lane.at) != 0 {
					t.Error("it did not wait")
				}
				release()
				g.p.Wake()
				g.finish()
				if got := g.s.book.Flows.Ended[report.ClientFirst]; got != 1 || len(g.lane.at) != 3 {
					t.Errorf("after the wait: %+v", g.s.book.Flows)
				}
			})
		})
	}
}

// talk is a connection with n requests of a byte.
func talk(n int) (k []take) {
	c := newConn()
	k = taken(0, c.handshake()...)
	for range n {
		k = append(k, taken(0, c.data("x"), c.answer(5))...)
	}
	return append(k, taken(0, c.fin(), c.serverFin(), c.ack())...)
}

// The player is ahead of the target by its lead and the block at hand at most, and
// waits as long as the target moves anything; nothing runs out meanwhile.
func TestPlayerFollowsTheTarget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const requests, block = 2000, 128 // of 256 packets
		g := newStage(t, Replay{Pace: PaceTarget}, talk(requests))
		g.p.lead = lead{segments: 100, bytes: 1 << 20, sessions: 10}
		g.start()
		for done := 0; done < requests; {
			synctest.Wait()
			sent := len(g.lane.at)
			if ahead := sent - done; ahead > 100+block || ahead == 0 {
				t.Fatalf("%d segments ahead", ahead)
			}
			step := min(20, sent-done)
			g.lane.moved(step)
			done += step
			g.p.Wake()
			<-time.After(9 * time.Second) // a slow target
		}
		g.finish()
		if b := g.s.book; b.Stuck != 0 || b.Flows.Ended[report.ClientFirst] != 1 {
			t.Errorf("stuck %d times, flows %+v", b.Stuck, b.Flows)
		}
	})
}

// A target that moves nothing at all must not stop everything for ever.
func TestPlayerGoesOnWithoutTheTarget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newStage(t, Replay{Pace: PaceTarget}, talk(1000))
		g.p.lead = lead{segments: 300, bytes: 1 << 20, sessions: 10}
		g.start()
		g.finish()
		if b := g.s.book; b.Stuck < 1 || b.Stuck > 3 || b.Flows.Ended[report.ClientFirst] != 1 {
			t.Errorf("stuck %d times, flows %+v", b.Stuck, b.Flows)
		}
	})
}

// A target that was away, and then does what it was not waited for, is followed again.
func TestPlayerFollowsATargetThatIsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const requests = 2000
		g := newStage(t, Replay{Pace: PaceTarget}, talk(requests))
		g.p.lead = lead{segments: 100, bytes: 1 << 20, sessions: 10}
		g.start()
		<-time.After(stuck + time.Second)
		synctest.Wait()
		if g.s.book.Stuck != 1 {
			t.Fatalf("stuck %d times while the target was away, want once", g.s.book.Stuck)
		}
		back := time.Now()
		for done := 0; done < requests; {
			synctest.Wait()
			sent := len(g.lane.at)
			g.lane.moved(sent - done)
			done = sent
			g.p.Wake()
			<-time.After(20 * time.Millisecond)
		}
		if took := time.Since(back); took > stuck {
			t.Errorf("it goes on %v after the target", took)
		}
		g.finish()
		if n := g.s.book.Stuck; n != 1 {
			t.Errorf("stuck %d times, want once", n)
		}
	})
}

// What a session is told of its connection's beginning is done with at the target, too.
func TestPlayerCountsPrologues(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const requests = 1000
		c := newConn()
		takes := taken(0, c.handshake()...)
		takes = append(takes, taken(0, c.data(redis("AUTH", "secret")), c.answer(5), c.ack())...)
		var at time.Duration
		for i := range requests {
			ask := c.data(redis("GET", "a"))
			if i != requests/2 { // one is missing: the rest goes to another session, behind the login
				takes = append(takes, taken(at, ask, c.answer(5), c.ack())...)
				continue
			}
			takes = append(takes, taken(at, c.out(packet.ACK, c.answered, 0))...)
			at = time.Second // it has had its time
			takes = append(takes, taken(at, c.out(packet.ACK, c.answered, 0), c.answer(5), c.ack())...)
		}
		takes = append(takes, taken(at, c.fin(), c.serverFin(), c.ack())...)
		g := newStage(t, Replay{Pace: PaceTarget}, takes)
		g.p.lead = lead{segments: 10, bytes: 1 << 20, sessions: 10}
		g.start()
		for done := 0; done < 2+requests-1; { // with the login, which is sent twice
			<-time.After(20 * time.Millisecond)
			synctest.Wait()
			sent := len(g.lane.at)
			g.lane.moved(sent - done)
			done = sent
			g.p.Wake()
		}
		g.finish()
		if b := g.s.book; b.Stuck != 0 || b.Client.Prologue.Segments != 1 {
			t.Errorf("stuck %d times, prologues %+v", b.Stuck, b.Client.Prologue)
		}
	})
}

// Who looks on is told once why nothing happens, as for a night between two files.
func TestLongPauseIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newConn()
		k := taken(0, append(c.handshake(), c.data("a"), c.answer(5))...)
		k = append(k, taken(30*time.Second, c.data("b"), c.answer(5))...)
		k = append(k, taken(9*time.Hour, c.data("c"), c.answer(5))...)
		g := newStage(t, Replay{Speed: 2}, k)
		var told []time.Duration
		g.p.tellPause = func(left time.Duration) { told = append(told, left.Round(time.Second)) }
		g.start()
		g.finish()
		if want := 4*time.Hour + 29*time.Minute + 45*time.Second; len(told) != 1 || told[0] != want {
			t.Errorf("told %v, want %v once", told, want)
		}
	})
}

// Ended before its time, a replay says what it has not played.
func TestReplayIsEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newStage(t, Replay{}, minutes())
		g.start()
		<-time.After(30 * time.Second)
		g.s.ask(phaseDraining)
		g.finish()
		if r := recordingOf(g.p); r.Unplayed != 5 || len(g.lane.at) != 2 {
			t.Errorf("%+v after %d requests", r, len(g.lane.at))
		}
		if s := g.lane.sessions[0]; !slices.Equal(s.ends, []string{"fin"}) {
			t.Errorf("the session ends %v", s.ends)
		}
	})
}

// The schedule's lag is that of the packets, and the round-trip time the recorded one.
func TestPlayerTellsLagAndRoundTrip(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newConn()
		k := taken(0, c.syn(), c.synAck())
		k = append(k, taken(40*time.Millisecond, c.ack(), c.data("a"))...)
		g := newStage(t, Replay{Speed: 100}, k)
		g.lane.up = false
		g.start()
		<-time.After(time.Second) // the schedule begins with the tunnel
		synctest.Wait()
		g.lane.up = true
		g.p.Wake()
		g.finish()
		if p99, ok := g.s.book.Schedule.Quantile(0.99); !ok || p99 > time.Millisecond {
			t.Errorf("schedule lag %v, %v", p99, ok)
		}
		if rtt := g.lane.sessions[0].open.RTT; rtt != 40_000 {
			t.Errorf("round-trip time %d µs", rtt)
		}
	})
}
