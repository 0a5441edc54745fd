//go:build netns

package e2e

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"flowtwin/internal/e2e/rig"
	"flowtwin/internal/e2e/traffic"
	"flowtwin/internal/testnet"
)

// The responder is killed and started again: connections that clients keep open for
// good go on at the target with their next requests, all of them and in order.
func TestKeepAliveConnectionsSurviveTheResponder(t *testing.T) {
	t.Parallel()
	const clients, requests = 20, 8
	s := newScene(t, testnet.LabConfig{})
	online, target := s.serve(port, port)
	copier, responder := s.copies(httpMap)
	// Each of its values lets all clients make their requests of a phase.
	phases := []string{"before", "meanwhile", "after"}
	gates := map[string]chan struct{}{}
	var waits sync.WaitGroup
	for _, p := range phases {
		gates[p] = make(chan struct{})
	}
	did := make(chan struct{}, clients*len(phases))
	waits.Go(func() {
		s.users(clients, s.dialer(port), func(i int, u *user) error {
			for _, p := range phases {
				<-gates[p]
				for n := range requests {
					body := strings.Repeat("x", n%3*20_000)
					err := u.tell("PUT /%s/%d/%d?answer=%d HTTP/1.1\r\nHost: online\r\nContent-Length: %d\r\n\r\n%s", p, i, n, 1+n%3*30_000, len(body), body)
					if err := errors.Join(err, u.answered()); err != nil {
						return err
					}
				}
				did <- struct{}{}
			}
			return nil
		})
	})
	phase := func(name string) {
		t.Helper()
		close(gates[name])
		if !rig.Until(s.within(), func() bool { return len(did) == clients }) {
			t.Fatalf("%d of %d clients have made their requests %s", len(did), clients, name)
		}
		for range clients {
			<-did
		}
	}
	phase("before")
	rig.Until(s.within(), func() bool { _, n, _ := target.Counts(); return n == clients*requests })
	responder.Kill()
	phase("meanwhile")
	responder = s.keep(s.StartResponder(s.within()))
	if err := copier.WaitOutputTimes(s.within(), rig.TunnelUp, 2); err != nil {
		t.Fatal(err)
	}
	phase("after")
	waits.Wait()
	var want traffic.Log
	for _, c := range online.Log() {
		want = append(want, c[2*requests:])
	}
	after := func() traffic.Log { return only(target.Log(), "/after/") }
	rig.Until(s.within(), func() bool { return after().Requests() >= want.Requests() })
	s.compare(want, after())
	report := s.end(copier, responder)
	if f := report.Flows; f.Seen != clients || f.GivenUp["tunnel_lost"] != clients || f.Resumed["tunnel_lost"] != clients {
		t.Errorf("ledger: flows %+v", f)
	}
	if n := report.Answers.HeldMax; n > 0 {
		t.Errorf("%d of %d turns were released by --max-hold", n, report.Answers.Turns)
	}
}

// The copier runs before its responder. Clients log in meanwhile; what they do
// afterwards the target must let them do.
func TestRedisLoginBeforeTheTunnel(t *testing.T) {
	t.Parallel()
	s := newScene(t, testnet.LabConfig{})
	const redisPort = ":6379"
	servers := map[string]*traffic.Redis{}
	for name, ns := range map[string]*testnet.NS{"online": s.Lab.Online, "target": s.Lab.Target} {
		s.keep(s.StartRedis(s.within(), ns, "redis-"+name))
		r := traffic.NewRedis(s.dialIn(ns, "127.0.0.1"+redisPort))
		_, err := r.Ask("CONFIG", "SET", "requirepass", "secret")
		_, err2 := r.Ask("AUTH", "secret")
		_, err3 := r.Ask("SELECT", "3")
		if err := errors.Join(err, err2, err3); err != nil {
			t.Fatal(err)
		}
		servers[name] = r
	}
	s.keep(s.StartResponder(s.within())).Kill() // it has written its invite
	copier := s.keep(rig.Start(s.Lab.Online, "copier", s.Copier("-x", testnet.OnlineAddr+redisPort+"-"+testnet.TargetAddr+redisPort,
		"--invite-file", s.InviteFile(), "--report", s.ReportFile())...))
	if err := copier.WaitOutput(s.within(), "cannot be reached"); err != nil {
		t.Fatal(err)
	}
	const clients = 10
	var users []*traffic.Redis
	d := s.dialer(redisPort)
	ask := func(i int, args ...string) {
		t.Helper()
		if _, err := users[i].Ask(args...); err != nil {
			t.Fatal(err)
		}
	}
	for i := range clients {
		conn, err := d.Dial(i)
		if err != nil {
			t.Fatal(err)
		}
		users = append(users, traffic.NewRedis(conn))
		ask(i, "AUTH", "secret")
		ask(i, "SELECT", "3")
		for n := range i { // of some, nothing but the login is missed
			ask(i, "RPUSH", fmt.Sprint("early", i), fmt.Sprint(n))
		}
	}
	responder := s.keep(s.StartResponder(s.within()))
	if err := copier.WaitOutput(s.within(), rig.TunnelUp); err != nil {
		t.Fatal(err)
	}
	const pushes = 50
	for n := range pushes {
		for i := range clients {
			ask(i, "RPUSH", fmt.Sprint("list", i), fmt.Sprint(n))
		}
	}
	within := s.within()
	for i := range clients {
		key := fmt.Sprint("list", i)
		want, err := servers["online"].Ask("LRANGE", key, "0", "-1")
		if err != nil {
			t.Fatal(err)
		}
		var got string
		rig.Until(within, func() bool {
			got, err = servers["target"].Ask("LRANGE", key, "0", "-1")
			return err != nil || got == want
		})
		if got != want {
			t.Errorf("target's %s is %q (%v), want %q", key, got, err, want)
		}
		_ = users[i].Close()
	}
	report := s.end(copier, responder)
	if f := report.Flows; f.Late != clients || f.Admitted != clients || report.Client.Prologue.Bytes == 0 {
		t.Errorf("ledger: flows %+v, prologues %+v", f, report.Client.Prologue)
	}
}

