//go:build netns

package e2e

import (
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"flowtwin/internal/e2e/rig"
	"flowtwin/internal/e2e/traffic"
	"flowtwin/internal/testnet"
)

// distances notes, at each end of a connection, the least round-trip time that the
// target's kernel has measured on it.
type distances struct {
	net.Listener
	mu    sync.Mutex
	noted []time.Duration
}

// Accept implements net.Listener.
func (d *distances) Accept() (net.Conn, error) {
	c, err := d.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &measured{c.(*net.TCPConn), d, sync.Once{}}, nil
}

type measured struct {
	*net.TCPConn
	to   *distances
	once sync.Once
}

// Close implements net.Conn.
func (m *measured) Close() error {
	m.once.Do(func() {
		var info *unix.TCPInfo
		var err error
		raw, rawErr := m.SyscallConn()
		if rawErr == nil {
			rawErr = raw.Control(func(fd uintptr) { info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) })
		}
		if rawErr == nil && err == nil {
			m.to.mu.Lock()
			m.to.noted = append(m.to.noted, time.Duration(info.Min_rtt)*time.Microsecond)
			m.to.mu.Unlock()
		}
	})
	return m.TCPConn.Close()
}

// measure starts an HTTP server that reads its requests and answers
// with more than a first window holds.
func (s *scene) measure(ns *testnet.NS, addr string) *distances {
	s.t.Helper()
	d := &distances{Listener: ns.Listen(s.t, addr)}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Length", "40000")
		_, _ = w.Write(make([]byte, 40_000))
	})}
	go func() { _ = srv.Serve(d) }()
	s.t.Cleanup(func() { _ = srv.Close() })
	return d
}

// The target holds connections as long, and its kernel measures them as far, as
// production's: 40 ms for all, or what each client had online, whose own way is
// 30 ms here. Nothing is lost by it, and a pause between two rounds of an answer is
// not taken for its end, but for what this host's own pauses do.
func TestTargetMeetsClientsDistance(t *testing.T) {
	for _, tt := range []struct {
		name  string
		wire  *testnet.WireConfig
		args  []string
		least time.Duration
	}{
		{"for all", nil, []string{"--rtt", "40ms+-5ms"}, 35 * time.Millisecond},
		{"of each client", &testnet.WireConfig{Delay: 15 * time.Millisecond}, []string{"--rtt=client"}, 30 * time.Millisecond},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, testnet.LabConfig{ClientWire: tt.wire})
			args := append(tt.args, "--max-hold", "10s", "--report", s.responderReport())
			s.measure(s.Lab.Online, port)
			target := s.measure(s.Lab.Target, port)
			copier, responder := s.copies(httpMap, args...)
			stats := s.make(traffic.Load{Name: "far", Clients: 20, Rounds: 2, Requests: 3, Bodies: []int{10, 20_000}}, s.dialer(port))
			rig.Until(s.within(), func() bool {
				target.mu.Lock()
				defer target.mu.Unlock()
				return len(target.noted) == int(stats.Connections)
			})
			report := s.end(copier, responder)
			s.exact(report, stats)
			var books struct {
				LineUnknown uint64 `json:"line_unknown"`
			}
			if settled := s.responderBooks(&books); settled > report.Answers.Turns/4 || report.Answers.HeldMax != 0 {
				t.Errorf("of %d turns %d were released by the settle time, %d held to the end", report.Answers.Turns, settled, report.Answers.HeldMax)
			}
			if books.LineUnknown != 0 {
				t.Errorf("the distance of %d clients is not known", books.LineUnknown)
			}
			for _, d := range target.noted {
				if d < tt.least-5*time.Millisecond || d > time.Second {
					t.Errorf("the target measures %v, the clients are at least %v away", d, tt.least)
					break
				}
			}
			if n := len(target.noted); n != int(stats.Connections) {
				t.Errorf("the target met %d connections, clients made %d", n, stats.Connections)
			}
		})
	}
}

// A line that loses packets and is slow loses no byte of what clients sent, and says
// what it did.
func TestTargetBehindABadLine(t *testing.T) {
	t.Parallel()
	s := newScene(t, testnet.LabConfig{})
	online, target := s.serve(port, port)
	copier, responder := s.copies(httpMap, "--rtt", "4ms", "--loss", "2%", "--bandwidth", "20mbit", "--report", s.responderReport(), "--max-hold", "5s")
	stats := s.make(traffic.Load{Name: "bad", Clients: 20, Rounds: 1, Requests: 5, Bodies: []int{10, 20_000}}, s.dialer(port))
	s.same(online, target)
	s.exact(s.end(copier, responder), stats)
	var books struct {
		LineLost uint64 `json:"line_lost"`
	}
	s.responderBooks(&books)
	if books.LineLost == 0 {
		t.Error("no packet is counted as lost")
	}
}
