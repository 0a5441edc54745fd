//go:build netns

package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"flowtwin/internal/e2e/rig"
	"flowtwin/internal/testnet"
)

// Once asked, the server pushes and the client says nothing any more.
func TestServerPushes(t *testing.T) {
	t.Parallel()
	push := func(events int, pause time.Duration, text string) func(*talk) {
		return func(k *talk) {
			_, ok := k.request()
			if !ok {
				return
			}
			ok = k.say("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
			for n := 0; ok && n < events; n++ {
				<-time.After(pause)
				ok = k.write(fmt.Sprintf("data: %s %d\n\n", text, n))
			}
		}
	}
	for name, atTarget := range map[string]func(*talk){
		"as online":            push(50, 10*time.Millisecond, "event"),
		"more, slower, longer": push(60, 25*time.Millisecond, "an event with more to tell"),
		"fewer":                push(10, time.Millisecond, "e"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, _, run := unlikeScene(t, 0, push(50, 10*time.Millisecond, "event"), atTarget)
			run(5, func(i int, u *user) error {
				if err := u.tell("GET /events/%d HTTP/1.1\r\nHost: online\r\n\r\n", i); err != nil {
					return err
				}
				for line := ""; line != "data: event 49\n"; {
					var err error
					if line, err = u.br.ReadString('\n'); err != nil {
						return err
					}
				}
				return u.hear("\n")
			})
		})
	}
}

// The client has closed its side with the request and reads on: a session that
// takes its FIN for the end would cut the answer off.
func TestHalfCloseByTheClient(t *testing.T) {
	t.Parallel()
	const size = 3 << 20
	half := func(k *talk) {
		for more := true; more; {
			_, more = k.line()
		}
		wrote := k.say(strings.Repeat("a", size))
		k.note("answer written: %v", wrote)
		k.note("unsent: %d", unacked(k.tcp))
	}
	_, _, run := talkScene(t, 300*time.Millisecond, half)
	run(5, func(i int, u *user) error {
		if err := u.tell("question %d\nthat is all\n", i); err != nil {
			return err
		}
		if err := u.CloseWrite(); err != nil {
			return err
		}
		n, err := io.Copy(io.Discard, u.br)
		if err == nil && n != size {
			err = fmt.Errorf("answer of %d bytes", n)
		}
		return err
	})
}

// Logs and metrics: nothing is ever answered, and nothing waits for an answer.
func TestOneWayStream(t *testing.T) {
	t.Parallel()
	sink := func(k *talk) {
		for more := true; more; {
			_, more = k.line()
		}
	}
	s, target, run := talkScene(t, 0, sink)
	const lines = 20
	run(5, func(i int, u *user) error {
		for n := range lines {
			line := fmt.Sprintf("line %d of %d\n", n, i)
			if err := u.tell("%s", line); err != nil {
				return err
			}
			if !s.comes(target, line) {
				return fmt.Errorf("%q does not arrive while the client waits", line)
			}
		}
		return nil
	})
}

// Resets at each point of an exchange: the target meets the same.
func TestClientsReset(t *testing.T) {
	t.Parallel()
	for name, do := range map[string]func(i int, u *user) error{
		"at once": func(int, *user) error { return nil },
		"after an answer": func(i int, u *user) error {
			return u.get(fmt.Sprintf("/%d", i))
		},
		"in a request": func(i int, u *user) error {
			if err := u.get(fmt.Sprintf("/%d", i)); err != nil {
				return err
			}
			if err := u.tell("POST /half HTTP/1.1\r\nHost: online\r\nContent-Length: 100\r\n\r\nhalf"); err != nil {
				return err
			}
			return u.taken()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, target, run := talkScene(t, 10*time.Millisecond, poll)
			run(10, func(i int, u *user) error {
				_ = u.SetLinger(0)
				return do(i, u)
			})
			over, _ := target.log()
			for _, k := range over {
				if !strings.HasSuffix(k, `"reset"]`) {
					t.Errorf("target met %s, no reset", k)
				}
			}
		})
	}
}

// The online server resets some of its clients; at the target all of them were
// well, and their connections must not be left open there.
func TestOnlineServerResets(t *testing.T) {
	t.Parallel()
	resets := func(k *talk) {
		if _, ok := k.request(); !ok || !k.answer("one") {
			return
		}
		if _, ok := k.request(); ok {
			_ = k.tcp.SetLinger(0)
			k.end(io.EOF)
		}
	}
	s := newScene(t, testnet.LabConfig{})
	s.talkAt(s.Lab.Online, talkPort, 0, resets)
	target := s.talkAt(s.Lab.Target, talkPort, 10*time.Millisecond, poll)
	copier, responder := s.copies(talkMap)
	const clients = 10
	stats := s.users(clients, s.dialer(talkPort), func(i int, u *user) error {
		if err := u.get(fmt.Sprintf("/%d/a", i)); err != nil {
			return err
		}
		if err := u.get(fmt.Sprintf("/%d/b", i)); err == nil {
			return errors.New("was not reset")
		}
		return nil
	})
	s.overAt(target, clients)
	over, _ := target.log()
	for _, k := range over {
		if strings.Count(k, "GET") != 2 {
			t.Errorf("target met %s", k)
		}
	}
	s.exact(s.end(copier, responder), stats)
}

