package copier

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"flowtwin/copier/report"
	"flowtwin/tunnel"
)

func pauseOrders(paused bool) *orders { return &orders{paused: paused} }

// While somebody has paused it a copier must send nothing at all; afterwards what
// goes on is copied from its next request on, and what has begun meanwhile too.
func TestPauseEndsSessionsAndResumeBeginsThem(t *testing.T) {
	b := newBench(t)
	ask := func(c *conn, n int) { b.feed(c.data(request(n)), c.answer(10), c.ack()) }
	old, fresh := newConn(), newConn()
	fresh.client = netip.MustParseAddrPort("192.0.2.8:5000")
	b.feed(old.handshake()...)
	ask(old, 1)
	b.tell(pauseOrders(true))
	ask(old, 2)
	b.feed(fresh.handshake()...)
	ask(fresh, 3)
	if len(b.lane.sessions) != 1 || !strings.Contains(strings.Join(b.lane.sessions[0].ends, " "), "abort:drain") {
		t.Errorf("while paused: %d sessions, the first ended by %v", len(b.lane.sessions), b.lane.sessions[0].ends)
	}
	b.wantData(b.lane.sessions[0], request(1))
	b.tell(pauseOrders(false))
	ask(old, 4)
	ask(fresh, 5)
	if len(b.lane.sessions) != 3 {
		t.Fatalf("%d sessions after it was resumed, want 3", len(b.lane.sessions))
	}
	b.wantData(b.lane.sessions[1], request(4))
	b.wantData(b.lane.sessions[2], request(5))
	f := b.book.Flows
	if f.Seen != 2 || f.Admitted != 2 || f.Resumed[report.Paused] != 1 || f.GivenUp[report.Paused] != 1 {
		t.Errorf("flows %+v", f)
	}
	b.wantDropped(report.Paused, uint64(len(request(2))+len(request(3))))
}

// ask has an operation of the rig's done.
func (r *rig) ask(t *testing.T, drain func(), op string, args ...string) (string, error) {
	t.Helper()
	f := &fleet{cfg: r.cfg, copiers: []*copier{r.copier}}
	f.cfg.ParseMaps = func(_ context.Context, text string) ([]tunnel.Map, error) {
		local, target, _ := strings.Cut(text, "-")
		server, port, err := parseLocal(local)
		return []tunnel.Map{{Server: server, Port: port, Target: netip.MustParseAddrPort(target)}}, err
	}
	o := f.table(drain)[op]
	result, err := o.Do(t.Context(), args)
	if err != nil {
		return "", err
	}
	b, err := json.Marshal(result)
	if err != nil {
		t.Fatal(err)
	}
	return string(b), nil
}

