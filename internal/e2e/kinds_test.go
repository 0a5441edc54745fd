//go:build netns

package e2e

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"flowtwin/internal/testnet"
)

// talkScene lays out a scene whose two servers hold the same conversation, the
// target's with a pause before each answer, and copies it. run makes clients talk,
// compares what the servers have met, and checks the books.
func talkScene(t *testing.T, pause time.Duration, handle func(*talk), options ...string) (
	s *scene, target *talkServer, run func(clients int, do func(int, *user) error),
) {
	t.Helper()
	return unlikeScene(t, pause, handle, handle, options...)
}

// unlikeScene is talkScene with a target that answers otherwise.
func unlikeScene(t *testing.T, pause time.Duration, atOnline, atTarget func(*talk), options ...string) (
	s *scene, target *talkServer, run func(clients int, do func(int, *user) error),
) {
	t.Helper()
	s = newScene(t, testnet.LabConfig{})
	online := s.talkAt(s.Lab.Online, talkPort, 0, atOnline)
	target = s.talkAt(s.Lab.Target, talkPort, pause, atTarget)
	copier, responder := s.copies(talkMap, options...)
	return s, target, func(clients int, do func(int, *user) error) {
		t.Helper()
		stats := s.users(clients, s.dialer(talkPort), do)
		s.sameTalks(online, target, clients)
		report := s.end(copier, responder)
		s.exact(report, stats)
		s.noneHeldToTheEnd(report)
	}
}

// smtp is a mail server that names itself in its greeting.
func smtp(name string) func(*talk) {
	return func(k *talk) {
		ok := k.say("220 " + name + " at your service\r\n")
		for ok {
			var line string
			if line, ok = k.line(); !ok {
				return
			}
			switch line {
			case "DATA":
				ok = k.say("354 go on\r\n")
				for ok && line != "." {
					line, ok = k.line()
				}
				ok = ok && k.say("250 taken\r\n")
			case "QUIT":
				k.say("221 " + name + " closes\r\n")
				_ = k.tcp.CloseWrite()
				return
			default:
				ok = k.say("250 " + name + ": yes\r\n")
			}
		}
	}
}

// A mail client that speaks before the greeting is taken for a spammer and
// dropped.
func TestMailServerGreetsFirst(t *testing.T) {
	t.Parallel()
	for name, target := range map[string]string{
		"same length": "mx1", "shorter": "m",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, srv, run := unlikeScene(t, 100*time.Millisecond, smtp("mx1"), smtp(target))
			run(10, func(i int, u *user) error {
				return steps(
					func() error { return u.hear("220") },
					func() error { return u.exchange("EHLO client\r\n", "250") },
					func() error { return u.exchange(fmt.Sprintf("MAIL FROM:<a%d@example.net>\r\n", i), "250") },
					func() error { return u.exchange("RCPT TO:<b@example.net>\r\n", "250") },
					func() error { return u.exchange("DATA\r\n", "354") },
					func() error { return u.exchange(strings.Repeat("a line of the letter\r\n", 500)+".\r\n", "250") },
					func() error { return u.exchange("QUIT\r\n", "221") },
				)
			})
			s.inTurns(srv)
		})
	}
}

// mysqlPacket frames a payload as MySQL does.
func mysqlPacket(seq byte, payload string) string {
	var b []byte
	b = binary.LittleEndian.AppendUint32(b, uint32(len(payload)))
	b[3] = seq
	return string(b) + payload
}

// mysqld greets with a nonce, and answers each query with a few packets.
func mysqld(k *talk) {
	ok := k.say(mysqlPacket(0, "\x0a8.0.99-test\x00 and a nonce of twenty"))
	for seq := byte(2); ok; seq = 1 {
		head, more := k.bytes(4)
		if !more {
			return
		}
		query, more := k.bytes(int(binary.LittleEndian.Uint32(head) & 0xffffff))
		if !more || query[0] == 1 { // COM_QUIT: the client closes
			return
		}
		ok = k.say(mysqlPacket(seq, "\x01") + mysqlPacket(seq+1, "a row of "+string(query)) + mysqlPacket(seq+2, "\xfe"))
	}
}

// The client's first packet answers the nonce of a greeting that is always late.
func TestDatabaseServerGreetsFirst(t *testing.T) {
	t.Parallel()
	s, target, run := talkScene(t, 60*time.Millisecond, mysqld)
	answer := func(u *user, packets int) error {
		for range packets {
			var head [4]byte
			if _, err := io.ReadFull(u.br, head[:]); err != nil {
				return err
			}
			if _, err := u.br.Discard(int(binary.LittleEndian.Uint32(head[:]) & 0xffffff)); err != nil {
				return err
			}
		}
		return nil
	}
	run(10, func(i int, u *user) error {
		if err := answer(u, 1); err != nil {
			return err
		}
		for n := range 8 {
			if err := u.tell("%s", mysqlPacket(0, fmt.Sprintf("\x03select %d from client%d", n, i))); err != nil {
				return err
			}
			if err := answer(u, 3); err != nil {
				return err
			}
		}
		return u.tell("%s", mysqlPacket(0, "\x01"))
	})
	s.inTurns(target)
}

