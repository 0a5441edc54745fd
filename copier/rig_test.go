package copier

import (
	"bytes"
	"context"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"flowtwin/copier/capture"
	"flowtwin/internal/flow"
	"flowtwin/tunnel"
)

// fakeClient is a tunnel whose connection goes as the test says.
type fakeClient struct {
	connect func(ctx context.Context) error
	run     func(ctx context.Context) error
	finish  func(ctx context.Context) error
	stats   tunnel.ClientStats

	maps    []tunnel.Map // set last
	mapsErr error
	rates   tunnel.Rates // set last
	deaf    bool         // does not hear of rates
}

func (c *fakeClient) SetRates(_ context.Context, r tunnel.Rates) (bool, error) {
	c.rates = r
	return !c.deaf, nil
}

func (c *fakeClient) SetMaps(_ context.Context, maps []tunnel.Map) error {
	if c.mapsErr == nil {
		c.maps = maps
	}
	return c.mapsErr
}

func (c *fakeClient) Connect(ctx context.Context) error { return c.connect(ctx) }
func (c *fakeClient) Run(ctx context.Context) error     { return c.run(ctx) }
func (c *fakeClient) Finish(ctx context.Context) error  { return c.finish(ctx) }
func (c *fakeClient) Stats() tunnel.ClientStats         { return c.stats }

// newFakeClient is one that works.
func newFakeClient() *fakeClient {
	return &fakeClient{
		connect: func(context.Context) error { return nil },
		run:     func(ctx context.Context) error { <-ctx.Done(); return nil },
		finish:  func(context.Context) error { return nil },
		stats:   tunnel.ClientStats{Up: true, Connects: 1},
	}
}

// fakeSet notes how often it got another filter, and the last one.
type fakeSet struct {
	mu      sync.Mutex
	times   int
	matches []capture.Match
	choice  flow.Choice
	err     error
}

func (s *fakeSet) Addrs() []netip.Addr { return nil }

func (s *fakeSet) Select(matches []capture.Match, choice flow.Choice) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.times, s.matches, s.choice = s.times+1, matches, choice
	}
	return s.err
}

// percent returns how much the filter takes.
func (s *fakeSet) percent() float64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.choice) == 0 {
		return 100
	}
	return s.choice[0].Percent()
}

// changes returns how often it got another one.
func (s *fakeSet) changes() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.times
}

// syncBuffer is a bytes.Buffer for several goroutines.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// rig is a whole copier with one shard between a fake ring and a fake lane.
type rig struct {
	*copier
	ring     *fakeRing
	lane     *fakeLane
	client   *fakeClient
	set      fakeSet
	log, out syncBuffer
	status   chan os.Signal
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{ring: newFakeRing(), lane: newFakeLane(), client: newFakeClient(), status: make(chan os.Signal, 1)}
	cfg := Config{
		Target: Target{Maps: testMaps().list.Load().maps}, Drain: 5 * time.Second, Shards: 1, Status: r.status,
		Log: slog.New(slog.NewTextHandler(&r.log, nil)), Out: &r.out,
		ReportFile: filepath.Join(t.TempDir(), "report.json"),
	}
	cfg, err := cfg.populate()
	if err != nil {
		t.Fatal(err)
	}
	r.copier = newCopier(cfg, testMaps(), &r.set, r.client)
	r.shards = []*shard{newShard(r.ring, r.lane, r.maps, 1, func() time.Duration { return 0 })}
	r.rings = []stater{r.ring}
	return r
}

// start runs the rig; the returned function stops it as a signal would and waits.
func (r *rig) start(t *testing.T) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.run(ctx) }()
	return func() error { cancel(); return <-done }
}

// elapse lets the bubble's time go on by d.
func elapse(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// capture puts packets into the ring, with the time of the bubble, and waits
// until they are through.
func (r *rig) capture(packets ...capture.Packet) {
	for i := range packets {
		packets[i].Time = time.Now().UnixNano()
	}
	r.ring.put(packets...)
	elapse(2 * tick)
}
