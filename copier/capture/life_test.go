package capture

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"flowtwin/internal/testnet"
)

// messages collects what is logged.
type messages struct {
	mu  sync.Mutex
	buf bytes.Buffer
	got chan struct{}
}

func newMessages() *messages { return &messages{got: make(chan struct{}, 1)} }

func (m *messages) Write(b []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	select {
	case m.got <- struct{}{}:
	default:
	}
	return m.buf.Write(b)
}

func (m *messages) log() *slog.Logger { return slog.New(slog.NewTextHandler(m, nil)) }

// await waits for n messages with text.
func (m *messages) await(t *testing.T, text string, n int) {
	t.Helper()
	deadline := time.After(patience)
	for {
		m.mu.Lock()
		all := m.buf.String()
		m.mu.Unlock()
		if strings.Count(all, text) >= n {
			return
		}
		select {
		case <-m.got:
		case <-deadline:
			t.Fatalf("want %d times %q, log is %s", n, text, all)
		}
	}
}

// The host never waits for the copier: what finds no room is dropped and counted.
func TestDropsAreCounted(t *testing.T) {
	client, server := pair(t)
	set := openIn(t, server, Config{
		Matches: serverAt("10.9.0.2:80"), Interfaces: []string{"eth0"}, RingBytes: 2 * minBlock, Block: minBlock,
	})
	serve(t, server, "10.9.0.2:80", nil)
	for range 4 {
		request(t, client, "10.9.0.2:80", randomBytes(t, 1<<20))
	}
	first := set.Ring(0).Stats()
	if first.Drops == 0 || first.Freezes == 0 || first.Packets <= first.Drops {
		t.Errorf("stats %+v of a ring that is not read, want drops and freezes", first)
	}
	request(t, client, "10.9.0.2:80", []byte("x"))
	if second := set.Ring(0).Stats(); second.Drops <= first.Drops || second.Packets <= first.Packets {
		t.Errorf("stats %+v, then %+v: they do not accumulate", first, second)
	}
	// What is in the ring is still there, and the ring lives on.
	tp := startTap(t, set)
	now := func([]taken) string { return "" }
	for i := 0; i < 1000 && fins(1)(tp.until(t, now)) != ""; i++ { // the first ones may find the ring still full
		request(t, client, "10.9.0.2:80", []byte("y"))
	}
	all := tp.until(t, fins(1))
	if s := set.Ring(0).Stats(); s.Packets-s.Drops < uint64(len(all)) {
		t.Errorf("read %d packets, stats %+v", len(all), s)
	}
	if err := set.Close(); err != nil {
		t.Fatal(err)
	}
	if s := set.Ring(0).Stats(); s.Drops < first.Drops {
		t.Errorf("stats %+v after Close, want the last", s)
	}
}

// idle opens a ring that receives nothing.
func idle(tb testing.TB) (*Set, *Ring) {
	tb.Helper()
	ns := testnet.New(tb, "capidle")
	set := openIn(tb, ns, Config{Matches: []Match{{Port: 80}}})
	return set, set.Ring(0)
}

func TestNextTimeout(t *testing.T) {
	_, r := idle(t)
	for _, timeout := range []time.Duration{0, time.Millisecond} {
		if ok, err := r.Next(timeout); ok || err != nil {
			t.Errorf("Next(%v) = %v, %v; want no block", timeout, ok, err)
		}
	}
}

func TestWake(t *testing.T) {
	_, r := idle(t)
	r.Wake() // before Next: it must not be lost
	if ok, err := r.Next(time.Hour); ok || err != nil {
		t.Errorf("Next = %v, %v; want no block", ok, err)
	}
	// While it waits, from many sides. Each return of Next is answered by another
	// round, so that one lost Wake would hang.
	const rounds = 2000
	back := make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() {
		for range rounds {
			if _, err := r.Next(time.Hour); err != nil {
				t.Error(err)
			}
			back <- struct{}{}
		}
	})
	for range rounds {
		r.Wake()
		<-back
	}
	all.Wait()
}

func TestCloseWakesReader(t *testing.T) {
	for range 50 {
		set, r := idle(t)
		ended := make(chan error, 1)
		entered := make(chan struct{})
		go func() {
			close(entered)
			for {
				if _, err := r.Next(time.Hour); err != nil {
					ended <- err
					return
				}
			}
		}()
		<-entered
		if err := set.Close(); err != nil {
			t.Fatal(err)
		}
		if err := <-ended; !errors.Is(err, os.ErrClosed) {
			t.Fatalf("Next returned %v, want os.ErrClosed", err)
		}
		if _, err := r.Next(time.Hour); !errors.Is(err, os.ErrClosed) {
			t.Fatalf("Next after Close returned %v, want os.ErrClosed", err)
		}
		r.Wake()
		r.Release()
		_ = r.Stats()
	}
}