// A map that is added must be known to the responder before a flow names it, and one
// that is removed is copied no more, at once.
func TestMapsComeAndGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.tellLocked(nil)
		stop := r.start(t)
		must := func(op string, args ...string) {
			t.Helper()
			if _, err := r.ask(t, nil, op, args...); err != nil {
				t.Fatalf("%s %v: %v", op, args, err)
			}
		}
		fails := func(want, op string, args ...string) {
			t.Helper()
			if _, err := r.ask(t, nil, op, args...); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s %v: %v, want %q", op, args, err, want)
			}
		}
		c := newConn()
		r.capture(c.handshake()...)
		r.capture(c.data("one"))

		r.client.mapsErr = errors.New("not allowed")
		fails("not allowed", "map", "add", "10.0.0.1:81-10.9.0.1:81")
		r.client.mapsErr = nil
		fails("is copied already", "map", "add", "10.0.0.1:80-10.9.0.1:99")
		fails("neither add nor remove", "map", "move", "80")
		fails("is no target", "map", "remove", "10.0.0.1:80", "elsewhere")
		fails("is not copied; what is: 10.0.0.1:80 to", "map", "remove", "99")
		fails("not [IP:]PORT", "map", "remove", "http")

		must("map", "add", "10.0.0.1:81-10.9.0.1:8081")
		if n := len(r.client.maps); n != 3 || len(r.set.matches) != 3 {
			t.Errorf("the responder knows %d maps, the filter %d, want 3", n, len(r.set.matches))
		}
		added := newConn()
		added.client, added.server = netip.MustParseAddrPort("192.0.2.9:1"), netip.MustParseAddrPort("10.0.0.1:81")
		r.capture(added.handshake()...)
		r.capture(added.data("two"))

		must("map", "remove", "10.0.0.1:80")
		elapse(2 * tick)
		r.capture(c.answer(3), c.ack(), c.data("three"))
		if len(r.set.matches) != 2 {
			t.Errorf("the filter takes %v", r.set.matches)
		}
		must("map", "remove", "443")
		fails("the only map", "map", "remove", "10.0.0.1:81")
		must("map", "add", "10.0.0.1:80-10.9.0.1:8080")
		if n := len(r.client.maps); n != 3 {
			t.Errorf("a map that comes back has another number: the responder knows %d", n)
		}
		r.capture(c.answer(5), c.data("five")) // it is found open
		again := newConn()
		again.client = netip.MustParseAddrPort("192.0.2.10:1")
		r.capture(again.handshake()...)
		r.capture(again.data("four"))
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, s := range r.lane.sessions {
			got = append(got, string(s.data)+" to "+string(rune('0'+s.open.Map)))
		}
		if s := strings.Join(got, ", "); s != "one to 0, two to 2, five to 0, four to 0" {
			t.Errorf("copied %s", s)
		}
		sum := r.summary()
		if f := sum.Ledger.Flows; f.GivenUp[report.MapRemoved] != 1 {
			t.Errorf("flows %+v", f)
		}
		for _, w := range sum.Check() {
			t.Error(w)
		}
	})
}

// Who reaches for the kill switch does not want to wait for connections to finish,
// not even when the copier is already draining.
func TestStopDoesNotDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.cfg.Drain = time.Hour
		r.tellLocked(nil)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- r.run(ctx) }()
		c := newConn()
		r.capture(c.handshake()...)
		r.capture(c.data("one"))
		began := time.Now()
		if _, err := r.ask(t, cancel, "drain"); err != nil {
			t.Fatal(err)
		}
		elapse(time.Minute)
		if status, err := r.ask(t, nil, "status"); err != nil || !strings.Contains(status, `"state":"draining"`) {
			t.Errorf("status: %.200s, %v", status, err)
		}
		for range 2 {
			if _, err := r.ask(t, cancel, "stop"); err != nil {
				t.Fatal(err)
			}
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if d := time.Since(began); d > time.Minute+finishWait {
			t.Errorf("stopped after %v", d)
		}
	})
}

// A map that the responder has taken keeps its number there, also when the kernel does
// not take the filter for it: numbers of other maps must not change.
func TestMapThatTheFilterHasNoRoomFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.tellLocked(nil)
		stop := r.start(t)
		r.set.err = errors.New("too long")
		if _, err := r.ask(t, nil, "map", "add", "10.0.0.1:81-10.9.0.1:8081"); err == nil || strings.Contains(err.Error(), "sample") {
			t.Errorf("added: %v", err)
		}
		known := slices.Clone(r.client.maps)
		r.set.err = nil
		for _, add := range []string{"10.0.0.1:82-10.9.0.1:8082", "10.0.0.1:81-10.9.0.1:8081"} {
			if _, err := r.ask(t, nil, "map", "add", add); err != nil {
				t.Errorf("%s: %v", add, err)
			}
			if !slices.Equal(r.client.maps[:len(known)], known) || len(r.client.maps) != len(known)+1 {
				t.Errorf("the responder gets %v, it knew %v", r.client.maps, known)
			}
		}
		if n := len(r.set.matches); n != 4 {
			t.Errorf("the filter takes %v", r.set.matches)
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestOperationsTellTheShards(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.tellLocked(nil)
		stop := r.start(t)
		for _, tt := range []struct{ op, arg, want, err string }{
			{op: "percent", arg: "25", want: `"25 % of the connections that begin from now on"`},
			{op: "percent", arg: "0.5%", want: `"0.5 % of the connections that begin from now on"`},
			{op: "percent", arg: "101", err: "0..100"},
			{op: "percent", arg: "NaN", err: "0..100"},
			{op: "n", arg: "2.5", want: `"connections that begin from now on are replayed 2.5 times"`},
			{op: "n", arg: "0", err: "1..1000"},
			{op: "pause", want: `"paused"`},
			{op: "resume", want: `"copying"`},
		} {
			got, err := r.ask(t, nil, tt.op, tt.arg)
			if got != tt.want || (err != nil) != (tt.err != "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%s %s: %s, %v", tt.op, tt.arg, got, err)
			}
		}
		o := r.shards[0].told.Load()
		if o.paused || o.amount.least != 2 || o.admit[0].Percent() != 0.5 {
			t.Errorf("orders %+v", o)
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	})
}

