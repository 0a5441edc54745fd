package tunnel

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"flowtwin/tunnel/frame"
)

// farAway is a relay to addr with a one-way delay; it returns its own address.
func farAway(t *testing.T, addr netip.AddrPort, delay time.Duration) string {
	t.Helper()
	return relay(t, addr, delay, func(int) bool { return true })
}

// relay is one that loses the packets whose length does not pass. It asks from
// several goroutines.
func relay(t *testing.T, addr netip.AddrPort, delay time.Duration, passes func(n int) bool) string {
	t.Helper()
	front, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	done := make(chan struct{})
	// carry reads packets until c is closed and passes each on after the delay.
	carry := func(c *net.UDPConn, pass func(b []byte, from netip.AddrPort)) {
		type packet struct {
			b    []byte
			from netip.AddrPort
			due  time.Time
		}
		queue := make(chan packet, 10_000)
		wg.Go(func() {
			for p := range queue {
				select {
				case <-time.After(time.Until(p.due)):
					pass(p.b, p.from)
				case <-done:
				}
			}
		})
		wg.Go(func() {
			defer close(queue)
			for {
				b := make([]byte, 2048)
				n, from, err := c.ReadFromUDPAddrPort(b)
				if err != nil {
					return
				}
				if passes(n) {
					queue <- packet{b[:n], from, time.Now().Add(delay)}
				}
			}
		})
	}
	backs := make(map[netip.AddrPort]*net.UDPConn) // by the copier's address; the front's goroutine's own
	carry(front, func(b []byte, from netip.AddrPort) {
		back := backs[from]
		if back == nil {
			if back, err = net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(addr)); err != nil {
				t.Error(err)
				return
			}
			backs[from] = back
			carry(back, func(b []byte, _ netip.AddrPort) { _, _ = front.WriteToUDPAddrPort(b, from) })
		}
		_, _ = back.Write(b)
	})
	t.Cleanup(func() {
		close(done)
		_ = front.Close()
		for _, back := range backs {
			_ = back.Close()
		}
		wg.Wait()
	})
	return front.LocalAddr().String()
}

// Sixteen handshakes of three round trips, one after another, would take longer
// than the responder waits.
func TestManyConnectionsOnALongPath(t *testing.T) {
	checkLeaks(t)
	id := testIdentity(t)
	s := listen(t, ServerConfig{Identity: id})
	addr := farAway(t, s.Addr(), 75*time.Millisecond)
	c := newClient(t, ClientConfig{
		Invite: id.Invite([]string{addr}, time.Time{}), Lanes: MaxConnections, Connections: MaxConnections,
	})
	if err := c.Connect(testContext(t)); err != nil {
		t.Fatal(err)
	}
	p, err := s.Accept(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	for i := range MaxConnections {
		l := c.Lane(i)
		l.Epoch()
		if !l.Data(0, 0, 0, []byte{byte(i)}) {
			t.Fatalf("lane %d is not up", i)
		}
		l.Flush()
		if _, payload := readFrames(t, p.Lane(i), 1); len(payload) != 1 || payload[0] != byte(i) {
			t.Errorf("lane %d: payload %x", i, payload)
		}
	}
}

// A path whose MTU becomes smaller, without a word from a router, loses all that is
// long while the connection seems to live.
func TestPathThatShrinks(t *testing.T) {
	checkLeaks(t)
	id := testIdentity(t)
	s := listen(t, ServerConfig{Identity: id})
	var longest, limit atomic.Int64
	limit.Store(1 << 16)
	addr := relay(t, s.Addr(), 0, func(n int) bool {
		if int64(n) > limit.Load() {
			return false
		}
		for was := longest.Load(); int64(n) > was && !longest.CompareAndSwap(was, int64(n)); was = longest.Load() {
		}
		return true
	})
	var text logBuffer
	c := newClient(t, ClientConfig{Invite: id.Invite([]string{addr}, time.Time{}), Log: text.logger()})
	c.pings = pingTimes{5 * time.Millisecond, 300 * time.Millisecond}
	if err := c.Connect(testContext(t)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(testContext(t))
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	if _, err := s.Accept(testContext(t)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "packets of full size are used", func() bool { return longest.Load() > 1400 })
	limit.Store(1300)
	if _, err := s.Accept(testContext(t)); err != nil {
		t.Fatal("no other connection: ", err)
	}
	eventually(t, "the reason is logged", func() bool { return strings.Contains(text.String(), "MTU") })
	pings := func() int {
		k := &c.current().clock
		k.mu.Lock()
		defer k.mu.Unlock()
		return k.n
	}
	eventually(t, "the other one works", func() bool { return c.Stats().Up && pings() > 5 })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// The responder waits for each further connection anew.
func TestGatherWaitsFromJoinToJoin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Server{waiting: make(map[string]*gathering)}
		g := &gathering{conns: make([]serverLink, 3), complete: make(chan struct{}), joined: make(chan struct{}, 3)}
		got := make(chan error)
		go func() { got <- s.gather(t.Context(), g) }()
		begin := time.Now()
		for range 2 {
			<-time.After(handshakeTimeout - time.Second)
			g.joined <- struct{}{}
		}
		err := <-got
		var refused *refusalError
		if !errors.As(err, &refused) || refused.code != codeFailed {
			t.Errorf("err = %v, want code %d", err, codeFailed)
		}
		if d, want := time.Since(begin), 3*handshakeTimeout-2*time.Second; d != want {
			t.Errorf("given up after %v, want %v", d, want)
		}
	})
}