// The memory of a block stays mapped until its reader has given it back.
func TestCloseWaitsForBlock(t *testing.T) {
	client, server := pair(t)
	serve(t, server, "10.9.0.2:80", nil)
	set := openIn(t, server, Config{Matches: serverAt("10.9.0.2:80")})
	request(t, client, "10.9.0.2:80", []byte("x"))
	r := set.Ring(0)
	var p Packet
	for {
		ok, err := r.Next(time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		if ok && r.Packet(&p) {
			break
		}
	}
	closed := make(chan error, 1)
	go func() { closed <- set.Close() }()
	for !r.closed.Load() {
		runtime.Gosched()
	}
	// A Close that does not wait faults here at the latest.
	for range 100_000 {
		if p.Data[0]>>4 != 4 {
			t.Fatalf("packet begins with %#x", p.Data[0])
		}
	}
	select {
	case err := <-closed:
		t.Fatalf("Close returned %v while a block was lent", err)
	default:
	}
	if _, err := r.Next(0); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Next returned %v, want os.ErrClosed", err)
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
}

func TestSecondReaderPanics(t *testing.T) {
	set, r := idle(t)
	var first sync.WaitGroup
	first.Go(func() {
		if _, err := r.Next(time.Hour); err != nil && !errors.Is(err, os.ErrClosed) {
			t.Error(err)
		}
	})
	for r.lease.TryLock() { // until the first one is inside
		r.lease.Unlock()
		runtime.Gosched()
	}
	defer func() {
		if recover() == nil {
			t.Error("a second reader was let in")
		}
		if err := set.Close(); err != nil {
			t.Error(err)
		}
		first.Wait()
	}()
	_, _ = r.Next(0)
}

func TestOpenErrors(t *testing.T) {
	ns := testnet.New(t, "caperr")
	tests := []struct {
		name string
		cfg  Config
		want string
	}{
		{"no match", Config{}, "Matches"},
		{"no port", Config{Matches: []Match{{}}}, "Matches"},
		{"unknown interface", Config{Matches: []Match{{Port: 80}}, Interfaces: []string{"lo", "eth7"}}, `no interface "eth7"; there are lo`},
		{"small block", Config{Matches: []Match{{Port: 80}}, Block: 4096}, "Block"},
		{"small ring", Config{Matches: []Match{{Port: 80}}, RingBytes: minBlock}, "RingBytes"},
		{"retire", Config{Matches: []Match{{Port: 80}}, Retire: time.Microsecond}, "Retire"},
		{"rings", Config{Matches: []Match{{Port: 80}}, Rings: -1}, "Rings"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var err error
			ns.Do(func() { _, err = Open(tt.cfg) })
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one that says %q", err, tt.want)
			}
		})
	}
}

// Without the capability Open says which one is missing, and how to give it.
func TestOpenWithoutCapability(t *testing.T) {
	ns := testnet.New(t, "capnone")
	var err error
	ns.Do(func() {
		// The thread's own capabilities; it ends with the namespace's Do.
		hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var was, none [2]unix.CapUserData
		if err = unix.Capget(&hdr, &was[0]); err != nil {
			return
		}
		none = was
		none[0].Effective &^= 1 << unix.CAP_NET_RAW
		if err = unix.Capset(&hdr, &none[0]); err != nil {
			return
		}
		_, err = Open(Config{Matches: []Match{{Port: 80}}})
		if back := unix.Capset(&hdr, &was[0]); back != nil {
			t.Error(back)
		}
	})
	if err == nil || !strings.Contains(err.Error(), "CAP_NET_RAW") || !errors.Is(err, os.ErrPermission) {
		t.Errorf("error %v, want CAP_NET_RAW", err)
	}
}

// Goroutines and file descriptors do not outlive the set.
func TestCloseLeavesNothing(t *testing.T) {
	ns := testnet.New(t, "capleak")
	fds := func() int {
		d, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(d)
	}
	open := func() {
		ns.Do(func() {
			set, err := Open(Config{Matches: []Match{{Port: 80}}, Rings: 2})
			if err != nil {
				t.Error(err)
				return
			}
			if err := set.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	open()
	before := fds()
	for range 5 {
		open()
	}
	if after := fds(); after > before {
		t.Errorf("%d file descriptors open, %d before", after, before)
	}
}
