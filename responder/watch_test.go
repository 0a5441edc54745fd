package responder

import (
	"bytes"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A target that dies, or is started anew, must be said once, not for each connection;
// and a target that was not there from the beginning is the same.
func TestTargetRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		ws := &watches{log: slog.New(slog.NewTextHandler(&out, nil))}
		w := ws.of(netip.MustParseAddrPort("127.0.0.1:1"))
		many := func(accepted bool) {
			for range 1000 {
				w.reached(accepted)
			}
		}
		want := func(when string, warns, infos int) {
			t.Helper()
			if n, i := strings.Count(out.String(), "level=WARN"), strings.Count(out.String(), "level=INFO"); n != warns || i != infos {
				t.Errorf("%s: %d warnings and %d other lines, want %d and %d:\n%s", when, n, i, warns, infos, &out)
			}
		}
		many(true)
		want("it accepts", 0, 0)
		many(false)
		if w.refuses() {
			t.Error("it is said again when a copier comes")
		}
		want("it refuses", 1, 0)
		<-time.After(3 * time.Second)
		many(true)
		want("it accepts again", 1, 1)
		if !strings.Contains(out.String(), `msg="target accepts connections again" target=127.0.0.1:1 after=3s`) {
			t.Errorf("log says %s", &out)
		}
		for range 50 {
			many(false)
			many(true)
		}
		want("now and then", 1, 1)
		<-time.After(downEvery)
		many(false)
		want("it refuses once more", 2, 1)
		<-time.After(downEvery)
		if w.refuses() {
			t.Error("it is said again when a copier comes later")
		}

		late := ws.of(netip.MustParseAddrPort("127.0.0.1:2"))
		if !late.refuses() {
			t.Error("a target that is not there is not said")
		}
		late.reached(false)
		late.reached(true)
		want("one that is started last", 2, 2)
	})
}

// A target that was there and answers no more must be said, too: nothing refuses
// connections at one whose queue is full, or in front of which packets are dropped.
func TestTargetFallsSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		ws := &watches{log: slog.New(slog.NewTextHandler(&out, nil))}
		w := ws.of(netip.MustParseAddrPort("127.0.0.1:1"))
		many := func(n int, answered bool) {
			for range n {
				w.shook(answered)
			}
		}
		want := func(when string, warns, infos int) {
			t.Helper()
			if n, i := strings.Count(out.String(), "level=WARN"), strings.Count(out.String(), "level=INFO"); n != warns || i != infos {
				t.Errorf("%s: %d warnings and %d other lines, want %d and %d:\n%s", when, n, i, warns, infos, &out)
			}
		}
		for range 100 {
			many(1, true)
			many(silentFirst-1, false)
		}
		want("it answers now and then", 0, 0)
		many(1000, false)
		want("it is silent", 1, 0)
		<-time.After(3 * time.Second)
		many(1000, true)
		want("it answers", 1, 1)
		if !strings.Contains(out.String(), `msg="target answers connections again" target=127.0.0.1:1 after=3s`) {
			t.Errorf("log says %s", &out)
		}
		for range 50 {
			many(1000, false)
			many(1000, true)
		}
		many(1000, false)
		want("it can take some", 1, 1)
		<-time.After(downEvery)
		many(1000, false)
		want("it is silent once more", 2, 1)
		many(1, true)
		want("it answers once more", 2, 2)
		<-time.After(downEvery)
		w.fallsSilent() // of a session that timed out before the last one was answered, on another shard
		want("news that has been overtaken", 2, 2)
	})
}