// A rate is the responder's to keep, one for each: it must get both figures whichever
// is changed, and whoever asks must learn when it has not heard yet.
func TestRateIsToldToTheResponder(t *testing.T) {
	f, rigs, _ := newFleet(t, 2, false)
	do := func(args ...string) (any, error) { return f.table(func() {})["rate"].Do(t.Context(), args) }
	rigs[1].client.deaf = true
	if got, err := do("bytes", "10M"); err != nil ||
		got != "one: bytes: 10000000 a second\nmore: bytes: 10000000 a second, as soon as the responder can be reached" {
		t.Errorf("bytes 10M: %v, %v", got, err)
	}
	if _, err := do("connections", "0.5"); err != nil {
		t.Error(err)
	}
	if _, err := do("connections", "-1"); err == nil {
		t.Error("a rate below 0 is taken")
	}
	for _, r := range rigs {
		if want := (tunnel.Rates{Connections: 0.5, Bytes: 1e7}); r.client.rates != want || r.limited() != want {
			t.Errorf("told %+v, status says %+v", r.client.rates, r.limited())
		}
	}
	status, err := f.table(func() {})["status"].Do(t.Context(), nil)
	b, _ := json.Marshal(status)
	if err != nil || strings.Count(string(b), `"rate_connections":0.5,"rate_bytes":10000000`) != 2 {
		t.Errorf("status: %.300s, %v", b, err)
	}
	f.copiers[0].tunnel, f.copiers[0].cfg.Record = noTunnel{}, &Record{Alone: true}
	if _, err := do("bytes", "off"); !errors.Is(err, errNotCopied) {
		t.Errorf("while only recording: %v", err)
	}
	if _, err := f.table(func() {})["n"].Do(t.Context(), []string{"2"}); !errors.Is(err, errNotCopied) {
		t.Errorf("copies while only recording: %v", err)
	}
}

// With several targets, what is told holds for all of them; a map is for one.
func TestControlOfSeveralTargets(t *testing.T) {
	f, rigs, _ := newFleet(t, 2, false)
	f.cfg.ParseMaps = func(context.Context, string) ([]tunnel.Map, error) {
		return []tunnel.Map{{Port: 99, Target: netip.MustParseAddrPort("10.9.0.1:99")}}, nil
	}
	do := func(op string, args ...string) (any, error) { return f.table(func() {})[op].Do(t.Context(), args) }
	if got, err := do("pause"); err != nil || got != "one: paused\nmore: paused" {
		t.Errorf("pause: %v, %v", got, err)
	}
	if _, err := do("map", "add", "99-10.9.0.1:99"); err == nil || !strings.Contains(err.Error(), "several targets") {
		t.Errorf("a map for nobody: %v", err)
	}
	if _, err := do("map", "add", "99-10.9.0.1:99", "more"); err != nil {
		t.Error(err)
	}
	if len(rigs[0].set.matches) != 0 || len(rigs[1].set.matches) != 3 {
		t.Errorf("filters take %v and %v", rigs[0].set.matches, rigs[1].set.matches)
	}
	got, err := do("map", "remove", "99")
	if err == nil || !strings.HasPrefix(err.Error(), "one: 99 is not copied") || len(rigs[1].set.matches) != 2 {
		t.Errorf("removed where it was: %v, %v, %v", got, err, rigs[1].set.matches)
	}
	status, err := do("status")
	b, _ := json.Marshal(status)
	if err != nil || strings.Count(string(b), `"state":"paused"`) != 2 {
		t.Errorf("status: %.200s, %v", b, err)
	}
}
