package responder

import (
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"flowtwin/tunnel/frame"
)

// The hosts' clocks differ by seconds: percentiles must still be good to a part
// of the lag itself.
func TestLagIsPreciseWhateverTheClocks(t *testing.T) {
	for _, offset := range []int64{0, -7 * int64(time.Second), int64(time.Hour)} {
		rng := rand.New(rand.NewPCG(1, 2))
		var window, l lag
		var values []int64
		for range 2 { // the second window knows its reference
			window.reset()
			l.reset()
			values = values[:0]
			for range 10_000 {
				v := offset + 50_000 + int64(rng.ExpFloat64()*1e6)
				values = append(values, v)
				window.add(v, 1)
			}
			window.moveTo(&l)
		}
		slices.Sort(values)
		if l.n != 10_000 || window.n != 0 || l.hi != values[9999] || l.lo != values[0] {
			t.Fatalf("%d values from %d to %d", l.n, l.lo, l.hi)
		}
		for _, q := range []float64{0.01, 0.5, 0.99} {
			got, want := l.quantile(q), values[int(q*10_000)]
			if tolerance := (want-values[0])/8 + 2000; got < want-tolerance || got > want+tolerance {
				t.Errorf("offset %v, q %v: %d, want %d ± %d", time.Duration(offset), q, got-offset, want-offset, tolerance)
			}
		}
	}
}

func TestLagBuckets(t *testing.T) {
	for b := range lagSide {
		if d := distance(b); bucket(d) != b {
			t.Fatalf("bucket of %d, the least of bucket %d, is %d", d, b, bucket(d))
		}
	}
	if b := bucket(1 << 63); b > lagSide {
		t.Errorf("bucket of a huge distance is %d", b)
	}
}

func TestAllowed(t *testing.T) {
	local := []netip.Addr{
		netip.MustParseAddr("192.168.44.137"), netip.MustParseAddr("2001:db8::7"), netip.MustParseAddr("::1"),
	}
	tests := []struct{ target, rules, says string }{
		{"192.168.44.137:80", "", ""},
		{"127.0.0.1:80", "", ""},
		{"127.9.9.9:80", "", ""},
		{"[2001:db8::7]:80", "", ""},
		{"[::1]:80", "", "::1"},
		{"192.168.44.138:80", "", "not an address of the responder's host"},
		{"0.0.0.0:80", "", "not an address"},
		{"192.168.44.137:0", "", "not an address"},
		{"192.168.44.137:80", "192.168.44.137:80", ""},
		{"192.168.44.137:81", "192.168.44.137:80", "--allow"},
		{"192.168.44.137:81", "192.168.44.137", ""},
		{"192.168.44.137:81", "10.0.0.0/8,192.168.0.0/16", ""},
		{"127.0.0.1:80", "192.168.44.137:80", "--allow"},
		{"[2001:db8::7]:80", "[2001:db8::7]:80", ""},
	}
	for _, tt := range tests {
		var rules []Rule
		for s := range strings.SplitSeq(tt.rules, ",") {
			if s == "" {
				continue
			}
			r, err := ParseRule(s)
			if err != nil || r.String() != s {
				t.Fatalf("rule %s: %s, %v", s, r, err)
			}
			rules = append(rules, r)
		}
		err := allowed(netip.MustParseAddrPort(tt.target), rules, local)
		if (err == nil) != (tt.says == "") || err != nil && !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s by rules %q: %v, want %q", tt.target, tt.rules, err, tt.says)
		}
	}
}

func TestRuleThatAllowsNothingIsRefused(t *testing.T) {
	r, err := ParseRule("192.0.2.1:80")
	if err != nil {
		t.Fatal(err)
	}
	if err := checkRules([]Rule{r}, nil); err == nil || !strings.Contains(err.Error(), "--allow 192.0.2.1:80") {
		t.Errorf("error %v", err)
	}
}

