//go:build netns

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"flowtwin/internal/testnet"
)

// Clients far away that always have a few requests under way, of which every second
// one is selected: what one of them sends before it can have the answer to another
// may go with that one. A turn for each would be held for the settle time, which is
// longer than they take between two requests.
func TestSelectSlidingWindow(t *testing.T) {
	t.Parallel()
	s := newScene(t, testnet.LabConfig{ClientWire: &testnet.WireConfig{Delay: 10 * time.Millisecond}})
	online := s.talkAt(s.Lab.Online, talkPort, 0, shop)
	target := s.talkAt(s.Lab.Target, talkPort, 0, shop)
	copier, responder := s.copiesSelected("--http-host=shop.example")
	const clients, total, window = 4, 640, 16
	s.users(clients, s.dialer(talkPort), func(i int, u *user) error {
		for sent, heard := 0, 0; heard < total; heard++ {
			for ; sent < min(total, heard+window); sent++ {
				if err := u.tell("GET /%d/%d HTTP/1.1\r\nHost: %s.example\r\n\r\n", i, sent, []string{"shop", "other"}[sent%2]); err != nil {
					return err
				}
			}
			if err := u.answered(); err != nil {
				return fmt.Errorf("answer %d: %w", heard, err)
			}
		}
		return nil
	})
	began := time.Now()
	requests, left := s.selects(online, target, func(line string) (string, bool) { return line, strings.HasPrefix(line, "shop.") })
	t.Logf("the target has everything %v later", time.Since(began))
	report := s.end(copier, responder)
	s.noneHeldToTheEnd(report)
	s.counted(report, requests, left)
	t.Logf("%d turns for %d requests", report.Answers.Turns, requests)
	if n := report.Answers.Turns; n > clients*total/window*2 {
		t.Errorf("%d turns, want one for each window of requests at most, and as many again", n)
	}
}
