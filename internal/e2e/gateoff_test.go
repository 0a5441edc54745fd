//go:build netns

package e2e

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"flowtwin/internal/e2e/rig"
	"flowtwin/internal/e2e/traffic"
	"flowtwin/internal/testnet"
)

// A target that never answers must not make each request of each connection late by
// max-hold: the gate goes off, which is said once.
func TestGateGoesOffWhereNothingIsAnswered(t *testing.T) {
	t.Parallel()
	s := newScene(t, testnet.LabConfig{})
	online := s.talkAt(s.Lab.Online, talkPort, 0, poll)
	target := s.talkAt(s.Lab.Target, talkPort, 0, func(k *talk) {
		for more := true; more; {
			_, more = k.request()
		}
	})
	copier, responder := s.copies(talkMap, "--max-hold", "300ms")
	const clients, requests, held = 20, 30, 3
	stats := s.users(clients, s.dialer(talkPort), gets("/", requests))
	begun := time.Now()
	s.sameTalks(online, target, clients)
	t.Logf("all is at the target %v behind", time.Since(begun))
	report := s.end(copier, responder)
	s.exact(report, stats)
	if n := report.Answers.HeldMax; n != clients*held {
		t.Errorf("%d turns were released by --max-hold, want %d", n, clients*held)
	}
	if n := strings.Count(responder.Output(), "gate off for a session"); n != 1 {
		t.Errorf("said %d times, want once", n)
	}
	if !strings.Contains(responder.Output(), fmt.Sprintf("%d without answers to their turns", clients)) {
		t.Error("the summary does not say how many")
	}
}

// A target that has only been slow, or away, must have each request behind its answer
// to the one before again: one that answers now gets its gate back, and sessions that
// reached nobody are no sessions without answers.
func TestGateIsOnAgainWhereTargetAnswers(t *testing.T) {
	t.Parallel()
	s := newScene(t, testnet.LabConfig{})
	var awake atomic.Bool
	s.talkAt(s.Lab.Online, talkPort, 0, poll)
	target := s.talkAt(s.Lab.Target, talkPort, 0, func(k *talk) {
		if awake.Load() {
			poll(k)
			return
		}
		for more := true; more; {
			_, more = k.request()
		}
	})
	copier, responder := s.copies(talkMap, "--max-hold", "300ms")
	says := func(text string) {
		t.Helper()
		if !rig.Until(s.within(), func() bool { return strings.Contains(responder.Output(), text) }) {
			t.Errorf("%q is not said", text)
		}
	}
	d := s.dialer(talkPort)
	const clients, sampled = 20, 24
	slow := s.users(clients, d, gets("/slow/", 8))
	s.overAt(target, clients)
	says("new ones begin with the gate off")
	awake.Store(true)
	again := s.users(sampled, d, gets("/again/", 8))
	says("new ones begin with the gate on")

	var here sync.WaitGroup
	here.Add(clients)
	away := make(chan struct{})
	done := make(chan traffic.Stats, 1)
	go func() {
		done <- s.users(clients, d, func(i int, u *user) error {
			if err := gets("/here/", 5)(i, u); err != nil {
				return err
			}
			here.Done()
			<-away
			for n := range 12 {
				if err := u.get(fmt.Sprintf("/away/%d/%d", i, n)); err != nil {
					return err
				}
				<-time.After(100 * time.Millisecond)
			}
			return nil
		})
	}()
	here.Wait()
	s.Lab.Target.Run(t, "nft", "add table inet outage; add chain inet outage in { type filter hook input priority 0; }; "+
		"add rule inet outage in tcp dport "+talkPort[1:]+" drop")
	close(away)
	last := <-done
	<-time.After(time.Second) // in which further turns leave
	s.Lab.Target.Run(t, "nft", "delete table inet outage")
	s.overAt(target, clients+sampled+clients)
	report := s.end(copier, responder)
	s.exact(report, traffic.Stats{
		Connections: slow.Connections + again.Connections + last.Connections, Sent: slow.Sent + again.Sent + last.Sent,
	})
	if report.Answers.HeldMax <= clients*3 {
		t.Error("no turn was released by --max-hold while the target was away: the test has tested nothing")
	}
	if !strings.Contains(responder.Output(), fmt.Sprintf(" %d without answers to their turns", clients)) {
		t.Error("others than the slow sessions had their gate turned off")
	}
}

// The same for a connection that was there all the time.
func TestKeptConnectionGetsItsGateBack(t *testing.T) {
	t.Parallel()
	s := newScene(t, testnet.LabConfig{})
	const clients, slow, probeEvery = 5, 10, 20
	var early, inTime atomic.Int64 // looks at connections whose next request came before the answer, and did not
	s.talkAt(s.Lab.Online, talkPort, 0, poll)
	target := s.talkAt(s.Lab.Target, talkPort, 0, func(k *talk) {
		answered := 0
		for n := 0; ; n++ {
			if _, ok := k.request(); !ok {
				return
			}
			if n%probeEvery == 0 && n > slow {
				_ = k.tcp.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
				if _, err := k.br.Peek(1); err == nil {
					early.Add(1)
				} else {
					inTime.Add(1)
				}
				_ = k.tcp.SetReadDeadline(time.Time{})
			}
			for ; n >= slow && answered <= n; answered++ {
				k.answer(fmt.Sprintf("news %d", answered))
			}
		}
	})
	copier, responder := s.copies(talkMap, "--max-hold", "200ms")
	stats := s.users(clients, s.dialer(talkPort), func(i int, u *user) error {
		for n := 0; inTime.Load() < 2*clients; n++ {
			if n == 1000 {
				return errors.New("requests are ahead of the target's answers for good")
			}
			if err := u.get(fmt.Sprintf("/%d/%d", i, n)); err != nil {
				return err
			}
			<-time.After(20 * time.Millisecond)
		}
		return nil
	})
	s.overAt(target, clients)
	s.exact(s.end(copier, responder), stats)
	t.Logf("%d looks found a request that was early", early.Load())
	if !strings.Contains(responder.Output(), fmt.Sprintf(" %d without answers to their turns", clients)) {
		t.Error("the gates were not off: the test has tested nothing")
	}
}