// A target is looked for in the kernel's table before a connection is made to it: its
// application would see one that production did not have.
func TestProbe(t *testing.T) {
	for _, tt := range []struct{ listen, target string }{
		{"127.0.0.1:0", "127.0.0.1"},
		{"[::1]:0", "::1"},
		{":0", "127.0.0.1"}, // of both families
		{":0", "::1"},
	} {
		t.Run(tt.listen+" "+tt.target, func(t *testing.T) {
			l, err := net.Listen("tcp", tt.listen)
			if err != nil {
				t.Fatal(err)
			}
			addr := netip.AddrPortFrom(netip.MustParseAddr(tt.target), netip.MustParseAddrPort(l.Addr().String()).Port())
			accepted := make(chan struct{})
			go func() {
				defer close(accepted)
				if c, err := l.Accept(); err == nil {
					t.Error("a connection was made")
					_ = c.Close()
				}
			}()
			if err := probe(t.Context(), addr); err != nil {
				t.Errorf("%s: %v", addr, err)
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			<-accepted
			if err := probe(t.Context(), addr); err == nil {
				t.Error("found a listener that is gone")
			}
		})
	}
}

// A listener of the other family takes nothing of the target; nginx has one for each.
func TestProbeKnowsFamilies(t *testing.T) {
	for network, target := range map[string]string{"tcp4": "::1", "tcp6": "127.0.0.1"} {
		l, err := net.Listen(network, ":0")
		if err != nil {
			t.Fatal(err)
		}
		port := netip.MustParseAddrPort(l.Addr().String()).Port()
		if err := probe(t.Context(), netip.AddrPortFrom(netip.MustParseAddr(target), port)); err == nil {
			t.Errorf("a socket of %s alone is found to listen on %s", network, target)
		}
		_ = l.Close()
	}
}

// fakeLane is a lane's tunnel that takes returns, or does not.
type fakeLane struct {
	full     bool
	returned []byte
}

func (l *fakeLane) Read() ([]byte, error) { select {} }

func (l *fakeLane) Return(frames []byte, must, _ bool) bool {
	if l.full && !must {
		return false
	}
	l.returned = append(l.returned, frames...)
	return true
}

// A packet that comes late must not be taken for one of the flow that has the
// place now, and headers that are lost must be counted with their session.
func TestTaps(t *testing.T) {
	io := &fakeLane{}
	st := &strand{lane: &lane{io: io}}
	var ts taps
	old := &session{strand: st, flow: 1}
	late := ts.enter(old)
	ts.tap(late, 1, make([]byte, 40), 0)
	ts.leaveLocked(old)
	s := &session{strand: st, flow: 2}
	user := ts.enter(s)
	if uint32(user) != uint32(late) {
		t.Fatalf("place %d was not used again", uint32(late))
	}
	ts.tap(late, 2, make([]byte, 40), 0)
	ts.tap(user, 3, make([]byte, 40), 0)
	ts.tap(1<<32|99, 4, make([]byte, 40), 0)
	st.returnHeadersLocked()
	var flows []uint32
	for b := io.returned; len(b) > 0; {
		_, flow, _, rest, err := frame.Next(b)
		if err != nil {
			t.Fatal(err)
		}
		flows, b = append(flows, flow), rest
	}
	if !slices.Equal(flows, []uint32{1, 2}) {
		t.Errorf("headers of flows %v, want 1 and 2", flows)
	}

	io.full = true
	for range 3 {
		ts.tap(user, 5, make([]byte, 40), 0)
	}
	st.returnHeadersLocked()
	if s.returned != 1 || s.missed != 3 || old.returned != 1 {
		t.Errorf("returned %d, missed %d; want 1, 3", s.returned, s.missed)
	}
}

func TestTapDoesNotAllocate(t *testing.T) {
	st := &strand{lane: &lane{io: &fakeLane{full: true}}}
	var ts taps
	user := ts.enter(&session{strand: st})
	h := make([]byte, 52)
	for range 1000 {
		ts.tap(user, 1, h, 0)
	}
	if n := testing.AllocsPerRun(1000, func() { ts.tap(user, 1, h, 0) }); n != 0 {
		t.Errorf("a packet allocates %v times, want 0", n)
	}
}

func BenchmarkTap(b *testing.B) {
	st := &strand{lane: &lane{io: &fakeLane{full: true}}}
	var ts taps
	user := ts.enter(&session{strand: st})
	h := make([]byte, 52)
	for b.Loop() {
		ts.tap(user, 1, h, 1000)
	}
}

// What no copier of ours sends must end its connection, not the responder.
func TestBrokenProtocol(t *testing.T) {
	open := frame.AppendOpen(nil, 3, &frame.Open{})
	for name, b := range map[string][]byte{
		"return frame":  frame.AppendEmpty(nil, frame.TypeReturnBye, 0),
		"unknown type":  {0x3f, 0, 0, 0, 0, 0, 0, 0},
		"unknown map":   frame.AppendOpen(nil, 3, &frame.Open{Map: 1}),
		"huge number":   frame.AppendOpen(nil, maxFlows, &frame.Open{}),
		"number in use": append(slices.Clone(open), open...),
		"return behind": frame.AppendProgress(slices.Clone(open), &frame.Progress{}),
	} {
		n := newFakeNet(1, target{})
		h := &host{net: n, most: 10, workers: []*worker{nil}}
		l := newLane(h, &fakeLane{}, oneTarget(h), &limits{})
		if err := l.sort(b); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// A byte that is lost between tunnel and target must show, and what belongs to no
// session must be counted.
func TestSums(t *testing.T) {
	ok := Summary{
		Book: Book{
			Opened: 3, Closed: Hows{frame.ClosedBoth: 2, frame.ClosedDrain: 1}, Delivered: 70, DroppedBytes: 25,
			DeliveredSegments: 7, DroppedSegments: 2,
		},
		Received: 100, ReceivedSegments: 10, StrayBytes: 5, StraySegments: 1, Strays: 2,
	}
	for name, tt := range map[string]struct {
		change func(s *Summary)
		says   string
	}{
		"":         {func(*Summary) {}, "sums       ok"},
		"bytes":    {func(s *Summary) { s.Received++ }, "70 delivered + 25 dropped + 5 stray: -1"},
		"segments": {func(s *Summary) { s.StraySegments++ }, "+1"},
		"sessions": {func(s *Summary) { s.Closed[frame.ClosedBoth]++ }, "3 opened are not 4 closed"},
	} {
		s := ok
		tt.change(&s)
		if s.Sums = s.check(); s.Sums == nil {
			t.Error("no list in the JSON")
		}
		var out strings.Builder
		if err := s.write(&out); err != nil {
			t.Fatal(err)
		}
		if got := out.String(); !strings.Contains(got, tt.says) || strings.Contains(got, "WRONG: "+name) != (name != "") {
			t.Errorf("%s: summary says\n%s", name, got)
		}
	}
}

// The line is read by people: no more than says how it goes.
func TestStatusLine(t *testing.T) {
	s := Summary{Copiers: 1, Open: 2, Book: Book{
		Opened: 10, Established: 9, Delivered: 100, Absorbed: 200,
		Closed: Hows{frame.ClosedBoth: 4, frame.ClosedTargetFirst: 2, frame.ClosedClientReset: 1, frame.ClosedRefused: 1},
	}}
	var out strings.Builder
	slog.New(slog.NewTextHandler(&out, nil)).Info("status", s.attrs()...)
	const want = `msg=status copiers=1 sessions=2 opened=10 established=9 ended=7 refused=1 delivered_bytes=100 answer_bytes=200`
	if _, got, _ := strings.Cut(strings.TrimSpace(out.String()), "INFO "); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestStraysAreCounted(t *testing.T) {
	n := newFakeNet(1, target{})
	h := &host{net: n, most: 10, workers: []*worker{nil}}
	l := newLane(h, &fakeLane{}, oneTarget(h), &limits{})
	b := frame.AppendData(nil, 7, &frame.Data{Payload: []byte("abc")})
	b = frame.AppendData(b, 7, &frame.Data{})
	b = frame.AppendAbort(b, 7, &frame.Abort{})
	b = frame.AppendOpen(b, 8, &frame.Open{})
	b = frame.AppendData(b, 8, &frame.Data{Payload: []byte("de")})
	if err := l.sort(b); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name      string
		got, want uint64
	}{
		{"received bytes", h.received.bytes.Load(), 5},
		{"received segments", h.received.segments.Load(), 2},
		{"stray frames", h.stray.frames.Load(), 3},
		{"stray bytes", h.stray.bytes.Load(), 3},
		{"stray segments", h.stray.segments.Load(), 1},
	} {
		if c.got != c.want {
			t.Errorf("%s: %d, want %d", c.name, c.got, c.want)
		}
	}
}
