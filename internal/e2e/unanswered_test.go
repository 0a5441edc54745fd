//go:build netns

package e2e

import (
	"fmt"
	"io"
	"strings"
	"testing"

	"flowtwin/internal/testnet"
)

// A broken release: the target's kernel takes all requests, and most connections are
// reset before a byte of an answer. All is delivered, and the first line must not look
// as if all were well.
func TestTargetDoesNotAnswer(t *testing.T) {
	t.Parallel()
	s := newScene(t, testnet.LabConfig{})
	s.talkAt(s.Lab.Online, talkPort, 0, poll)
	target := s.talkAt(s.Lab.Target, talkPort, 0, func(k *talk) {
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
	})
	copier, responder := s.copiesSelected("--drain", "0s")
	const clients, good, pool = 16, 5, 4
	d := s.dialer(talkPort)
	for i := range pool { // these stay connected for good
		conn, err := d.Dial(clients + i)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		if err := newUser(conn).get(fmt.Sprintf("/bad/%d", clients+i)); err != nil {
			t.Fatal(err)
		}
	}
	s.users(clients, d, func(i int, u *user) error {
		kind := "bad"
		if i < good {
			kind = "good"
		}
		return u.get(fmt.Sprintf("/%s/%d", kind, i))
	})
	s.overAt(target, 2*(clients+pool)-good) // each request is sent again, once
	report := s.end(copier, responder)
	if a := report.Answers; a.Answered != good || a.Unanswered != clients+pool-good {
		t.Errorf("ledger: %d connections answered and %d not, want %d and %d", a.Answered, a.Unanswered, good, clients+pool-good)
	}
	const words = ", but 75 % of the connections got no answer from the target"
	if !strings.HasPrefix(report.Headline, "copied ") || !strings.Contains(report.Headline, words) {
		t.Errorf("headline %q, want %q in it", report.Headline, words)
	}
	for _, want := range []string{words, "no answer at all                                 15  of 20 that reached the target and were answered online"} {
		if !strings.Contains(copier.Output(), want) {
			t.Errorf("the copier does not print %q", want)
		}
	}
}
