//go:build netns

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

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
