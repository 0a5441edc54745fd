//go:build netns

package e2e

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"flowtwin/internal/e2e/rig"
	"flowtwin/internal/e2e/traffic"
	"flowtwin/internal/testnet"
)

// What is no HTTP/1 is copied as it is, or not at all.
func TestSelectOnError(t *testing.T) {
	t.Parallel()
	for mode, want := range map[string]bool{"pass": true, "drop": false} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, testnet.LabConfig{})
			s.keep(s.StartRedis(s.within(), s.Lab.Online, "redis-online"))
			s.keep(s.StartRedis(s.within(), s.Lab.Target, "redis-target"))
			responder := s.keep(s.StartResponder(s.within()))
			ctl := &control{s, "copier", filepath.Join(s.Dir, "control")}
			copier := s.keep(s.StartCopier(s.within(), "6379-"+testnet.TargetAddr+":6379", "--http-host=shop.example", "--http-on-error="+mode, "--control", ctl.path))
			const clients, sets = 5, 20
			stats := s.users(clients, s.dialer(":6379"), func(i int, u *user) error {
				for n := range sets {
					if err := u.exchange(fmt.Sprintf("*3\r\n$3\r\nSET\r\n$5\r\nk%d-%02d\r\n$1\r\nv\r\n", i, n), "+OK"); err != nil {
						return err
					}
				}
				return nil
			})
			size := func() string {
				u := newUser(s.dialIn(s.Lab.Target, "127.0.0.1:6379"))
				if err := u.tell("DBSIZE\r\n"); err != nil {
					t.Fatal(err)
				}
				line, _ := u.br.ReadString('\n')
				return line
			}
			if want && !rig.Until(s.within(), func() bool { return size() == fmt.Sprintf(":%d\r\n", clients*sets) }) {
				t.Errorf("target has %q keys", size())
			}
			// What a copier that ends has not read yet it refuses for that.
			refused := fmt.Sprintf(`"http_unparsed": %d`, clients)
			if !want && !rig.Until(s.within(), func() bool { return strings.Contains(ctl.tell("status"), refused) }) {
				t.Errorf("%s is not in the status: %s", refused, ctl.tell("status"))
			}
			report := s.end(copier, responder)
			s.noneHeldToTheEnd(report)
			if want {
				s.exact(report, stats)
				return
			}
			if n := report.Client.Dropped["http_unparsed"].Bytes; n == 0 || n != report.Client.Captured.Bytes || report.Sessions.Opened != 0 || report.Flows.Refused["http_unparsed"] != clients {
				t.Errorf("%d bytes of %d dropped, %d sessions, refused %v", n, report.Client.Captured.Bytes, report.Sessions.Opened, report.Flows.Refused)
			}
		})
	}
}

// nginx, with two names, under clients that mix them on a connection, each in turn
// and pipelined.
func TestSelectNginx(t *testing.T) {
	t.Parallel()
	s := newScene(t, testnet.LabConfig{})
	dirs := make([]string, 2)
	for i, ns := range []*testnet.NS{s.Lab.Online, s.Lab.Target} {
		_, dirs[i] = s.nginx(ns, fmt.Sprint("nginx-", i))
	}
	responder := s.keep(s.StartResponder(s.within()))
	copier := s.keep(s.StartCopier(s.within(), httpMap, "--http-not-host=other.example"))
	const clients, rounds = 20, 20
	s.users(clients, s.dialer(port), func(i int, u *user) error {
		for n := range rounds {
			var text strings.Builder
			requests := 1 + (i%2)*n%5
			for k := range requests {
				host := []string{"shop.example", "other.example"}[(n/2+k)%2]
				fmt.Fprintf(&text, "%s", post(host, fmt.Sprintf("/%s/%d/%d/%d", host, i, n, k), strings.Repeat("x", n*10)))
			}
			if err := u.tell("%s", text.String()); err != nil {
				return err
			}
			for range requests {
				if err := u.answered(); err != nil {
					return err
				}
			}
		}
		return nil
	})
	left, requests := 0, 0
	var diff []string
	rig.Until(s.within(), func() bool {
		online, err1 := traffic.NginxLog(dirs[0])
		target, err2 := traffic.NginxLog(dirs[1])
		if err1 != nil || err2 != nil {
			t.Fatal(err1, err2)
		}
		left = online.Requests()
		for i, c := range online {
			online[i] = slices.DeleteFunc(c, func(r traffic.Request) bool { return strings.HasPrefix(r.Path, "/other") })
		}
		online = slices.DeleteFunc(online, func(c traffic.Conversation) bool { return len(c) == 0 })
		requests = online.Requests()
		left -= requests
		diff = traffic.Compare(online, target)
		return len(diff) == 0 && requests > 0
	})
	if len(diff) > 0 || left == 0 {
		t.Errorf("%d left out online:\n%s", left, traffic.Describe(diff))
	}
	report := s.end(copier, responder)
	s.noneHeldToTheEnd(report)
	s.counted(report, requests, left)
}