// The target resets where the online server did not, and is not to be met again:
// that session is over, its client's further bytes are dropped by that name, and all
// others go on.
func TestTargetResets(t *testing.T) {
	t.Parallel()
	resets := func(k *talk) {
		req, ok := k.request()
		if !ok {
			return
		}
		if strings.HasPrefix(req.URL.Path, "/bad") {
			_ = k.tcp.SetLinger(0)
			k.end(io.EOF)
			return
		}
		k.answer("news 0")
		poll(k)
	}
	s := newScene(t, testnet.LabConfig{})
	online := s.talkAt(s.Lab.Online, talkPort, 0, poll)
	target := s.talkAt(s.Lab.Target, talkPort, 0, resets)
	copier, responder := s.copies(talkMap, "--on-target-close", "end")
	const clients, requests = 20, 5
	stats := s.users(clients, s.dialer(talkPort), func(i int, u *user) error {
		kind := []string{"good", "bad"}[i%2]
		for n := range requests {
			if err := u.get(fmt.Sprintf("/%s/%d/%d", kind, i, n)); err != nil {
				return err
			}
		}
		return nil
	})
	s.overAt(target, clients)
	only := func(srv *talkServer, kind string) (n int) {
		over, _ := srv.log()
		for _, k := range over {
			n += strings.Count(k, "GET /"+kind)
		}
		return n
	}
	if got := only(target, "good"); got != clients/2*requests {
		t.Errorf("target has %d good requests, online %d", got, only(online, "good"))
	}
	report := s.end(copier, responder)
	if got := report.Sessions.Closed["target_reset"]; got != clients/2 {
		t.Errorf("ledger: closed %v, want %d target_reset", report.Sessions.Closed, clients/2)
	}
	dropped := report.Sent.AfterClose.Bytes
	for _, c := range report.Sent.Dropped {
		dropped += c.Bytes
	}
	if all := report.Sent.Delivered.Bytes + dropped; all != uint64(stats.Sent) || dropped == 0 {
		t.Errorf("ledger: %d bytes delivered and %d dropped, clients sent %d", report.Sent.Delivered.Bytes, dropped, stats.Sent)
	}
}

// Both sides probe an idle connection: a target that gets no answer closes it, and a
// probe of the client's, which carries a byte that was sent before, is no request.
func TestKeepAliveProbesOfBothSides(t *testing.T) {
	t.Parallel()
	probes := net.KeepAliveConfig{Enable: true, Idle: time.Second, Interval: time.Second, Count: 2}
	probing := func(k *talk) {
		_ = k.tcp.SetKeepAliveConfig(probes)
		poll(k)
	}
	s := newScene(t, testnet.LabConfig{})
	online := s.talkAt(s.Lab.Online, talkPort, 0, probing)
	target := s.talkAt(s.Lab.Target, talkPort, 0, probing)
	copier, responder := s.copies(talkMap)
	const clients = 5
	stats := s.users(clients, s.dialer(talkPort), func(i int, u *user) error {
		return errors.Join(u.SetKeepAliveConfig(probes), u.get(fmt.Sprintf("/%d/a", i)), func() error {
			<-time.After(4500 * time.Millisecond) // more than the target waits for an answer
			return u.get(fmt.Sprintf("/%d/b", i))
		}())
	})
	s.sameTalks(online, target, clients)
	report := s.end(copier, responder)
	s.exact(report, stats)
	if report.Sessions.Reconnects != 0 {
		t.Errorf("%d connections did not survive", report.Sessions.Reconnects)
	}
	if on, at := report.Ends.Online, report.Ends.Target; on != at || on.ClientFirst != clients {
		t.Errorf("ends: online %+v, at the target %+v", on, at)
	}
}

// The ends that the target's application meets are those of the online server's, and
// both are in the report.
func TestEndsAreThoseOfOnline(t *testing.T) {
	t.Parallel()
	// A server that closes after "/last".
	closing := func(k *talk) {
		for {
			req, ok := k.request()
			if !ok || !k.answer("news") {
				return
			}
			if strings.HasSuffix(req.URL.Path, "/last") {
				_ = k.tcp.CloseWrite()
				return
			}
		}
	}
	s := newScene(t, testnet.LabConfig{})
	online := s.talkAt(s.Lab.Online, talkPort, 0, closing)
	target := s.talkAt(s.Lab.Target, talkPort, 10*time.Millisecond, closing)
	copier, responder := s.copies(talkMap)
	const clients = 15
	stats := s.users(clients, s.dialer(talkPort), func(i int, u *user) error {
		if err := u.get(fmt.Sprintf("/%d", i)); err != nil {
			return err
		}
		switch i % 3 {
		case 0: // the client's FIN
			return nil
		case 1: // the server's
			if err := u.get(fmt.Sprintf("/%d/last", i)); err != nil {
				return err
			}
			_, err := io.Copy(io.Discard, u.br)
			return err
		default:
			return u.SetLinger(0)
		}
	})
	s.sameTalks(online, target, clients)
	report := s.end(copier, responder)
	s.exact(report, stats)
	want := rig.Ends{ClientFirst: clients / 3, ServerFirst: clients / 3, ClientReset: clients / 3}
	if on, at := report.Ends.Online, report.Ends.Target; on != want || at != want {
		t.Errorf("ends: online %+v, at the target %+v, want %+v", on, at, want)
	}
}
