//go:build netns

package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"flowtwin/internal/e2e/rig"
	"flowtwin/internal/e2e/traffic"
	"flowtwin/internal/testnet"
)

// keepOpen opens n connections that have made a request each and stay idle.
func (s *scene) keepOpen(d *traffic.Dialer, n int) {
	s.t.Helper()
	for i := range n {
		conn, err := d.Dial(i)
		if err != nil {
			s.t.Fatal(err)
		}
		s.t.Cleanup(func() { _ = conn.Close() })
		_, _ = fmt.Fprintf(conn, "GET /idle/%d HTTP/1.1\r\nHost: online\r\n\r\n", i)
	}
}

// Idle connections never end by themselves: the programs must end without them,
// in order, whichever is stopped first.
func TestStopWhileConnectionsAreOpen(t *testing.T) {
	t.Parallel()
	for _, first := range []string{"copier", "responder"} {
		t.Run(first+" first", func(t *testing.T) {
			t.Parallel()
			s := newScene(t, testnet.LabConfig{})
			online, target := s.serve(port, port)
			responder := s.keep(s.StartResponder(s.within(), "--drain", "1s"))
			copier := s.keep(s.StartCopier(s.within(), httpMap, "--drain", "1s"))
			const clients = 30
			s.keepOpen(s.dialer(port), clients)
			if !rig.Until(s.within(), func() bool { _, n, _ := target.Counts(); return n == clients }) {
				t.Fatal("the requests do not arrive at the target")
			}
			if first == "responder" {
				s.stops(responder)
				s.untouched()
			}
			report := s.end(copier, responder)
			if got := report.Sessions.Opened; got != clients {
				t.Errorf("ledger: %d sessions opened, want %d", got, clients)
			}
			if !rig.Until(s.within(), func() bool { _, _, open := target.Counts(); return open == 0 }) {
				t.Error("connections to the target are left open")
			}
			if _, _, open := online.Counts(); open != clients {
				t.Errorf("%d of %d clients are still connected online", open, clients)
			}
		})
	}
}

// A second signal is for those who cannot wait.
func TestSecondSignalEndsAtOnce(t *testing.T) {
	t.Parallel()
	s := newScene(t, testnet.LabConfig{})
	_, target := s.serve(port, port)
	responder := s.keep(s.StartResponder(s.within(), "--drain", "1s"))
	copier := s.keep(s.StartCopier(s.within(), httpMap, "--drain", "1h"))
	s.keepOpen(s.dialer(port), 1)
	if !rig.Until(s.within(), func() bool { _, n, _ := target.Counts(); return n == 1 }) {
		t.Fatal("the request does not arrive at the target")
	}
	if err := copier.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := copier.WaitOutput(s.within(), "stopping"); err != nil {
		t.Fatal(err)
	}
	if err := copier.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if _, err := copier.Wait(s.within()); err != nil {
		t.Error(err)
	}
	s.stops(responder)
	s.untouched()
	s.quiet()
}

// lineServer speaks first and answers each line, after a pause. What arrives in
// the pause came before its answer: a client that it does not know.
type lineServer struct {
	ln    net.Listener
	pause time.Duration
	done  sync.WaitGroup

	mu    sync.Mutex
	lines []string
	early []string
	ended int
}

func (s *scene) serveLines(ns *testnet.NS, addr string, pause time.Duration) *lineServer {
	s.t.Helper()
	l := &lineServer{pause: pause, ln: ns.Listen(s.t, addr)}
	l.done.Go(func() {
		for {
			conn, err := l.ln.Accept()
			if err != nil {
				return
			}
			l.done.Go(func() { l.talk(conn) })
		}
	})
	s.t.Cleanup(func() {
		_ = l.ln.Close()
		l.done.Wait()
	})
	return l
}

func (l *lineServer) talk(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	br := bufio.NewReader(conn)
	answer := func(text string) bool {
		_ = conn.SetReadDeadline(time.Now().Add(l.pause))
		if _, err := br.Peek(1); err == nil {
			early, _ := br.Peek(br.Buffered())
			l.mu.Lock()
			l.early = append(l.early, fmt.Sprintf("%q before %q", early, text))
			l.mu.Unlock()
		} else if !errors.Is(err, os.ErrDeadlineExceeded) {
			return false
		}
		_ = conn.SetReadDeadline(time.Now().Add(patience))
		_, err := io.WriteString(conn, text+"\n")
		return err == nil
	}
	for ok := answer("220 at your service"); ok; {
		line, err := br.ReadString('\n')
		l.mu.Lock()
		if err != nil {
			l.ended++
			l.mu.Unlock()
			return
		}
		l.lines = append(l.lines, line)
		l.mu.Unlock()
		ok = answer("250 you said " + strings.TrimSpace(line))
	}
}

func (l *lineServer) counts() (lines, ended int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.lines), l.ended
}

// The target is slower than the online server, and must be spoken to in turns all
// the same: with its answers out, as the clients did online.
func TestSlowTargetThatSpeaksFirst(t *testing.T) {
	t.Parallel()
	s := newScene(t, testnet.LabConfig{})
	const linePort = ":25"
	online := s.serveLines(s.Lab.Online, linePort, 0)
	target := s.serveLines(s.Lab.Target, linePort, 40*time.Millisecond)
	copier, responder := s.copies("25-" + testnet.TargetAddr + linePort)
	d := s.dialer(linePort)
	const clients, lines = 10, 8
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			conn, err := d.Dial(i)
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { _ = conn.Close() }()
			br := bufio.NewReader(conn)
			for n := range lines {
				if _, err := br.ReadString('\n'); err != nil {
					t.Error(err)
					return
				}
				_, _ = fmt.Fprintf(conn, "line %d of %d\n", n, i)
			}
			_, _ = br.ReadString('\n')
		})
	}
	wg.Wait()
	if !rig.Until(s.within(), func() bool { n, ended := target.counts(); return n == clients*lines && ended == clients }) {
		n, ended := target.counts()
		t.Errorf("target has %d lines of %d, %d connections ended", n, clients*lines, ended)
	}
	if n, _ := online.counts(); n != clients*lines {
		t.Errorf("online has %d lines of %d", n, clients*lines)
	}
	target.mu.Lock()
	for _, e := range target.early {
		t.Errorf("target was sent %s", e)
	}
	target.mu.Unlock()
	s.end(copier, responder)
}
