//go:build netns

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"flowtwin/internal/testnet"
)

// closesAfter is a server that closes each connection behind so many requests.
func closesAfter(n int) func(*talk) {
	return func(k *talk) {
		for range n {
			if _, ok := k.request(); !ok || !k.answer("news") {
				return
			}
		}
		_ = k.tcp.CloseWrite()
	}
}

// The rest of a flow goes to another connection also where that must be the client's
// own address, where the target is far away, and for each copy of the flow.
func TestReconnectOfAnyKind(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		responder, copier []string
		times             int
	}{
		"the client's address": {[]string{"--client-address=original"}, nil, 1},
		"far away":             {[]string{"--rtt", "20ms"}, nil, 1},
		"copies":               {nil, []string{"-n", "3"}, 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, testnet.LabConfig{})
			s.talkAt(s.Lab.Online, talkPort, 0, poll)
			target := s.talkAt(s.Lab.Target, talkPort, 0, closesAfter(3))
			responder := s.keep(s.StartResponder(s.within(), tt.responder...))
			copier := s.keep(s.StartCopier(s.within(), talkMap, tt.copier...))
			const clients, requests = 5, 10
			stats := s.users(clients, s.dialer(talkPort), gets("/", requests))
			s.overAt(target, tt.times*clients*4)
			over, _ := target.log()
			all := strings.Join(over, "\n")
			for i := range clients {
				for n := range requests {
					if got := strings.Count(all, fmt.Sprintf(`"GET /%d/%d"`, i, n)); got != tt.times {
						t.Errorf("target answered request %d of client %d %d times, want %d", n, i, got, tt.times)
					}
				}
			}
			report := s.end(copier, responder)
			s.exact(report, stats)
			if report.Sessions.Reconnects != clients*3 {
				t.Errorf("ledger: %+v, want %d reconnects", report.Sessions, clients*3)
			}
			if c := report.Copies; c.Dropped.Bytes != 0 || c.Delivered.Bytes != uint64((tt.times-1)*int(stats.Sent)) {
				t.Errorf("ledger: copies %+v", c)
			}
		})
	}
}

// Nobody answers a stream of logs. Its target is started anew, which takes the lines
// from then on; none that it has had before comes again.
func TestOneWayStreamMeetsItsTargetAgain(t *testing.T) {
	t.Parallel()
	const lines, first = 40, 20
	sink := func(limit int) func(*talk) {
		return func(k *talk) {
			for range limit {
				if _, ok := k.line(); !ok {
					return
				}
			}
			_ = k.tcp.SetLinger(0)
		}
	}
	s := newScene(t, testnet.LabConfig{})
	s.talkAt(s.Lab.Online, talkPort, 0, sink(lines+1))
	meets := 0
	target := s.talkAt(s.Lab.Target, talkPort, 0, func(k *talk) { // one connection at a time
		if meets++; meets == 1 {
			sink(first)(k)
			k.ended = true
			return
		}
		sink(lines)(k)
	})
	copier, responder := s.copies(talkMap)
	last := fmt.Sprintf("line %d of a stream\n", lines-1)
	stats := s.users(1, s.dialer(talkPort), func(_ int, u *user) error {
		for n := range lines {
			if err := u.tell("line %d of a stream\n", n); err != nil {
				return err
			}
			<-time.After(60 * time.Millisecond)
		}
		if !s.comes(target, last) {
			return fmt.Errorf("%q does not arrive", last)
		}
		return nil
	})
	s.overAt(target, 2)
	over, _ := target.log()
	all := strings.Join(over, "\n")
	for n := range lines {
		if got := strings.Count(all, fmt.Sprintf("line %d of", n)); got > 1 {
			t.Errorf("line %d came %d times", n, got)
		}
	}
	report := s.end(copier, responder)
	if r := report.Sessions; r.Reconnects != 1 || r.Resent != 0 {
		t.Errorf("ledger: %+v", r)
	}
	if got := report.Sent.Delivered.Bytes + report.Sent.Gap.Bytes; got != uint64(stats.Sent) {
		t.Errorf("ledger: %d bytes delivered or lost between, sent %d", got, stats.Sent)
	}
	t.Logf("%d lines lost between", report.Sent.Gap.Segments)
}
