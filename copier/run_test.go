package copier

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"flowtwin/copier/capture"
	"flowtwin/copier/report"
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

func TestRunCopiesAndReports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, c := newRig(t), newConn()
		stop := r.start(t)
		r.capture(c.handshake()...)
		r.capture(c.data("hello"), c.answer(10), c.fin(), c.serverFin(), c.ack())
		r.status <- syscall.SIGUSR1
		synctest.Wait()
		if n := strings.Count(r.log.String(), "msg=status"); n != 1 {
			t.Errorf("%d status lines after SIGUSR1, want 1", n)
		}
		elapse(25 * time.Second)
		if n := strings.Count(r.log.String(), "msg=status"); n != 3 {
			t.Errorf("%d status lines after 25 s more, want 3", n)
		}
		began := time.Now()
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(began); d > time.Second {
			t.Errorf("stopping took %v with nothing left to drain", d)
		}
		if got := r.out.String(); !strings.HasPrefix(got, "copied 100.00 %\n") || !strings.HasSuffix(got, "sums: ok\n") {
			t.Errorf("ledger is\n%s", got)
		}
		b, err := os.ReadFile(r.cfg.ReportFile)
		if err != nil {
			t.Fatal(err)
		}
		var doc struct {
			Sums []string     `json:"sums_wrong"`
			Sent report.Count `json:"-"`
			S    struct {
				Delivered report.Count `json:"delivered"`
			} `json:"sent"`
		}
		if err := json.Unmarshal(b, &doc); err != nil || len(doc.Sums) > 0 || doc.S.Delivered.Bytes != 5 {
			t.Errorf("report %v %+v", err, doc)
		}
	})
}

// A live flow gets the drain time, goes on being copied in it, and is then given
// up; a new one is not admitted.
func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, c := newRig(t), newConn()
		stop := r.start(t)
		r.capture(c.handshake()...)
		began := time.Now()
		done := make(chan error)
		go func() { done <- stop() }()
		synctest.Wait()
		late := newConn()
		late.iss = 1 << 20
		late.client = netip.MustParseAddrPort("192.0.2.9:1")
		r.capture(late.handshake()...)
		r.capture(c.data("still"))
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if d := time.Since(began); d < 5*time.Second || d > 6*time.Second {
			t.Errorf("stopping took %v, want the 5 s of --drain", d)
		}
		if len(r.lane.sessions) != 1 {
			t.Fatalf("%d sessions, want 1", len(r.lane.sessions))
		}
		s := r.lane.sessions[0]
		if string(s.data) != "still" || s.ends[0] != "abort:drain" {
			t.Errorf("session got %q, ends %v", s.data, s.ends)
		}
		l := r.shards[0].ledger()
		if l.Flows.GivenUp[report.Draining] != 1 || l.Flows.Refused[report.Draining] != 1 {
			t.Errorf("flows %+v", l.Flows)
		}
	})
}

// The last flow's end ends the drain.
func TestDrainEndsEarly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, c := newRig(t), newConn()
		stop := r.start(t)
		r.capture(c.handshake()...)
		began := time.Now()
		done := make(chan error)
		go func() { done <- stop() }()
		synctest.Wait()
		r.capture(c.fin(), c.serverFin())
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if d := time.Since(began); d > time.Second {
			t.Errorf("stopping took %v", d)
		}
	})
}

// Accounts that come while the lanes are being finished are in the ledger, and a
// responder that does not answer holds nobody up.
func TestFinish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, c := newRig(t), newConn()
		r.lane.answers = false
		r.client.finish = func(ctx context.Context) error {
			r.lane.bye <- struct{}{}
			<-ctx.Done()
			return fmt.Errorf("finish: %w", context.Cause(ctx))
		}
		stop := r.start(t)
		r.capture(c.handshake()...)
		r.capture(c.data("abc"))
		began := time.Now()
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(began); d > r.cfg.Drain+finishWait+time.Second {
			t.Errorf("stopping took %v", d)
		}
		l := r.shards[0].ledger()
		if l.Sent.Delivered.Bytes != 3 || l.Sessions.Open != 0 {
			t.Errorf("sent %+v, sessions %+v", l.Sent, l.Sessions)
		}
		if !strings.Contains(r.log.String(), "accounts are missing") {
			t.Errorf("log says\n%s", &r.log)
		}
	})
}

