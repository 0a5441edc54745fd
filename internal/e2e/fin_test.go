//go:build netns

package e2e

import (
	"fmt"
	"testing"
	"time"
)

// A client that leaves after its answer must not leave the target in the middle
// of it: servers give up what they do for a client that is gone.
func TestClientLeavesAfterTheWholeAnswer(t *testing.T) {
	t.Parallel()
	two := func(k *talk) {
		for {
			if _, ok := k.request(); !ok || !k.say("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n") {
				return
			}
			if k.pause > 0 {
				_ = k.tcp.SetReadDeadline(time.Now().Add(k.pause))
				if _, err := k.br.Peek(1); err != nil && !isTimeout(err) {
					k.note("left before the body: %v", err)
				}
				_ = k.tcp.SetReadDeadline(time.Time{})
			}
			k.write(fmt.Sprintf("%01000d", 1))
		}
	}
	_, _, run := talkScene(t, 30*time.Millisecond, two)
	run(5, func(i int, u *user) error { return u.get(fmt.Sprintf("/%d", i)) })
}

func isTimeout(err error) bool {
	t, ok := err.(interface{ Timeout() bool })
	return ok && t.Timeout()
}
