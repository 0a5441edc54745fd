//go:build netns

package e2e

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"flowtwin/internal/e2e/rig"
	"flowtwin/internal/e2e/traffic"
	"flowtwin/internal/testnet"
)

// Keep-alive connections are older than the copier: each one's requests arrive at
// the target from the second on that is made while it runs, in order and whole.
// Before that the copier has not seen an answer, after which a request begins.
func TestConnectionsOlderThanTheCopier(t *testing.T) {
	t.Parallel()
	for mode, adopts := range map[string]bool{"adopt": true, "skip": false} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			const clients, before, after = 20, 3, 12
			s := newScene(t, testnet.LabConfig{})
			online, target := s.serve(port, port)
			responder := s.keep(s.StartResponder(s.within()))
			connected := make(chan struct{}, clients)
			copies := make(chan struct{})
			var done sync.WaitGroup
			done.Go(func() {
				s.users(clients, s.dialer(port), func(i int, u *user) error {
					for n := range before + after {
						if n == before {
							connected <- struct{}{}
							<-copies
						}
						body := strings.Repeat("x", n%4*20_000)
						err := u.tell("PUT /%d/%d?answer=%d HTTP/1.1\r\nHost: online\r\nContent-Length: %d\r\n\r\n%s", i, n, 1+n%3*30_000, len(body), body)
						if err != nil {
							return err
						}
						if err := u.answered(); err != nil {
							return err
						}
					}
					return nil
				})
			})
			if !rig.Until(s.within(), func() bool { return len(connected) == clients }) {
				t.Fatalf("%d of %d clients have made their first requests", len(connected), clients)
			}
			copier := s.keep(s.StartCopier(s.within(), httpMap, "--midstream", mode))
			close(copies)
			done.Wait()
			var want traffic.Log
			if adopts {
				for _, c := range online.Log() {
					want = append(want, c[before+1:])
				}
				rig.Until(s.within(), func() bool { _, n, open := target.Counts(); return n == want.Requests() && open == 0 })
			}
			got := target.Log()
			if diff := traffic.Compare(want, got); len(diff) > 0 {
				t.Errorf("online, from the second request on, and target differ:\n%s", traffic.Describe(diff))
			}
			report := s.end(copier, responder)
			f := report.Flows
			if f.Seen != clients || f.Adopted != uint64(len(want)) || f.Admitted != f.Adopted || report.Client.Dropped["midstream"].Bytes == 0 {
				t.Errorf("ledger: flows %+v, dropped %+v", f, report.Client.Dropped)
			}
			if n := report.Answers.HeldMax; n > 0 {
				t.Errorf("%d of %d turns were released by --max-hold", n, report.Answers.Turns)
			}
		})
	}
}

// A redis client that stays connected for good.
func TestRedisClientOlderThanTheCopier(t *testing.T) {
	t.Parallel()
	s := newScene(t, testnet.LabConfig{})
	s.keep(s.StartRedis(s.within(), s.Lab.Online, "redis-online"))
	s.keep(s.StartRedis(s.within(), s.Lab.Target, "redis-target"))
	const redisPort = ":6379"
	responder := s.keep(s.StartResponder(s.within()))
	conn, err := s.dialer(redisPort).Dial(0)
	if err != nil {
		t.Fatal(err)
	}
	client := traffic.NewRedis(conn)
	push := func(text string) {
		t.Helper()
		if _, err := client.Ask("RPUSH", "list", text); err != nil {
			t.Fatal(err)
		}
	}
	push("before")
	copier := s.keep(s.StartCopier(s.within(), testnet.OnlineAddr+redisPort+"-"+testnet.TargetAddr+redisPort))
	push("while no answer was captured")
	var want strings.Builder
	for n := range 200 {
		text := fmt.Sprint(n)
		push(text)
		want.WriteString(" " + text)
	}
	target := traffic.NewRedis(s.dialIn(s.Lab.Target, "127.0.0.1"+redisPort))
	var got string
	rig.Until(s.within(), func() bool {
		if got, err = target.Ask("LRANGE", "list", "0", "-1"); err != nil {
			t.Fatal(err)
		}
		return " "+got == want.String()
	})
	if " "+got != want.String() {
		t.Errorf("target's list is %q, want %q", got, want.String()[1:])
	}
	_ = client.Close()
	if f := s.end(copier, responder).Flows; f.Adopted != 1 || f.Seen != 1 {
		t.Errorf("ledger: flows %+v", f)
	}
}