// A refusal cannot be cured by trying again; an unreachable responder can.
func TestConnect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.client.stats = tunnel.ClientStats{}
		r.client.connect = func(context.Context) error { return fmt.Errorf("tunnel: %w: not in --allow", tunnel.ErrRefused) }
		if err := r.run(t.Context()); !errors.Is(err, tunnel.ErrRefused) {
			t.Errorf("error %v, want the refusal", err)
		}
		if r.out.String() != "" {
			t.Errorf("a ledger was printed:\n%s", &r.out)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		ready := false
		r.cfg.Ready = func() { ready = true }
		r.client.connect = func(context.Context) error { return context.DeadlineExceeded }
		stop := r.start(t)
		elapse(time.Minute)
		if !ready || strings.Count(r.log.String(), "cannot be reached") != 1 {
			t.Errorf("ready %v, log\n%s", ready, &r.log)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

// A ring that fails ends the copy with its error, after the ledger.
func TestRingFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		bad := errors.New("interface is gone")
		r.shards[0].ring = failing{r.ring, bad}
		if err := r.run(t.Context()); !errors.Is(err, bad) {
			t.Errorf("error %v, want %v", err, bad)
		}
		if !strings.Contains(r.out.String(), "sums: ok") {
			t.Errorf("ledger is\n%s", &r.out)
		}
	})
}

type failing struct {
	*fakeRing
	err error
}

func (f failing) Next(time.Duration) (bool, error) { return false, f.err }

func TestTLSIsSaidOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, c := newRig(t), newConn()
		stop := r.start(t)
		r.capture(c.handshake()...)
		r.capture(c.data("\x16\x03\x01\x02\x00\x01\x00\x01\xfc"))
		elapse(time.Minute)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(r.log.String(), "clients speak TLS"); n != 1 {
			t.Errorf("said %d times, want once", n)
		}
	})
}

// A copy that is over before the log's next look at it says so too.
func TestSecretsAreSaidAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, c := newRig(t), newConn()
		stop := r.start(t)
		r.capture(c.handshake()...)
		r.capture(c.data("SSH-2.0-OpenSSH_9.2\r\n"))
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(r.log.String(), "clients speak SSH"); n != 1 {
			t.Errorf("said %d times, want once", n)
		}
	})
}

func TestConfigIsChecked(t *testing.T) {
	good := Config{Target: Target{Maps: testMaps().list.Load().maps}}
	tests := []struct {
		name   string
		change func(*Config)
	}{
		{"maps", func(c *Config) { c.Maps = nil }},
		{"shards", func(c *Config) { c.Shards = 65 }},
		{"connections", func(c *Config) { c.Connections = -1 }},
		{"drain", func(c *Config) { c.Drain = -1 }},
	}
	if _, err := good.populate(); err != nil {
		t.Errorf("good config: %v", err)
	}
	for _, tt := range tests {
		c := good
		tt.change(&c)
		if err := Run(t.Context(), c); err == nil || !strings.HasPrefix(err.Error(), tt.name+":") {
			t.Errorf("error %v, want one that begins with %s", err, tt.name)
		}
	}
}

// The drain waits for the accounts of sessions whose flows have ended.
func TestDrainWaitsForAccounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, c := newRig(t), newConn()
		r.lane.answers = false
		stop := r.start(t)
		r.capture(c.handshake()...)
		r.capture(c.data("abc"), c.fin(), c.serverFin())
		began := time.Now()
		done := make(chan error)
		go func() { done <- stop() }()
		elapse(4 * time.Second)
		r.lane.bye <- struct{}{} // the target is slow
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if d := time.Since(began); d < 4*time.Second || d > 5*time.Second {
			t.Errorf("stopping took %v, want until the account came after 4 s", d)
		}
		if !strings.HasPrefix(r.out.String(), "copied 100.00 %\n") {
			t.Errorf("ledger is\n%s", &r.out)
		}
	})
}

// Accounts that never come are a loss with a name.
func TestMissingAccounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, c := newRig(t), newConn()
		r.lane.answers = false
		stop := r.start(t)
		r.capture(c.handshake()...)
		r.capture(c.data("abc"), c.fin(), c.serverFin())
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if got := r.out.String(); !strings.HasPrefix(got, "copied 0.00 %, 100.00 % account_missing (1 flow)\n") || !strings.HasSuffix(got, "sums: ok\n") {
			t.Errorf("ledger is\n%s", got)
		}
	})
}

// The first line says what is copied.
func TestTellStart(t *testing.T) {
	r := newRig(t)
	r.cfg.Invite.Addrs = []string{"192.0.2.1:7443"}
	r.tellStart([]string{"eth0", "lo"})
	want := `msg=copying maps="10.0.0.1:80 to 10.9.0.1:8080, port 443 of this host to 10.9.0.1:8443" interfaces="eth0, lo" responder=192.0.2.1:7443`
	if got := r.log.String(); !strings.Contains(got, want) {
		t.Errorf("log says %s, want %s in it", got, want)
	}
}
