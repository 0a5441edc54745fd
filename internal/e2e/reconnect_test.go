//go:build netns

package e2e

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"flowtwin/internal/e2e/rig"
	"flowtwin/internal/e2e/traffic"
	"flowtwin/internal/testnet"
)

// paths returns all requests of a log, sorted.
func paths(log traffic.Log) (all []string) {
	for _, c := range log {
		for _, r := range c {
			all = append(all, fmt.Sprintf("%s %s %d", r.Method, r.Path, r.Bytes))
		}
	}
	slices.Sort(all)
	return all
}

// The target's keep-alive limit is lower than online: the rest of each client's
// requests must reach it on other connections, all of them, once, and in order.
func TestNginxWithALowerKeepAliveLimit(t *testing.T) {
	t.Parallel()
	for mode, again := range map[string]bool{"reconnect": true, "end": false} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, testnet.LabConfig{})
			const clients, requests, limit = 20, 50, 7
			_, onlineDir := s.nginx(s.Lab.Online, "nginx-online")
			targetNginx, targetDir, err := s.StartNginxClosing(s.within(), s.Lab.Target, "nginx-target", limit)
			s.keep(targetNginx, err)
			copier, responder := s.copies(httpMap, "--on-target-close", mode)
			stats := s.users(clients, s.dialer(port), gets("/", requests))
			want := clients * requests
			if !again {
				want = clients * limit
			}
			var online, target traffic.Log
			read := func() bool {
				if online, err = traffic.NginxLog(onlineDir); err == nil {
					target, err = traffic.NginxLog(targetDir)
				}
				return err == nil && online.Requests() >= clients*requests && target.Requests() >= want
			}
			if rig.Until(s.within(), read); err != nil {
				t.Fatal(err)
			}
			report := s.end(copier, responder)
			s.ordered(target)
			if !again {
				if target.Requests() != want || report.Sessions.Reconnects != 0 || report.Sent.Delivered.Bytes >= uint64(stats.Sent) {
					t.Errorf("target logged %d requests, want %d; ledger: %+v, %+v", target.Requests(), want, report.Sessions, report.Sent)
				}
				return
			}
			if want, got := paths(online), paths(target); !slices.Equal(want, got) {
				t.Errorf("online logged %d requests, target %d, or others", len(want), len(got))
			}
			s.exact(report, stats)
			if got, least := report.Sessions.Reconnects, uint64(clients*(requests/limit)); got != least {
				t.Errorf("ledger: %d reconnects, want %d", got, least)
			}
			t.Logf("%d connections at the target, %d turns written twice", len(target), report.Sessions.Resent)
		})
	}
}

// ordered checks that the requests of each connection stand in the order of their
// client, whose paths are /client/number.
func (s *scene) ordered(log traffic.Log) {
	s.t.Helper()
	for _, c := range log {
		client, last := -1, -1
		for _, r := range c {
			var of, n int
			if _, err := fmt.Sscanf(r.Path, "/%d/%d", &of, &n); err != nil || client >= 0 && (of != client || n != last+1) {
				s.t.Errorf("%s behind /%d/%d on a connection", r.Path, client, last)
			}
			client, last = of, n
		}
	}
}

