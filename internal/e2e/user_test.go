//go:build netns

package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"flowtwin/internal/e2e/traffic"
)

// A user is a client of a talkServer.
type user struct {
	*net.TCPConn
	br   *bufio.Reader
	sent *atomic.Int64
}

func newUser(conn net.Conn) *user {
	u := &user{br: bufio.NewReader(conn), sent: new(atomic.Int64)}
	u.TCPConn, _ = conn.(*net.TCPConn)
	return u
}

// Write counts what it writes.
func (u *user) Write(p []byte) (int, error) {
	n, err := u.TCPConn.Write(p)
	u.sent.Add(int64(n))
	return n, err
}

// users runs n clients at a time, and returns what they did.
func (s *scene) users(n int, d *traffic.Dialer, do func(i int, u *user) error) traffic.Stats {
	s.t.Helper()
	var wg sync.WaitGroup
	var sent atomic.Int64
	for i := range n {
		wg.Go(func() {
			conn, err := d.Dial(i)
			if err != nil {
				s.t.Errorf("client %d: %v", i, err)
				return
			}
			defer func() { _ = conn.Close() }()
			_ = conn.SetDeadline(time.Now().Add(patience))
			u := newUser(conn)
			u.sent = &sent
			if err := do(i, u); err != nil {
				s.t.Errorf("client %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	return traffic.Stats{Connections: int64(n), Sent: sent.Load()}
}

// tell writes text.
func (u *user) tell(format string, args ...any) error {
	_, err := fmt.Fprintf(u, format, args...)
	return err
}

// hear reads a line that begins as expected.
func (u *user) hear(prefix string) error {
	line, err := u.br.ReadString('\n')
	if err == nil && !strings.HasPrefix(line, prefix) {
		err = fmt.Errorf("heard %q, want %q", line, prefix)
	}
	return err
}

// exchange tells text and hears the answer.
func (u *user) exchange(text, answer string) error {
	return errors.Join(u.tell("%s", text), u.hear(answer))
}

// gets makes user i ask n times, one behind the other, for prefix and both numbers.
func gets(prefix string, n int) func(i int, u *user) error {
	return func(i int, u *user) error {
		for k := range n {
			if err := u.get(fmt.Sprintf("%s%d/%d", prefix, i, k)); err != nil {
				return err
			}
		}
		return nil
	}
}

// get makes a request and reads the answer.
func (u *user) get(path string) error {
	if err := u.tell("GET %s HTTP/1.1\r\nHost: online\r\n\r\n", path); err != nil {
		return err
	}
	return u.answered()
}

// answered reads an HTTP answer.
func (u *user) answered() error {
	resp, err := http.ReadResponse(u.br, nil)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}

// steps runs steps up to the first that fails.
func steps(do ...func() error) error {
	for i, f := range do {
		if err := f(); err != nil {
			return fmt.Errorf("step %d: %w", i+1, err)
		}
	}
	return nil
}

// unacked waits until the client has acknowledged all that was written, and
// returns what is left of it.
func unacked(conn *net.TCPConn) int {
	raw, err := conn.SyscallConn()
	if err != nil {
		return -1
	}
	left := -1
	for range 500 {
		_ = raw.Control(func(fd uintptr) { left, _ = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) })
		if left == 0 {
			break
		}
		<-time.After(10 * time.Millisecond)
	}
	return left
}

// taken waits until the online server's host has all that was written.
func (u *user) taken() error {
	if n := unacked(u.TCPConn); n != 0 {
		return fmt.Errorf("%d bytes are not acknowledged", n)
	}
	return nil
}
