//go:build netns

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// What a longer answer has more than online is not the answer to the next
// request.
func TestAnswersThatAreLonger(t *testing.T) {
	t.Parallel()
	pages := func(size int) func(*talk) {
		return func(k *talk) {
			for {
				if _, ok := k.request(); !ok || !k.answer(strings.Repeat("p", size)) {
					return
				}
			}
		}
	}
	for name, size := range map[string]int{"longer": 900, "many times longer": 8000} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, target, run := unlikeScene(t, 30*time.Millisecond, pages(500), pages(size))
			run(5, gets("/page/", 15))
			s.inTurns(target)
		})
	}
}

func TestMailServerWithALongerGreeting(t *testing.T) {
	t.Parallel()
	s, srv, run := unlikeScene(t, 100*time.Millisecond, smtp("mx1"), smtp("mail-exchange-17.long.example.net"))
	run(10, func(i int, u *user) error {
		return steps(
			func() error { return u.hear("220") },
			func() error { return u.exchange("EHLO client\r\n", "250") },
			func() error { return u.exchange(fmt.Sprintf("MAIL FROM:<a%d@example.net>\r\n", i), "250") },
			func() error { return u.exchange("QUIT\r\n", "221") },
		)
	})
	s.inTurns(srv)
}