// The target is started anew while its clients' connections go on: what comes while
// it is down is lost and named, and the same connections are copied from then on. By
// then they have been refused so often that it is to be left alone for seconds; once
// it has accepted somebody it is not.
func TestNginxIsStartedAnew(t *testing.T) {
	t.Parallel()
	s := newScene(t, testnet.LabConfig{})
	const clients = 10
	s.nginx(s.Lab.Online, "nginx-online")
	targetNginx, targetDir := s.nginx(s.Lab.Target, "nginx-target")
	copier, responder := s.copies(httpMap)
	var mu sync.Mutex
	dirs := []string{targetDir}
	logged := func(phase string) (n int) {
		mu.Lock()
		defer mu.Unlock()
		for _, dir := range dirs {
			log, err := traffic.NginxLog(dir)
			if err != nil {
				t.Error(err)
			}
			for _, c := range log {
				for _, r := range c {
					n += strings.Count(r.Path, "/"+phase+"/")
				}
			}
		}
		return n
	}
	phases := map[string]chan struct{}{}
	for _, p := range []string{"before", "down", "after"} {
		phases[p] = make(chan struct{}, clients)
	}
	next := map[string]chan struct{}{"before": make(chan struct{}), "down": make(chan struct{})}
	var newcomer traffic.Stats
	up := make(chan struct{})
	go func() {
		defer close(up)
		all := func(phase string) { rig.Until(s.within(), func() bool { return len(phases[phase]) == clients }) }
		all("before")
		rig.Until(s.within(), func() bool { return logged("before") == clients*5 })
		if err := targetNginx.Signal(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		if _, err := targetNginx.Wait(s.within()); err != nil {
			t.Error(err)
		}
		close(next["before"])
		all("down")
		p, dir, err := s.StartNginx(s.within(), s.Lab.Target, "nginx-target-anew")
		if err != nil {
			t.Error(err)
			return
		}
		targetNginx = p
		mu.Lock()
		dirs = append(dirs, dir)
		mu.Unlock()
		newcomer = s.users(1, s.dialer(port), gets("/newcomer/", 1))
		if !rig.Until(s.within(), func() bool { return logged("newcomer") == 1 }) {
			t.Error("the target is not met again")
		}
		close(next["down"])
	}()
	stats := s.users(clients, s.dialer(port), func(i int, u *user) error {
		some := func(phase string, n int, pause time.Duration) error {
			for r := range n {
				<-time.After(pause)
				if err := u.get(fmt.Sprintf("/%s/%d/%d", phase, i, r)); err != nil {
					return err
				}
			}
			phases[phase] <- struct{}{}
			return nil
		}
		if err := some("before", 5, 0); err != nil {
			return err
		}
		<-next["before"]
		if err := some("down", 6, time.Second/2); err != nil {
			return err
		}
		<-next["down"]
		return some("after", 20, 0)
	})
	<-up
	s.keep(targetNginx, nil)
	rig.Until(s.within(), func() bool { return logged("after") == clients*20 })
	if n := logged("after"); n != clients*20 {
		t.Errorf("target logged %d requests after its restart, want %d", n, clients*20)
	}
	report := s.end(copier, responder)
	lost := report.Sent.Gap.Bytes
	if report.Sessions.Reconnects < clients || lost == 0 || report.Sent.Delivered.Bytes+lost != uint64(stats.Sent+newcomer.Sent) {
		t.Errorf("ledger: %d reconnects, %d bytes delivered and %d lost between, clients sent %d", report.Sessions.Reconnects,
			report.Sent.Delivered.Bytes, lost, stats.Sent+newcomer.Sent)
	}
	if !strings.Contains(report.Headline, "target_reconnect") {
		t.Errorf("headline %q does not name the loss", report.Headline)
	}
}

// The target resets a connection before it has answered a request: it is sent once
// more on another one, and once only.
func TestUnansweredRequestIsSentAgain(t *testing.T) {
	t.Parallel()
	s := newScene(t, testnet.LabConfig{})
	s.talkAt(s.Lab.Online, talkPort, 0, poll)
	target := s.talkAt(s.Lab.Target, talkPort, 0, func(k *talk) {
		for n := 0; ; n++ {
			req, ok := k.request()
			if !ok {
				return
			}
			if n > 0 && strings.HasSuffix(req.URL.Path, "/2") { // the third one, unless it is the first here
				_ = k.tcp.SetLinger(0)
				k.end(io.EOF)
				return
			}
			k.answer(fmt.Sprintf("news %d", n))
		}
	})
	copier, responder := s.copies(talkMap)
	const clients, requests = 10, 5
	stats := s.users(clients, s.dialer(talkPort), gets("/", requests))
	s.overAt(target, 2*clients)
	over, _ := target.log()
	all := strings.Join(over, "\n")
	for i := range clients {
		for n, want := range []int{1, 1, 2, 1, 1} {
			if got := strings.Count(all, fmt.Sprintf(`"GET /%d/%d"`, i, n)); got != want {
				t.Errorf("target got request %d of client %d %d times, want %d", n, i, got, want)
			}
		}
	}
	report := s.end(copier, responder)
	s.exact(report, stats)
	if report.Sessions.Reconnects != clients || report.Sessions.Resent != clients {
		t.Errorf("ledger: %+v, want %d reconnects and turns sent again", report.Sessions, clients)
	}
}

// A redis client stays connected for good, whatever becomes of the target.
func TestRedisIsStartedAnew(t *testing.T) {
	t.Parallel()
	s := newScene(t, testnet.LabConfig{})
	const redisPort = ":6379"
	s.keep(s.StartRedis(s.within(), s.Lab.Online, "redis-online"))
	target := s.keep(s.StartRedis(s.within(), s.Lab.Target, "redis-target"))
	copier, responder := s.copies(testnet.OnlineAddr + redisPort + "-" + testnet.TargetAddr + redisPort)
	conn, err := s.dialer(redisPort).Dial(0)
	if err != nil {
		t.Fatal(err)
	}
	client := traffic.NewRedis(conn)
	held := func(ns *testnet.NS, list string) string {
		t.Helper()
		c := s.dialIn(ns, "127.0.0.1"+redisPort)
		defer func() { _ = c.Close() }()
		items, err := traffic.NewRedis(c).Ask("LRANGE", list, "0", "-1")
		if err != nil {
			t.Fatal(err)
		}
		return items
	}
	push := func(list, text string) {
		t.Helper()
		if _, err := client.Ask("RPUSH", list, text); err != nil {
			t.Fatal(err)
		}
	}
	push("before", "x")
	rig.Until(s.within(), func() bool { return held(s.Lab.Target, "before") == "x" })
	s.stops(target)
	s.keep(s.StartRedis(s.within(), s.Lab.Target, "redis-target-anew"))
	if !rig.Until(s.within(), func() bool { push("probe", "x"); return strings.Contains(held(s.Lab.Target, "probe"), "x") }) {
		t.Fatal("the target is not met again")
	}
	for n := range 50 {
		push("after", fmt.Sprint(n))
	}
	want := held(s.Lab.Online, "after")
	if !rig.Until(s.within(), func() bool { return held(s.Lab.Target, "after") == want }) {
		t.Errorf("target's list is %q, online's %q", held(s.Lab.Target, "after"), want)
	}
	_ = client.Close()
	if r := s.end(copier, responder).Sessions; r.Reconnects == 0 || r.Opened != 1 {
		t.Errorf("ledger: %+v", r)
	}
}
