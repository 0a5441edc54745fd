//go:build netns

package e2e

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"flowtwin/internal/testnet"
)

// Clients that send their request in the SYN (RFC 7413), to a kernel that takes it
// there.
func TestFastOpen(t *testing.T) {
	t.Parallel()
	// Both sides without a cookie, and all listeners.
	const everything = "1543"
	s := newScene(t, testnet.LabConfig{}, func(l *testnet.Lab) {
		for _, ns := range []*testnet.NS{l.Clients, l.Online} {
			// Without a key the kernel makes one up, and the host would look changed.
			err := ns.Sysctl("net.ipv4.tcp_fastopen_key", "00000001-00000002-00000003-00000004")
			if err := errors.Join(err, ns.Sysctl("net.ipv4.tcp_fastopen", everything)); err != nil {
				t.Fatal(err)
			}
		}
	})
	online, target := s.serve(port, port)
	copier, responder := s.copies(httpMap)
	d := net.Dialer{Timeout: patience, Control: func(_, _ string, c syscall.RawConn) error {
		var set error
		err := c.Control(func(fd uintptr) {
			set = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_FASTOPEN_CONNECT, 1)
		})
		if err != nil {
			return err
		}
		return set
	}}
	const clients = 20
	var sent int64
	for i := range clients {
		var conn net.Conn
		var err error
		s.Lab.Clients.Do(func() { conn, err = d.Dial("tcp", testnet.OnlineAddr+port) })
		if err != nil {
			t.Fatal(err)
		}
		u := newUser(conn)
		for n := range 3 {
			if err := u.get(fmt.Sprintf("/fast/%d/%d", i, n)); err != nil {
				t.Fatal(err)
			}
		}
		sent += u.sent.Load()
		_ = conn.Close()
	}
	if n := s.counter(s.Lab.Online, "TCPFastOpenPassive"); n < clients {
		t.Errorf("the online server's kernel has taken data in %d of %d SYNs", n, clients)
	}
	s.same(online, target)
	report := s.end(copier, responder)
	if report.Sent.Delivered.Bytes != uint64(sent) || report.Sessions.Opened != clients || len(report.Client.Dropped) > 0 {
		t.Errorf("ledger: %d bytes delivered of %d, %d sessions, dropped %+v", report.Sent.Delivered.Bytes, sent, report.Sessions.Opened, report.Client.Dropped)
	}
	if n := report.Answers.HeldMax; n > 0 {
		t.Errorf("%d of %d turns were released by --max-hold", n, report.Answers.Turns)
	}
}

// counter returns one of a host's TCP counters.
func (s *scene) counter(ns *testnet.NS, name string) int {
	s.t.Helper()
	var text []byte
	var err error
	ns.Do(func() { text, err = os.ReadFile("/proc/thread-self/net/netstat") })
	if err != nil {
		s.t.Fatal(err)
	}
	lines := strings.Split(string(text), "\n")
	for i := 0; i+1 < len(lines); i += 2 {
		names, values := strings.Fields(lines[i]), strings.Fields(lines[i+1])
		for k := range names {
			if names[k] == name {
				n, err := strconv.Atoi(values[k])
				if err != nil {
					s.t.Fatal(err)
				}
				return n
			}
		}
	}
	s.t.Fatalf("no counter %s", name)
	return 0
}
