//go:build netns

package e2e

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"flowtwin/internal/e2e/rig"
	"flowtwin/internal/testnet"
)

// talkPort is where the tests' servers of other protocols than HTTP listen.
const (
	talkPort = ":25"
	talkMap  = "25-" + testnet.TargetAddr + talkPort
)

// A talkServer holds a conversation on each connection, and writes down what it
// meets there: the same ought to be met online and at the target.
type talkServer struct {
	pause  time.Duration // before each answer
	handle func(*talk)
	ln     net.Listener
	done   sync.WaitGroup

	mu    sync.Mutex
	talks []*talk
}

// A talk is one connection of a talkServer.
type talk struct {
	*talkServer
	tcp *net.TCPConn
	br  *bufio.Reader

	ended bool // the client's end is noted
	// With the server's mu:
	met   []string
	early []string // what came before the answer that its client had waited for
	over  bool
}

// talkAt starts a server in ns, which waits for pause before each answer.
func (s *scene) talkAt(ns *testnet.NS, addr string, pause time.Duration, handle func(*talk)) *talkServer {
	s.t.Helper()
	srv := &talkServer{pause: pause, handle: handle, ln: ns.Listen(s.t, addr)}
	srv.done.Go(srv.accept)
	s.t.Cleanup(func() {
		_ = srv.ln.Close()
		srv.mu.Lock()
		for _, k := range srv.talks {
			_ = k.tcp.Close()
		}
		srv.mu.Unlock()
		srv.done.Wait()
	})
	return srv
}

func (srv *talkServer) accept() {
	for {
		conn, err := srv.ln.Accept()
		if err != nil {
			return
		}
		k := &talk{talkServer: srv, br: bufio.NewReader(conn)}
		k.tcp, _ = conn.(*net.TCPConn)
		srv.mu.Lock()
		srv.talks = append(srv.talks, k)
		srv.mu.Unlock()
		srv.done.Go(func() {
			defer func() { _ = conn.Close() }()
			srv.handle(k)
			k.rest()
			srv.mu.Lock()
			defer srv.mu.Unlock()
			k.over = true
		})
	}
}

// note writes down what was met.
func (k *talk) note(format string, args ...any) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.met = append(k.met, fmt.Sprintf(format, args...))
}

// end notes how the client ended, once.
func (k *talk) end(err error) {
	if k.ended {
		return
	}
	k.ended = true
	switch {
	case errors.Is(err, syscall.ECONNRESET):
		k.note("reset")
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		k.note("end")
	default:
		k.note("%v", err)
	}
}

// rest reads what is left to the client's end.
func (k *talk) rest() {
	if k.ended {
		return
	}
	n, err := io.Copy(io.Discard, k.br)
	if n > 0 {
		k.note("%d bytes more", n)
	}
	if err == nil {
		err = io.EOF
	}
	k.end(err)
}

// line reads and notes a line.
func (k *talk) line() (string, bool) {
	line, err := k.br.ReadString('\n')
	if line != "" {
		k.note("%s", line)
	}
	if err != nil {
		k.end(err)
		return "", false
	}
	return strings.TrimSpace(line), true
}

// bytes reads n bytes, and notes them with their sum.
func (k *talk) bytes(n int) ([]byte, bool) {
	p := make([]byte, n)
	got, err := io.ReadFull(k.br, p)
	if got > 0 {
		k.note("%d bytes: %s", got, digest(p[:got]))
	}
	if err != nil {
		k.end(err)
	}
	return p, err == nil
}

// request reads and notes an HTTP request.
func (k *talk) request() (*http.Request, bool) {
	req, ok := k.head()
	return req, ok && k.body(req)
}

func (k *talk) head() (*http.Request, bool) {
	req, err := http.ReadRequest(k.br)
	if err != nil {
		k.end(err)
		return nil, false
	}
	k.note("%s %s", req.Method, req.URL.Path)
	return req, true
}

func (k *talk) body(req *http.Request) bool {
	body, err := io.ReadAll(req.Body)
	k.note("%d bytes: %s", len(body), digest(body))
	if err != nil {
		k.end(err)
	}
	return err == nil
}

