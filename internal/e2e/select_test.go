//go:build netns

package e2e

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"flowtwin/internal/e2e/rig"
	"flowtwin/internal/testnet"
)

// shop is an HTTP server of several hosts. It notes each request in a line that
// begins with its host; an answer's length depends on the path.
func shop(k *talk) {
	for {
		req, err := http.ReadRequest(k.br)
		if err != nil {
			k.end(err)
			return
		}
		if req.Header.Get("Upgrade") != "" {
			k.note("%s upgrades", req.Host)
			k.echoes(req.Host)
			return
		}
		if req.Header.Get("Expect") != "" && !k.say("HTTP/1.1 100 Continue\r\n\r\n") {
			return
		}
		body, err := io.ReadAll(req.Body)
		k.note("%s %s %s copied %q: %d bytes %s", req.Host, req.Method, req.URL, req.Header.Get("X-Copied"), len(body), digest(body))
		if err != nil {
			k.end(err)
			return
		}
		if !k.answer(strings.Repeat("a", len(req.URL.Path)*37)) {
			return
		}
	}
}

// echoes is what shop does behind an upgrade.
func (k *talk) echoes(host string) {
	ok := k.say("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
	for ok {
		op, text, err := readWSFrame(k.br)
		if err != nil {
			k.end(err)
			return
		}
		k.note("%s frame %d %s", host, op, digest([]byte(text)))
		ok = k.say(wsFrame(wsText, "echo "+text, nil))
	}
}

// selected returns what a copy of srv's conversations must be in which lines are
// left out, sorted.
func (srv *talkServer) selected(keep func(line string) (string, bool)) (all []string, requests, left int) {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	for _, k := range srv.talks {
		var met []string
		for _, line := range k.met {
			l, ok := keep(line)
			switch {
			case line == "end" || line == "reset":
				if len(met) > 0 {
					met = append(met, line)
				}
			case ok:
				met = append(met, l)
				requests++
			default:
				left++
			}
		}
		if len(met) > 0 {
			all = append(all, fmt.Sprintf("%.20000q", met))
		}
	}
	slices.Sort(all)
	return all, requests, left
}

// selects checks that the target met exactly what is selected of what online did.
func (s *scene) selects(online, target *talkServer, keep func(line string) (string, bool)) (requests, left int) {
	s.t.Helper()
	same := func(line string) (string, bool) { return line, true }
	var want, got []string
	rig.Until(s.within(), func() bool {
		_, open := target.log()
		_, still := online.log()
		want, requests, left = online.selected(keep)
		got, _, _ = target.selected(same)
		return open+still == 0 && slices.Equal(want, got)
	})
	if requests == 0 || left == 0 {
		s.t.Errorf("%d requests are selected, %d not: the test tests nothing", requests, left)
	}
	for i := range max(len(want), len(got)) {
		var a, b string
		if i < len(want) {
			a = want[i]
		}
		if i < len(got) {
			b = got[i]
		}
		if a != b {
			s.t.Errorf("conversation %d of %d\nonline, what is selected of it %s\ntarget %s", i+1, len(want), a, b)
			break
		}
	}
	return requests, left
}

var hosts = []string{"shop.example", "img.cdn.example", "other.example", "shop.example.evil", "Shop.Example:80"}

// isShop is what the tests select.
func isShop(line string) (string, bool) {
	host, _, _ := strings.Cut(strings.ToLower(line), " ")
	host = strings.TrimSuffix(host, ":80")
	return line, (host == "shop.example" || strings.HasSuffix(host, ".cdn.example")) && !strings.Contains(line, " /private")
}

// order makes a random request of a host.
func order(r *rand.Rand, i, n int) string {
	host := hosts[r.IntN(len(hosts))]
	path := fmt.Sprintf("/%s%d/%d", strings.Repeat("p", r.IntN(40)), i, n)
	if r.IntN(4) == 0 {
		path = "/private" + path
	}
	body := strings.Repeat(fmt.Sprint(n), r.IntN(3000))
	switch r.IntN(4) {
	case 0:
		return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n\r\n%s", path, host, len(body), body)
	case 1:
		k := len(body) / 3
		return fmt.Sprintf("PUT %s HTTP/1.1\r\nHost: %s\r\nTransfer-Encoding: chunked\r\n\r\n%s%s0\r\nX-Sum: 1\r\n\r\n", path, host, chunk(body[:k]), chunk(body[k:]))
	default:
		return fmt.Sprintf("GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", path, host)
	}
}

func chunk(s string) string {
	if s == "" {
		return ""
	}
	return fmt.Sprintf("%x;note=1\r\n%s\r\n", len(s), s)
}

// piecewise tells text in several pieces.
func (u *user) piecewise(r *rand.Rand, text string) error {
	for text != "" {
		n := min(1+r.IntN(2000), len(text))
		if err := u.tell("%s", text[:n]); err != nil {
			return err
		}
		if text = text[n:]; r.IntN(4) == 0 {
			if err := u.taken(); err != nil {
				return err
			}
		}
	}
	return nil
}

// expects asks for leave before it sends a body.
func (u *user) expects(host string, n int) error {
	return steps(
		func() error {
			return u.tell("POST /expect/%d HTTP/1.1\r\nHost: %s\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n", n, host)
		},
		func() error { return u.hear("HTTP/1.1 100") },
		func() error { return u.skipTo("\r\n") },
		func() error { return u.tell("12345") },
		u.answered,
	)
}

// Clients that use a connection for several hosts, a request at a time: the target,
// which is slow, must get those that are selected, each when its client had the
// answers to the selected ones before it, and nothing may wait for answers that
// never come.
func TestSelectByHost(t *testing.T) {
	t.Parallel()
	s := newScene(t, testnet.LabConfig{})
	online := s.talkAt(s.Lab.Online, talkPort, 0, shop)
	target := s.talkAt(s.Lab.Target, talkPort, 10*time.Millisecond, shop)
	rules := []string{"--http-host=shop.example,*.cdn.example", "--http-not-path", "/private"}
	copier, responder := s.copiesSelected(rules...)
	file := filepath.Join(s.Dir, "shop.pcap")
	tcpdump := s.record(s.Lab.Online, file, "-i", "eth0", "-s", "0", "tcp port 25 or udp port 9")
	const clients = 20
	s.users(clients, s.dialer(talkPort), func(i int, u *user) error {
		r := rand.New(rand.NewPCG(uint64(i), 7))
		if i == 0 {
			return errors.Join(u.get("/none/of/it"), u.get("/is/selected"))
		}
		for n := range 25 {
			if n%6 == 5 {
				if err := u.expects(hosts[r.IntN(len(hosts))], n); err != nil {
					return err
				}
				continue
			}
			if err := errors.Join(u.piecewise(r, order(r, i, n)), u.answered()); err != nil {
				return fmt.Errorf("request %d: %w", n, err)
			}
		}
		return nil
	})
	requests, left := s.selects(online, target, isShop)
	s.inTurns(target)
	s.recorded(map[string]*rig.Process{file: tcpdump})
	report := s.endCopier(copier)
	live, _ := target.log()
	recorded := s.replays("", append(rules, "-x", talkMap, "-i", file, "--pace=target")...)
	if !rig.Until(s.within(), func() bool { over, open := target.log(); return open == 0 && len(over) == 2*len(live) }) {
		t.Error("the recording is not replayed")
	}
	if over, _ := target.log(); !slices.Equal(slices.Compact(over), live) {
		t.Error("a recording brings the target other requests than the live copy did")
	}
	s.stops(responder)
	s.untouched()
	if want := " 0 released by the settle time, 0 by max-hold"; !strings.Contains(responder.Output(), want) {
		t.Errorf("answers were waited for that never come: the responder does not say %q", want)
	}
	for _, r := range []*rig.Report{report, recorded} {
		s.noneHeldToTheEnd(r)
		s.counted(r, requests, left)
	}
	if n := report.Flows.Refused["http_unselected"]; n != 1 || report.Sessions.Opened != clients-1 {
		t.Errorf("%d flows refused, %d opened, want 1 and %d", n, report.Sessions.Opened, clients-1)
	}
	if !strings.HasPrefix(report.Headline, "copied 100.00 %") {
		t.Errorf("headline %q", report.Headline)
	}
}

// Clients that pipeline: by bursts, and with always a few requests under way.
func TestSelectPipelined(t *testing.T) {
	t.Parallel()
	s := newScene(t, testnet.LabConfig{})
	online := s.talkAt(s.Lab.Online, talkPort, 0, shop)
	target := s.talkAt(s.Lab.Target, talkPort, 5*time.Millisecond, shop)
	copier, responder := s.copiesSelected("--http-host=shop.example,*.cdn.example", "--http-not-path", "/private")
	s.users(16, s.dialer(talkPort), func(i int, u *user) error {
		r := rand.New(rand.NewPCG(uint64(i), 8))
		burst, total := 1+r.IntN(8), 30
		for sent, heard := 0, 0; heard < total; {
			more := burst
			if i%2 == 0 && sent > 0 {
				more = 1 // a window that slides
			}
			var text strings.Builder
			for range min(more, total-sent) {
				text.WriteString(order(r, i, sent))
				sent++
			}
			if err := u.tell("%s", text.String()); err != nil {
				return err
			}
			for range min(more, total-heard) {
				if err := u.answered(); err != nil {
					return fmt.Errorf("answer %d: %w", heard, err)
				}
				heard++
			}
		}
		return nil
	})
	requests, left := s.selects(online, target, isShop)
	report := s.end(copier, responder)
	s.noneHeldToTheEnd(report)
	s.counted(report, requests, left)
}

// An upgrade is selected or left out with all that follows it, and everything that
// is copied can be changed on the way: headers, host and path; bodies stay.
func TestSelectAndRewrite(t *testing.T) {
	t.Parallel()
	s := newScene(t, testnet.LabConfig{})
	online := s.talkAt(s.Lab.Online, talkPort, 0, shop)
	target := s.talkAt(s.Lab.Target, talkPort, 10*time.Millisecond, shop)
	copier, responder := s.copiesSelected("--http-not-host=other.example", "--http-method=get,post", "--http-not-header", "Cookie=~debug",
		"--http-set-header", "X-Copied: 1", "--http-set-host=copy.example", "--http-rewrite-path", `^/v1/(\w+)=/v2/$1/x`)
	s.users(6, s.dialer(talkPort), func(i int, u *user) error {
		host := []string{"other.example", "shop.example"}[i%2]
		mask := []byte{1, 2, 3, byte(i)}
		return steps(
			func() error { return u.get(fmt.Sprintf("/v1/first?%d", i)) },
			func() error { return u.exchangeHTTP(post(host, "/v1/second", strings.Repeat("b", 5000))) },
			func() error {
				return u.exchangeHTTP("GET /debug HTTP/1.1\r\nHost: a\r\nCookie: a=debug\r\nX-Copied: 0\r\n\r\n")
			},
			func() error {
				return u.exchangeHTTP("GET /v1 HTTP/1.1\r\nHost: a\r\nCookie: a=b\r\nX-Copied: 0\r\n\r\n")
			},
			func() error { return u.exchangeHTTP("DELETE /v1 HTTP/1.1\r\nHost: a\r\n\r\n") },
			func() error {
				return u.tell("GET /ws HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", host)
			},
			func() error { return u.hear("HTTP/1.1 101") },
			func() error { return u.skipTo("\r\n") },
			func() error { return u.echoed(mask, 5) },
		)
	})
	requests, left := s.selects(online, target, func(line string) (string, bool) {
		host, rest, _ := strings.Cut(line, " ")
		if host == "other.example" || strings.HasPrefix(rest, "DELETE") || strings.Contains(line, "/debug") {
			return "", false
		}
		rest = strings.Replace(rest, `copied ""`, `copied "1"`, 1)
		rest = strings.Replace(rest, `copied "0"`, `copied "1"`, 1)
		rest = strings.Replace(rest, "/v1/first", "/v2/first/x", 1)
		rest = strings.Replace(rest, "/v1/second", "/v2/second/x", 1)
		return "copy.example " + rest, true
	})
	report := s.end(copier, responder)
	s.noneHeldToTheEnd(report)
	if report.HTTP.Selected == 0 || report.HTTP.LeftOut == 0 || report.Client.Rewritten.Added.Bytes == 0 || requests*left == 0 {
		t.Errorf("%+v, %+v", report.HTTP, report.Client.Rewritten)
	}
}

func post(host, path, body string) string {
	return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n\r\n%s", path, host, len(body), body)
}

func (u *user) exchangeHTTP(text string) error {
	return errors.Join(u.tell("%s", text), u.answered())
}

// echoed tells texts and waits for the echo of each.
func (u *user) echoed(mask []byte, n int) error {
	for i := range n {
		if err := u.tell("%s", wsFrame(wsText, fmt.Sprintf("text %d", i), mask)); err != nil {
			return err
		}
		if _, got, err := readWSFrame(u.br); err != nil || got != fmt.Sprintf("echo text %d", i) {
			return fmt.Errorf("echo %q: %w", got, err)
		}
	}
	return nil
}

// copiesSelected starts responder and copier, the latter with options.
func (s *scene) copiesSelected(options ...string) (copier, responder *rig.Process) {
	s.t.Helper()
	responder = s.keep(s.StartResponder(s.within()))
	return s.keep(s.StartCopier(s.within(), talkMap, options...)), responder
}

// counted checks that the ledger says how many requests were copied and left out.
func (s *scene) counted(r *rig.Report, requests, left int) {
	s.t.Helper()
	if r.HTTP.Selected != uint64(requests) || r.HTTP.LeftOut != uint64(left) {
		s.t.Errorf("ledger: %d requests selected and %d left out, want %d and %d", r.HTTP.Selected, r.HTTP.LeftOut, requests, left)
	}
	if r.Packets.KernelDropped != 0 {
		s.t.Errorf("ledger: %d packets dropped by the kernel", r.Packets.KernelDropped)
	}
	if r.Client.Sent != r.Sent.Delivered {
		s.t.Errorf("ledger: sent %v, delivered %v", r.Client.Sent, r.Sent.Delivered)
	}
}
