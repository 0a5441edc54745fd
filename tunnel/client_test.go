package tunnel

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"flowtwin/tunnel/frame"
)

// After a restart of the responder the lane comes back as a new epoch, and no
// frame of before can reach it.
func TestReconnect(t *testing.T) {
	checkLeaks(t)
	var log logBuffer
	id := testIdentity(t)
	first := listen(t, ServerConfig{Identity: id})
	addr := first.Addr().String()
	c := newClient(t, ClientConfig{Invite: id.Invite([]string{addr}, time.Time{}), Log: log.logger()})
	wakes := make(chan struct{}, 100)
	l := c.Lane(0)
	l.SetWake(func() { wakes <- struct{}{} })
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	if err := c.Connect(testContext(t)); err != nil {
		t.Fatal(err)
	}
	go func() { ran <- c.Run(ctx) }()
	<-wakes
	if l.Up() || l.Data(1, 0, 0, nil) {
		t.Error("frames are taken before the shard has asked for the epoch")
	}
	if l.Epoch() != 1 || !l.Up() || !l.Data(1, 0, 0, []byte("old")) {
		t.Fatal("the lane is not up")
	}
	p, err := first.Accept(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	p.Lane(0).Return(frame.AppendClosed(nil, 1, &frame.Closed{How: frame.ClosedBoth}), true, true)
	eventually(t, "a return", func() bool { return l.inbox.waiting.Load() })
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	<-wakes
	<-p.Context().Done()
	if l.Up() || l.Data(1, 0, 0, []byte("down")) {
		t.Error("frames are taken while the lane is down")
	}
	if err := c.Finish(ctx); !errors.Is(err, ErrNotConnected) {
		t.Errorf("finish: %v, want ErrNotConnected", err)
	}

	second := listen(t, ServerConfig{Identity: id, Addr: addr})
	for l.epoch.Load() != 2 {
		<-wakes
	}
	if l.Up() || l.Fin(1, 0, false) {
		t.Error("the new connection takes frames of the old epoch")
	}
	if b, epoch := l.Returns(); len(b) == 0 || epoch != 1 {
		t.Errorf("returns of the first connection: %d bytes of epoch %d", len(b), epoch)
	}
	if l.Epoch() != 2 || !l.Data(1, 0, 0, []byte("new")) {
		t.Fatal("the lane is not up again")
	}
	l.Flush()
	if p, err = second.Accept(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if _, payload := readFrames(t, p.Lane(0), 1); string(payload) != "new" {
		t.Errorf("payload %q, want %q", payload, "new")
	}
	cancel()
	if err := <-ran; err != nil {
		t.Errorf("run: %v", err)
	}
	if !l.Up() {
		t.Error("the connection ended with Run")
	}
	if n := strings.Count(log.String(), "tunnel is down"); n != 1 {
		t.Errorf("%d lines that the tunnel is down, want 1:\n%s", n, log.String())
	}
}

// A responder that comes back with another opinion is asked again, slowly; one
// that never let the copier in ends Run.
func TestRunAfterRefusal(t *testing.T) {
	checkLeaks(t)
	id := testIdentity(t)
	var no atomic.Bool
	asked := make(chan struct{}, 100)
	s := listen(t, ServerConfig{Identity: id, Accept: func(Hello) error {
		asked <- struct{}{}
		if no.Load() {
			return errors.New("not now")
		}
		return nil
	}})
	c := newClient(t, ClientConfig{Invite: id.Invite([]string{s.Addr().String()}, time.Time{})})
	c.slow = time.Millisecond
	no.Store(true)
	if err := c.Run(testContext(t)); !errors.Is(err, ErrRefused) {
		t.Fatalf("run of a copier never let in: %v, want ErrRefused", err)
	}
	no.Store(false)
	if err := c.Connect(testContext(t)); err != nil {
		t.Fatal(err)
	}
	p, err := s.Accept(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- c.Run(ctx) }()
	<-asked
	<-asked
	no.Store(true)
	if err := p.Close("enough"); err != nil {
		t.Fatal(err)
	}
	<-asked
	<-asked
	no.Store(false)
	if _, err := s.Accept(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if last := c.Stats().LastError; !strings.Contains(last, "not now") {
		t.Errorf("last error = %q", last)
	}
	cancel()
	if err := <-ran; err != nil {
		t.Errorf("run: %v", err)
	}
}

// Of several connections one breaks: the whole session ends, on both sides.
func TestOneConnectionBreaksAll(t *testing.T) {
	c, p := pair(t, ClientConfig{Lanes: 4, Connections: 4})
	s := c.current()
	closeReason(s.links[2].conn, codeDone, "broken by the test")
	<-s.done
	<-p.Context().Done()
	for i := range 4 {
		if c.Lane(i).Up() {
			t.Errorf("lane %d is up", i)
		}
		if _, err := p.Lane(i).Read(); err == nil {
			t.Errorf("lane %d can be read", i)
		}
		eventually(t, "the lane takes no returns any more", func() bool {
			return !p.Lane(i).Return(frame.AppendClosed(nil, 1, &frame.Closed{}), true, true)
		})
	}
}

// Many copiers, with the same flow numbers, into one responder.
func TestManyCopiers(t *testing.T) {
	checkLeaks(t)
	const copiers = 32
	id := testIdentity(t)
	s := listen(t, ServerConfig{Identity: id})
	ctx := testContext(t)
	var wg sync.WaitGroup
	for i := range copiers {
		c := newClient(t, ClientConfig{Invite: id.Invite([]string{s.Addr().String()}, time.Time{}), Lanes: 2, Name: fmt.Sprint(i)})
		wg.Go(func() {
			if err := c.Connect(ctx); err != nil {
				t.Error(err)
				return
			}
			for k := range 2 {
				c.Lane(k).Epoch()
				if !c.Lane(k).Data(0, 0, 0, []byte(c.cfg.Name)) {
					t.Errorf("copier %d lane %d refuses", i, k)
				}
				c.Lane(k).Flush()
			}
		})
	}
	seen := make(map[string]bool)
	for range copiers {
		p, err := s.Accept(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for k := range 2 {
			if _, payload := readFrames(t, p.Lane(k), 1); string(payload) != p.Hello().Name {
				t.Errorf("copier %s lane %d: payload %q", p.Hello().Name, k, payload)
			}
		}
		seen[p.Hello().Name] = true
	}
	wg.Wait()
	if len(seen) != copiers {
		t.Errorf("%d of %d copiers were seen", len(seen), copiers)
	}
}

func TestClockOffset(t *testing.T) {
	var c clock
	if c.best().offset != 0 {
		t.Error("an offset before the first ping")
	}
	c.add(0, 5_000_900, 1_000)       // the answer waited 900 ns on its way there
	c.add(10_000, 5_010_100, 10_200) // the shortest: 200 ns
	c.add(20_000, 5_020_001, 20_900) // waited on its way back
	if got := c.best().offset; got != 5*time.Millisecond {
		t.Errorf("offset = %v, want 5ms", got)
	}
	for range 8 {
		c.add(0, -500, 1_000)
	}
	if got := c.best().offset; got != -1000 {
		t.Errorf("offset = %v, want -1µs: the short one is too old", got)
	}
}

func TestClockOverTheTunnel(t *testing.T) {
	c, _ := pair(t, ClientConfig{})
	eventually(t, "a ping", func() bool {
		k := &c.current().clock
		k.mu.Lock()
		defer k.mu.Unlock()
		return k.n > 0
	})
	if off := c.Stats().ClockOffset; off < -time.Second || off > time.Second {
		t.Errorf("offset = %v on the same host", off)
	}
}

func TestAddrs(t *testing.T) {
	tests := []struct{ addr, first, want string }{
		{"", "192.0.2.1:7000", "192.0.2.1:7000"},
		{"target", "192.0.2.1:7000", "target:7000"},
		{"target:1", "192.0.2.1:7000", "target:1"},
		{"2001:db8::1", "192.0.2.1:7000", "[2001:db8::1]:7000"},
		{"[2001:db8::1]", "192.0.2.1:7000", "[2001:db8::1]:7000"},
		{"[2001:db8::1]:1", "192.0.2.1:7000", "[2001:db8::1]:1"},
		{"", "192.0.2.1", "192.0.2.1:7443"},
	}
	for _, tt := range tests {
		cfg := ClientConfig{Addr: tt.addr, Invite: Invite{Addrs: []string{tt.first}}}
		if got := cfg.addrs(); len(got) != 1 || got[0] != tt.want {
			t.Errorf("%q over %q: %v, want %s", tt.addr, tt.first, got, tt.want)
		}
	}
}

// A responder that was killed says nothing. Its successor knows nothing of the
// connection, and says so by a stateless reset: long before the idle timeout.
func TestRestartAfterKill(t *testing.T) {
	id := testIdentity(t)
	first := listen(t, ServerConfig{Identity: id})
	addr := first.Addr().String()
	c := newClient(t, ClientConfig{Invite: id.Invite([]string{addr}, time.Time{})})
	if err := c.Connect(testContext(t)); err != nil {
		t.Fatal(err)
	}
	s := c.current()
	_ = first.socket.Close() // no word to the copier
	second := listen(t, ServerConfig{Identity: id, Addr: addr})
	l := c.Lane(0)
	l.Epoch()
	for l.Data(1, 0, 0, make([]byte, 500)) {
		l.Flush()
		<-time.After(time.Millisecond)
	}
	<-s.done
	if !strings.Contains(s.err.Error(), "restarted") {
		t.Errorf("err = %v, want that the other side was restarted", s.err)
	}
	if err := c.Connect(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if _, err := second.Accept(testContext(t)); err != nil {
		t.Fatal(err)
	}
}

// The end of a session takes the lanes down: were the next one up before, they
// would stay down for good.
func TestConnectWaitsForTheOldSession(t *testing.T) {
	checkLeaks(t)
	id := testIdentity(t)
	old := newSession()
	close(old.failed)
	asked := make(chan bool, 1)
	s := listen(t, ServerConfig{Identity: id, Accept: func(Hello) error {
		select {
		case <-old.done:
			asked <- true
		default:
			asked <- false
		}
		return nil
	}})
	c := newClient(t, ClientConfig{Invite: id.Invite([]string{s.Addr().String()}, time.Time{})})
	c.session = old
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Connect(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("err = %v", err)
	}
	connected := make(chan error, 1)
	go func() { connected <- c.Connect(testContext(t)) }()
	<-time.After(20 * time.Millisecond) // long enough to be wrong
	close(old.done)
	if err := <-connected; err != nil {
		t.Fatal(err)
	}
	if !<-asked {
		t.Error("connected before the old session was done")
	}
}

// A responder that is being restarted says that it stops, and is back a moment later:
// a copier that takes this for a refusal stays away for half a minute, or ends.
func TestRunAfterNotNow(t *testing.T) {
	checkLeaks(t)
	id := testIdentity(t)
	asked := make(chan struct{}, 100)
	var yes atomic.Bool
	s := listen(t, ServerConfig{Identity: id, Accept: func(Hello) error {
		asked <- struct{}{}
		if yes.Load() {
			return nil
		}
		return fmt.Errorf("%w: it stops", ErrNotNow)
	}})
	c := newClient(t, ClientConfig{Invite: id.Invite([]string{s.Addr().String()}, time.Time{})})
	c.slow = time.Hour
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- c.Run(ctx) }()
	for range 2 {
		select {
		case <-asked:
		case err := <-ran:
			t.Fatalf("run has ended: %v", err)
		}
	}
	yes.Store(true)
	if _, err := s.Accept(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if last := c.Stats().LastError; !strings.Contains(last, "not now: it stops") {
		t.Errorf("last error = %q", last)
	}
	cancel()
	if err := <-ran; err != nil {
		t.Error(err)
	}
}