// say answers after the server's pause. What has come by then came before its
// answer: its client would have waited.
func (k *talk) say(text string) bool {
	until := time.Now().Add(k.pause)
	if k.pause > 0 {
		_ = k.tcp.SetReadDeadline(until)
		_, err := k.br.Peek(1)
		if n := k.br.Buffered(); n > 0 {
			p, _ := k.br.Peek(n)
			k.mu.Lock()
			k.early = append(k.early, fmt.Sprintf("%.100q before %.60q", p, text))
			k.mu.Unlock()
		}
		if errors.Is(err, syscall.ECONNRESET) {
			k.end(err)
			return false
		}
		_ = k.tcp.SetReadDeadline(time.Time{})
		<-time.After(time.Until(until))
	}
	return k.write(text)
}

func (k *talk) write(text string) bool {
	_, err := io.WriteString(k.tcp, text)
	return err == nil
}

// answer is say with an HTTP answer around body.
func (k *talk) answer(body string) bool {
	return k.say(httpAnswer(body))
}

func httpAnswer(body string) string {
	return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
}

// log returns the conversations that are over, sorted, and how many are not.
func (srv *talkServer) log() (over []string, open int) {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	for _, k := range srv.talks {
		if !k.over {
			open++
			continue
		}
		over = append(over, fmt.Sprintf("%.2000q", k.met))
	}
	slices.Sort(over)
	return over, open
}

// sameTalks waits until n conversations are over on both sides, and compares
// them.
func (s *scene) sameTalks(online, target *talkServer, n int) {
	s.t.Helper()
	for name, srv := range map[string]*talkServer{"online": online, "target": target} {
		if !rig.Until(s.within(), func() bool { over, open := srv.log(); return len(over) >= n && open == 0 }) {
			over, open := srv.log()
			s.t.Errorf("%s: %d of %d conversations are over, %d open", name, len(over), n, open)
		}
	}
	want, _ := online.log()
	got, _ := target.log()
	if len(want) != n {
		s.t.Errorf("online held %d conversations, clients %d", len(want), n)
	}
	if slices.Equal(want, got) {
		return
	}
	shown := 0
	for i := range max(len(want), len(got)) {
		var a, b string
		if i < len(want) {
			a = want[i]
		}
		if i < len(got) {
			b = got[i]
		}
		if a != b && shown < 3 {
			shown++
			s.t.Errorf("conversation %d of %d\nonline %s\ntarget %s", i+1, len(want), a, b)
		}
	}
}

// inTurns checks that nothing came to the target before the answer that its
// client had waited for.
func (s *scene) inTurns(target *talkServer) {
	s.t.Helper()
	target.mu.Lock()
	defer target.mu.Unlock()
	if target.pause == 0 {
		s.t.Error("target does not pause: the test tests nothing")
	}
	n := 0
	for _, k := range target.talks {
		for _, e := range k.early {
			if n++; n <= 5 {
				s.t.Errorf("target was sent %s", e)
			}
		}
	}
	if n > 5 {
		s.t.Errorf("… %d in all", n)
	}
}

// noneHeldToTheEnd checks that nothing was released by max-hold: each turn left for the
// right reason.
func (s *scene) noneHeldToTheEnd(r *rig.Report) {
	s.t.Helper()
	if n := r.Answers.HeldMax; n > 0 {
		s.t.Errorf("%d of %d turns were released by --max-hold", n, r.Answers.Turns)
	}
}

// digest is a short sum of p.
func digest(p []byte) string {
	if len(p) <= 32 {
		return fmt.Sprintf("%q", p)
	}
	sum := sha256.Sum256(p)
	return hex.EncodeToString(sum[:8])
}

// comes waits until a server has noted text.
func (s *scene) comes(srv *talkServer, text string) bool {
	return rig.Until(s.within(), func() bool {
		srv.mu.Lock()
		defer srv.mu.Unlock()
		for _, k := range srv.talks {
			if slices.Contains(k.met, text) {
				return true
			}
		}
		return false
	})
}

// overAt waits until n conversations at a server are over, and all of them.
func (s *scene) overAt(srv *talkServer, n int) {
	s.t.Helper()
	if !rig.Until(s.within(), func() bool { over, open := srv.log(); return len(over) >= n && open == 0 }) {
		over, open := srv.log()
		s.t.Errorf("%d of %d conversations are over, %d open", len(over), n, open)
	}
}
