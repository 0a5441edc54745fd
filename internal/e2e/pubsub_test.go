//go:build netns

package e2e

import (
	"bufio"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"flowtwin/internal/e2e/rig"
	"flowtwin/internal/testnet"
)

// Subscribers are told what they did not ask for, as often as others publish; the
// target's redis has the same subscribers, and they get as much.
func TestRedisSubscribers(t *testing.T) {
	t.Parallel()
	s := newScene(t, testnet.LabConfig{})
	s.keep(s.StartRedis(s.within(), s.Lab.Online, "redis-online"))
	s.keep(s.StartRedis(s.within(), s.Lab.Target, "redis-target"))
	const redisPort = ":6379"
	copier, responder := s.copies(testnet.OnlineAddr + redisPort + "-" + testnet.TargetAddr + redisPort)
	d := s.dialer(redisPort)
	const subscribers, publishers, messages = 5, 3, 200

	ask := func(ns *testnet.NS, command string) string {
		conn := s.dialIn(ns, "127.0.0.1"+redisPort)
		defer func() { _ = conn.Close() }()
		_, _ = fmt.Fprintf(conn, "%s\r\n", command)
		br := bufio.NewReader(conn)
		var lines []string
		_, _ = fmt.Fprint(conn, "ECHO that-is-all\r\n")
		for line := ""; !strings.HasPrefix(line, "that-is-all"); {
			var err error
			if line, err = br.ReadString('\n'); err != nil {
				t.Error(err)
				return ""
			}
			lines = append(lines, strings.TrimSpace(line))
		}
		return strings.Join(lines, "\n")
	}
	var ready, done sync.WaitGroup
	ready.Add(subscribers)
	done.Go(func() {
		s.users(subscribers, d, func(i int, u *user) error {
			if err := u.tell("SUBSCRIBE news other\r\n"); err != nil {
				return err
			}
			ready.Done()
			for got := 0; got < publishers*messages; {
				line, err := u.br.ReadString('\n')
				if err != nil {
					return fmt.Errorf("after %d messages: %w", got, err)
				}
				if strings.HasPrefix(line, "message ") {
					got++
				}
			}
			return u.exchange("UNSUBSCRIBE news\r\n", "*3")
		})
	})
	ready.Wait()
	for _, ns := range []*testnet.NS{s.Lab.Online, s.Lab.Target} {
		if !rig.Until(s.within(), func() bool {
			return strings.Contains(ask(ns, "PUBSUB NUMSUB news"), fmt.Sprintf(":%d", subscribers))
		}) {
			t.Fatalf("subscribers in %s: %s", ns.Name(), ask(ns, "PUBSUB NUMSUB news"))
		}
	}
	s.users(publishers, d, func(i int, u *user) error {
		for n := range messages {
			if err := u.exchange(fmt.Sprintf("PUBLISH news \"message %d of %d\"\r\n", n, i), fmt.Sprintf(":%d", subscribers)); err != nil {
				return err
			}
		}
		return nil
	})
	done.Wait()
	calls := func(ns *testnet.NS) (found []string) {
		for line := range strings.Lines(ask(ns, "INFO commandstats")) {
			for _, command := range []string{"publish", "subscribe", "unsubscribe"} {
				if strings.HasPrefix(line, "cmdstat_"+command+":") {
					found = append(found, strings.Split(line, ",")[0])
				}
			}
		}
		return slices.Sorted(slices.Values(found))
	}
	want := fmt.Sprint(calls(s.Lab.Online))
	if !rig.Until(s.within(), func() bool { return fmt.Sprint(calls(s.Lab.Target)) == want }) {
		t.Errorf("online had %s, target %v", want, calls(s.Lab.Target))
	}
	t.Logf("both had %s", want)
	s.noneHeldToTheEnd(s.end(copier, responder))
}