// The capture loses packets of both directions: the ledger must know each byte that
// it has not got, and every request that it has must reach the target, once.
func TestInjectedCaptureLoss(t *testing.T) {
	t.Parallel()
	for name, l := range map[string]traffic.Load{
		"requests of a segment":     {Name: "small", Clients: 20, Rounds: 2, Requests: 200, Rate: 4000},
		"requests of some more":     {Name: "large", Clients: 20, Rounds: 2, Requests: 50, Rate: 1500, Bodies: []int{10, 10_000, 100_000}, Answer: 20_000},
		"on a wire that loses, too": {Name: "wire", Clients: 20, Rounds: 2, Requests: 50, Rate: 1500, Bodies: []int{10, 10_000}, Answer: 5000},
		"connections of one only":   {Name: "short", Clients: 20, Rounds: 100, Requests: 1, Rate: 1000},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var cfg testnet.LabConfig
			if l.Name == "wire" {
				cfg.ClientWire = lossy()
			}
			s := newScene(t, cfg)
			online, target := s.serve(port, port)
			responder := s.keep(s.StartResponder(s.within()))
			copier := s.keep(s.StartCopier(s.within(), httpMap, "--inject-loss", "0.01"))
			stats := s.make(l, s.dialer(port))
			// What comes behind it in the ring tells that all of it was read.
			stats.Add(s.make(traffic.Load{Name: "last", Clients: 1, Rounds: 5, Requests: 5}, s.dialer(port)))
			rig.Until(s.within(), func() bool { return only(target.Log(), "/last/5/").Requests() > 0 })
			report := s.end(copier, responder)
			rig.Until(s.within(), func() bool { _, _, open := target.Counts(); return open == 0 })

			c := report.Client
			t.Logf("%+v; flows %+v; dropped %+v", c.Injected, report.Flows, c.Dropped)
			if report.Packets.By["injected"] == 0 || c.Injected.Bytes == 0 {
				t.Fatal("nothing was lost: the test has tested nothing")
			}
			known := c.Captured.Bytes - c.Retransmitted.Bytes - c.Duplicate.Bytes + c.Missing
			unseen := report.Flows.Refused["midstream"] > 0 // a handshake was lost: what went before is not known
			if known != uint64(stats.Sent) && !unseen {
				t.Errorf("ledger knows of %d bytes, %d of them missing; clients sent %d", known, c.Missing, stats.Sent)
			}
			if c.Missing > c.Injected.Bytes {
				t.Errorf("ledger: %d bytes are missing, %d were lost", c.Missing, c.Injected.Bytes)
			}
			s.once(online.Log(), target.Log())
			lost := online.Log().Requests() - target.Log().Requests()
			t.Logf("%d of %d requests were lost", lost, online.Log().Requests())
			if len(l.Bodies) == 0 && c.Retransmitted.Segments == 0 && !unseen && uint64(lost) != c.Injected.Segments {
				t.Errorf("%d requests were lost, %d of their segments", lost, c.Injected.Segments)
			}
			for reason := range c.Dropped {
				if reason != "capture_hole" && reason != "midstream" {
					t.Errorf("ledger: dropped %+v", c.Dropped)
				}
			}
		})
	}
}

// once checks that the target got only what the online server did, whole, each
// request once, and of each connection in order.
func (s *scene) once(online, target traffic.Log) {
	s.t.Helper()
	left := map[traffic.Request]int{}
	var order []string
	for _, c := range online {
		for _, r := range c {
			left[r]++
			order = append(order, r.Path)
		}
	}
	at := map[string]int{}
	for i, path := range order {
		at[path] = i
	}
	for _, c := range target {
		for i, r := range c {
			if left[r]--; left[r] < 0 {
				s.t.Errorf("target got %v, which the online server did not, or not so often", r)
			}
			if i > 0 && at[r.Path] <= at[c[i-1].Path] {
				s.t.Errorf("target got %s behind %s", r.Path, c[i-1].Path)
			}
		}
	}
	if slices.Max(append(slices.Collect(maps.Values(left)), 0)) == 0 {
		s.t.Error("no request was lost: the test has tested nothing")
	}
}