// A client that pipelines has seen no answer in between: held back one by one,
// its requests would wait for answers that the target gives only to all.
func TestPipelinedRequestsLeaveTogether(t *testing.T) {
	t.Parallel()
	const depth = 5
	batches := func(k *talk) {
		for {
			for range depth {
				if _, ok := k.request(); !ok {
					return
				}
			}
			if !k.say(strings.Repeat(httpAnswer("an answer"), depth)) {
				return
			}
		}
	}
	s, target, run := talkScene(t, 30*time.Millisecond, batches)
	run(10, func(i int, u *user) error {
		for batch := range 6 {
			text := ""
			for n := range depth {
				text += fmt.Sprintf("GET /%d/%d/%d HTTP/1.1\r\nHost: online\r\n\r\n", i, batch, n)
				if batch%2 == 1 { // in segments of their own
					if err := u.tell("%s", text); err != nil {
						return err
					}
					text = ""
				}
			}
			if err := u.tell("%s", text); err != nil {
				return err
			}
			for range depth {
				if err := u.answered(); err != nil {
					return err
				}
			}
		}
		return nil
	})
	s.inTurns(target)
}

// The body belongs to the request, but waits for an answer of its own.
func TestBodyWaitsFor100Continue(t *testing.T) {
	t.Parallel()
	upload := func(k *talk) {
		for {
			req, ok := k.head()
			ok = ok && k.say("HTTP/1.1 100 Continue\r\n\r\n") && k.body(req) && k.answer("taken")
			if !ok {
				return
			}
		}
	}
	s, target, run := talkScene(t, 50*time.Millisecond, upload)
	body := bytes.Repeat([]byte("0123456789"), 2000)
	run(10, func(i int, u *user) error {
		for n := range 4 {
			err := u.exchange(fmt.Sprintf("PUT /%d/%d HTTP/1.1\r\nHost: online\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n",
				i, n, len(body)), "HTTP/1.1 100")
			if err != nil {
				return err
			}
			if err := u.hear("\r\n"); err != nil {
				return err
			}
			if _, err := u.Write(body); err != nil {
				return err
			}
			if err := u.answered(); err != nil {
				return err
			}
		}
		return nil
	})
	s.inTurns(target)
}

// Chunks come one by one, in both directions; what is between two of them is not
// the end of a request or an answer.
func TestChunkedBodiesBothWays(t *testing.T) {
	t.Parallel()
	chunked := func(k *talk) {
		for {
			if _, ok := k.request(); !ok {
				return
			}
			k.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
			for n := range 5 {
				<-time.After(time.Millisecond)
				k.write(fmt.Sprintf("%x\r\n%s\r\n", 100*(n+1), strings.Repeat("c", 100*(n+1))))
			}
			k.write("0\r\n\r\n")
		}
	}
	_, _, run := talkScene(t, 20*time.Millisecond, chunked)
	run(10, func(i int, u *user) error {
		for n := range 4 {
			if err := u.tell("POST /%d/%d HTTP/1.1\r\nHost: online\r\nTransfer-Encoding: chunked\r\n\r\n", i, n); err != nil {
				return err
			}
			for size := 1; size < 5000; size *= 4 {
				if err := u.tell("%x\r\n%s\r\n", size, strings.Repeat("b", size)); err != nil {
					return err
				}
				<-time.After(5 * time.Millisecond)
			}
			if err := u.exchange("0\r\n\r\n", "HTTP/1.1 200"); err != nil {
				return err
			}
			for line := ""; line != "0\r\n"; {
				var err error
				if line, err = u.br.ReadString('\n'); err != nil {
					return err
				}
			}
			if err := u.hear("\r\n"); err != nil {
				return err
			}
		}
		return nil
	})
}

// poll answers each request.
func poll(k *talk) {
	for n := 0; ; n++ {
		if _, ok := k.request(); !ok || !k.answer(fmt.Sprintf("news %d", n)) {
			return
		}
	}
}

// slow is poll with a server that takes its time.
func slow(d time.Duration) func(*talk) {
	return func(k *talk) {
		for n := 0; ; n++ {
			if _, ok := k.request(); !ok {
				return
			}
			<-time.After(d)
			if !k.answer(fmt.Sprintf("news %d", n)) {
				return
			}
		}
	}
}

// The answer takes seconds at the target and nothing online: the next request is
// there long before, and must wait as long as --max-hold says it may.
func TestLongPollThatIsSlowerAtTheTarget(t *testing.T) {
	t.Parallel()
	s, target, run := talkScene(t, 2*time.Second, poll, "--max-hold", "6s")
	run(5, gets("/poll/", 3))
	s.inTurns(target)
}

// The answer takes longer online: the target is idle with its answer out, and the
// session neither ends nor hurries.
func TestLongPollThatIsFasterAtTheTarget(t *testing.T) {
	t.Parallel()
	s, target, run := unlikeScene(t, 10*time.Millisecond, slow(1500*time.Millisecond), poll)
	run(5, gets("/poll/", 2))
	s.inTurns(target)
}

// A target whose pages have other lengths: each request has to wait for the page
// before it all the same.
func TestAnswersOfOtherLength(t *testing.T) {
	t.Parallel()
	pages := func(size func(n int) int) func(*talk) {
		return func(k *talk) {
			for n := 0; ; n++ {
				if _, ok := k.request(); !ok || !k.answer(strings.Repeat("p", size(n))) {
					return
				}
			}
		}
	}
	for name, size := range map[string]func(int) int{
		"as online": func(int) int { return 500 },
		"shorter":   func(int) int { return 100 },
		"in turns":  func(n int) int { return []int{100, 900}[n%2] },
		"once":      func(n int) int { return []int{500, 500, 700, 500, 300}[n%5] },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, target, run := unlikeScene(t, 30*time.Millisecond, pages(func(int) int { return 500 }), pages(size))
			run(5, gets("/page/", 15))
			s.inTurns(target)
		})
	}
}