func TestRace(t *testing.T) {
	never := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	bad := errors.New("bad")
	tests := []struct {
		name string
		try  func(ctx context.Context, i int) error
		wins bool
		took time.Duration
	}{
		{"the first answers", func(context.Context, int) error { return nil }, true, 0},
		{"only the last answers", func(ctx context.Context, i int) error {
			if i < 15 {
				return never(ctx)
			}
			return nil
		}, true, 15 * raceDelay},
		{"the next one at once where one fails", func(_ context.Context, i int) error {
			if i < 15 {
				return bad
			}
			return nil
		}, true, 0},
		{"none", func(context.Context, int) error { return bad }, false, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begin := time.Now()
				l, err := race(t.Context(), 16, func(ctx context.Context, i int) (*link, error) {
					if err := tt.try(ctx, i); err != nil {
						return nil, err
					}
					return &link{}, nil
				})
				if tt.wins && (l == nil || err != nil) || !tt.wins && !errors.Is(err, bad) {
					t.Errorf("got %v, %v", l, err)
				}
				if d := time.Since(begin); d != tt.took {
					t.Errorf("took %v, want %v", d, tt.took)
				}
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := race(ctx, 2, func(ctx context.Context, _ int) (*link, error) { return nil, never(ctx) }); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("err = %v after the context's end", err)
		}
	})
}

// Fifteen addresses that swallow everything must not cost three seconds each.
func TestSilentAddressesCostLittle(t *testing.T) {
	checkLeaks(t)
	id := testIdentity(t)
	s := listen(t, ServerConfig{Identity: id})
	var addrs []string
	for range 15 {
		silent, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = silent.Close() }()
		addrs = append(addrs, silent.LocalAddr().String())
	}
	c := newClient(t, ClientConfig{Invite: id.Invite(append(addrs, s.Addr().String()), time.Time{})})
	if err := c.Connect(testContext(t)); err != nil { // 45 s are beyond its deadline
		t.Fatal(err)
	}
	if got := c.Stats().Remote; got != s.Addr().String() {
		t.Errorf("connected to %s", got)
	}
}

// Another host at one of several addresses says nothing about the responder.
func TestOtherHostAtOneAddress(t *testing.T) {
	checkLeaks(t)
	id := testIdentity(t)
	other := listen(t, ServerConfig{Identity: testIdentity(t)}).Addr().String()
	another := listen(t, ServerConfig{Identity: testIdentity(t)}).Addr().String()
	gone := listen(t, ServerConfig{Identity: id})
	right := gone.Addr().String()
	if err := gone.Close(); err != nil {
		t.Fatal(err)
	}

	connect := func(addrs ...string) error {
		return newClient(t, ClientConfig{Invite: id.Invite(addrs, time.Time{})}).Connect(testContext(t))
	}
	if err := connect(other, right); refusal(err) || !strings.Contains(err.Error(), ErrFingerprint.Error()) {
		t.Errorf("err = %v, want one that says all and may be tried again", err)
	}
	if err := connect(other, another); !errors.Is(err, ErrFingerprint) || !refusal(err) {
		t.Errorf("err = %v, want %v: nowhere is the responder", err, ErrFingerprint)
	}
	listen(t, ServerConfig{Identity: id, Addr: right})
	if err := connect(other, right); err != nil {
		t.Errorf("err = %v, though the responder is up", err)
	}
	refusing := listen(t, ServerConfig{Identity: id, Accept: func(Hello) error { return errors.New("no") }})
	if err := connect(other, refusing.Addr().String()); !errors.Is(err, ErrRefused) {
		t.Errorf("err = %v, want %v", err, ErrRefused)
	}
}

// However many lanes stand still, they hold no other lane of their connection
// back.
func TestStalledLanesDoNotHoldOthers(t *testing.T) {
	c, p := pair(t, ClientConfig{Lanes: 4})
	stop := context.AfterFunc(testContext(t), func() { _ = p.Close("the test has waited long enough") })
	defer stop()
	stalled := func() (sent uint64) {
		for i := range 3 {
			sent += c.Lane(i).sent.Load()
		}
		return sent
	}
	for i := range 3 { // more than a stream takes at first; nobody reads
		for range 2 {
			if !c.Lane(i).Data(0, 0, 0, make([]byte, frame.MaxPayload)) {
				t.Fatal("no room in a lane")
			}
		}
		c.Lane(i).Flush()
	}
	eventually(t, "lanes stand still", func() bool { return stalled() > 690_000 })
	l := c.Lane(3)
	for range 4 {
		if !l.Data(0, 0, 0, make([]byte, 250_000)) {
			t.Fatal("no room in the lane")
		}
	}
	l.Flush()
	readFrames(t, p.Lane(3), 4)
}
