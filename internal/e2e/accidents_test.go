//go:build netns

package e2e

import (
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"flowtwin/internal/e2e/rig"
	"flowtwin/internal/packet"
	"flowtwin/internal/testnet"
)

// parrot says ok to each line: "take N" is said twice, before and behind N bytes,
// which it does not read before goOn lets it; "bye" closes its side.
func parrot(goOn <-chan struct{}) func(*talk) {
	return func(k *talk) {
		for {
			line, ok := k.line()
			if !ok || !k.write("ok\n") {
				return
			}
			size, takes := strings.CutPrefix(line, "take ")
			switch {
			case line == "bye":
				_ = k.tcp.CloseWrite()
				return
			case takes:
				if goOn != nil {
					<-goOn
				}
				n, _ := strconv.Atoi(size)
				if _, ok := k.bytes(n); !ok || !k.write("ok\n") {
					return
				}
			}
		}
	}
}

// Packets as they are met in the wild, or made by hand: a real kernel must take them
// as it does, and the target must get what its application got.
func TestAccidents(t *testing.T) {
	t.Parallel()
	s := newScene(t, testnet.LabConfig{})
	tun := rawTun(t, s.Lab)
	goOn := make(chan struct{})
	online := s.talkAt(s.Lab.Online, talkPort, 0, parrot(goOn))
	target := s.talkAt(s.Lab.Target, talkPort, 0, parrot(nil))
	copier, responder := s.copies(talkMap)
	scripts := []struct {
		name string
		iss  packet.Seq
		do   func(c *raw)
	}{
		{"numbers wrap", packet.Seq(0).Add(-10), func(c *raw) {
			for range 5 {
				c.say("a line")
			}
		}},
		{"numbers wrap within a segment that comes early", packet.Seq(0).Add(-20), func(c *raw) {
			c.send(packet.ACK, c.nxt.Add(10), "crossing the border\n")
			c.until("an ACK", func() bool { return c.heard > 1 })
			c.send(packet.ACK, c.nxt, "it is now ")
			c.nxt = c.nxt.Add(30)
			c.answered("ok\n")
		}},
		{"keep-alive with a byte of garbage", 1000, func(c *raw) {
			c.say("one")
			for range 3 {
				c.question(c.nxt.Add(-1), "?")
			}
			c.say("two")
		}},
		{"keep-alive without", 1000, func(c *raw) {
			c.say("one")
			c.question(c.nxt.Add(-1), "")
			c.say("two")
		}},
		{"sent again with other bytes", 1000, func(c *raw) {
			c.say("good")
			c.question(c.nxt.Add(-5), "evil\n")
			c.say("more")
		}},
		{"new bytes behind others for old ones", 1000, func(c *raw) {
			c.say("good")
			c.send(packet.ACK|packet.PSH, c.nxt.Add(-5), "evil\nnew\n")
			c.nxt = c.nxt.Add(4)
			c.answered("ok\n")
			c.say("more")
		}},
		{"a FIN without an ACK", 1000, func(c *raw) {
			c.say("good")
			c.send(packet.FIN|packet.PSH|packet.URG, c.nxt, "")
			c.say("more")
		}},
		{"simultaneous close", 1000, func(c *raw) {
			c.data("bye\n")
			c.until("the server's FIN", func() bool { return c.finished })
			c.ack = c.ack.Add(-1) // as if it were still on its way
			c.send(packet.FIN|packet.ACK, c.nxt, "")
			c.nxt = c.nxt.Add(1)
			c.until("an ACK of the FIN", func() bool { return c.una == c.nxt })
			c.ack = c.ack.Add(1)
			c.send(packet.ACK, c.nxt, "")
		}},
		{"zero window", 1000, func(c *raw) {
			const all = 300_000
			c.say("take " + strconv.Itoa(all))
			text := strings.Repeat("0123456789", all/10)
			c.fill(&text)
			for range 3 { // of the next byte, as some do
				c.question(c.nxt, text[:1])
			}
			if c.una != c.nxt {
				t.Error("the server has taken a probe: its window was not full")
			}
			close(goOn)
			for text != "" {
				if c.window == 0 { // its news of more room may have been lost
					c.question(c.nxt.Add(-1), "")
					continue
				}
				c.fill(&text)
			}
			c.answered("ok\n")
		}},
	}
	for i, x := range scripts {
		c := &raw{t: t, tun: tun, client: netip.AddrPortFrom(netip.MustParseAddr(rawAddr), uint16(30000+i)), serve: netip.MustParseAddrPort(testnet.OnlineAddr + talkPort)}
		t.Log(x.name)
		c.connect(x.iss)
		x.do(c)
		if !c.finished {
			c.leave()
		}
	}
	s.sameTalks(online, target, len(scripts))
	report := s.end(copier, responder)
	if n := len(report.Client.Dropped); n > 0 || len(report.Flows.GivenUp) > 0 || report.Client.Missing > 0 {
		t.Errorf("ledger: dropped %+v, flows %+v", report.Client.Dropped, report.Flows)
	}
	if report.Client.Retransmitted.Bytes == 0 {
		t.Error("ledger: nothing was sent again: the test has tested nothing")
	}
}

// fill sends text as far as the server's window goes.
func (c *raw) fill(text *string) {
	c.t.Helper()
	for *text != "" {
		n := min(len(*text), 1400, c.window-c.nxt.Diff(c.una))
		if n > 0 {
			c.data((*text)[:n])
			*text = (*text)[n:]
			continue
		}
		if c.una == c.nxt && c.window == 0 {
			return
		}
		heard := c.heard
		c.until("an ACK", func() bool { return c.heard > heard })
	}
}

// Urgent data is for the online application to read beside the stream; the target's
// gets it in its place.
func TestUrgentData(t *testing.T) {
	t.Parallel()
	s := newScene(t, testnet.LabConfig{})
	online := s.talkAt(s.Lab.Online, talkPort, 0, parrot(nil))
	target := s.talkAt(s.Lab.Target, talkPort, 0, parrot(nil))
	copier, responder := s.copies(talkMap)
	s.users(1, s.dialer(talkPort), func(_ int, u *user) error {
		raw, err := u.SyscallConn()
		if err != nil {
			return err
		}
		return steps(
			func() error { return u.exchange("one\n", "ok") },
			func() error {
				var sent error
				err := raw.Write(func(fd uintptr) bool {
					sent = unix.Sendto(int(fd), []byte("!"), unix.MSG_OOB, nil)
					return true
				})
				if err != nil {
					return err
				}
				return sent
			},
			func() error { return u.exchange("two\n", "ok") },
			u.CloseWrite,
			func() error { _, err := io.Copy(io.Discard, u.br); return err },
		)
	})
	logs := func(srv *talkServer) []string { over, _ := srv.log(); return over }
	rig.Until(s.within(), func() bool { return len(logs(online)) == 1 && len(logs(target)) == 1 })
	if got, want := logs(online), []string{`["one\n" "two\n" "end"]`}; !slices.Equal(got, want) {
		t.Errorf("online met %v, want %v", got, want)
	}
	if got, want := logs(target), []string{`["one\n" "!two\n" "end"]`}; !slices.Equal(got, want) {
		t.Errorf("target met %v, want %v", got, want)
	}
	if report := s.end(copier, responder); report.Client.Urgent == 0 {
		t.Error("ledger: nothing urgent")
	}
}
