//go:build netns

package e2e

import (
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"flowtwin/internal/e2e/rig"
	"flowtwin/internal/e2e/traffic"
	"flowtwin/internal/testnet"
)

// dialFrom connects from one local address and port, which others may use too.
func (s *scene) dialFrom(local, server string) (*net.TCPConn, error) {
	addr, err := net.ResolveTCPAddr("tcp", local)
	if err != nil {
		return nil, err
	}
	d := net.Dialer{LocalAddr: addr, Timeout: patience, KeepAlive: -1, Control: func(_, _ string, c syscall.RawConn) error {
		var set error
		err := c.Control(func(fd uintptr) { set = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) })
		if err != nil {
			return err
		}
		return set
	}}
	var conn net.Conn
	s.Lab.Clients.Do(func() { conn, err = d.Dial("tcp", server) })
	if err != nil {
		return nil, err
	}
	tcp, _ := conn.(*net.TCPConn)
	return tcp, nil
}

// ask makes requests on connections from each of the local addresses, all open at
// a time.
func (s *scene) ask(name string, locals []string, server string, requests int) traffic.Stats {
	s.t.Helper()
	var opened sync.WaitGroup
	opened.Add(len(locals))
	var next int
	var mu sync.Mutex
	load := traffic.Load{Name: name, Clients: len(locals), Rounds: 1, Requests: requests, Bodies: []int{10, 3000}}
	stats := load.Run(s.t.Context(), func(int) (net.Conn, error) {
		mu.Lock()
		local := locals[next]
		next++
		mu.Unlock()
		conn, err := s.dialFrom(local, server)
		opened.Done()
		opened.Wait()
		return conn, err
	})
	if stats.Errors > 0 {
		s.t.Errorf("clients of %s met errors: %v", name, stats.FirstError)
	}
	return stats
}

// One client's connections to two services may have the same port: at a target
// host that has both services too they are still two.
func TestOneClientPortToTwoMaps(t *testing.T) {
	t.Parallel()
	s := newScene(t, testnet.LabConfig{})
	onlineA, targetA := s.serve(":80", ":8080")
	onlineB, targetB := s.serve(":81", ":8081")
	copier, responder := s.copies("80-"+testnet.TargetAddr+":8080,81-"+testnet.TargetAddr+":8081", "-c", "198.18.0.1")
	var locals []string
	for i := range 20 {
		locals = append(locals, fmt.Sprintf("%s:%d", testnet.ClientAddr(0), 20000+i))
	}
	var a, b traffic.Stats
	var wg sync.WaitGroup
	wg.Go(func() { a = s.ask("a", locals, testnet.OnlineAddr+":80", 20) })
	wg.Go(func() { b = s.ask("b", locals, testnet.OnlineAddr+":81", 20) })
	wg.Wait()
	s.same(onlineA, targetA)
	s.same(onlineB, targetB)
	a.Add(b)
	s.exact(s.end(copier, responder), a)
}

// A proxy or a load generator is one address for all users, and repeats its ports
// within minutes; the target sees them all as one, too.
func TestTwentyThousandConnectionsOfOneClient(t *testing.T) {
	for name, pool := range map[string][]string{"any pool": nil, "one address": {"-c", "198.18.0.1"}} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t, testnet.LabConfig{})
			if err := s.Lab.Clients.Sysctl("net.ipv4.ip_local_port_range", "1024 65535"); err != nil {
				t.Fatal(err)
			}
			online, target := s.serve(port, port)
			copier, responder := s.copies(httpMap, pool...)
			d := s.dialerTo(testnet.OnlineAddr+port, func(int) string { return testnet.ClientAddr(0) })
			stats := s.make(traffic.Load{Name: "short", Clients: 50, Rounds: 400, Requests: 1}, d)
			s.same(online, target)
			s.exact(s.end(copier, responder), stats)
		})
	}
}

// Two clients with the same port, and one address for both of them.
func TestPairsOfClientsThatShareAPortAndAnAddress(t *testing.T) {
	t.Parallel()
	s := newScene(t, testnet.LabConfig{})
	online, target := s.serve(port, port)
	copier, responder := s.copies(httpMap, "-c", "198.18.0.1")
	var locals []string
	for i := range 25 {
		for c := range 2 {
			locals = append(locals, fmt.Sprintf("%s:%d", testnet.ClientAddr(c), 20000+i))
		}
	}
	stats := s.ask("pair", locals, testnet.OnlineAddr+port, 20)
	s.same(online, target)
	s.exact(s.end(copier, responder), stats)
}

// The same port again, as soon as the client can: each connection is its own,
// whatever is still remembered of the one before.
func TestPortIsUsedAgainAtOnce(t *testing.T) {
	t.Parallel()
	s := newScene(t, testnet.LabConfig{})
	online, target := s.serve(port, port)
	copier, responder := s.copies(httpMap, "-c", "198.18.0.1")
	local := testnet.ClientAddr(0) + ":20000"
	const rounds = 100
	load := traffic.Load{Name: "again", Clients: 1, Rounds: rounds, Requests: 2, Reset: true}
	stats := load.Run(t.Context(), func(int) (net.Conn, error) { return s.dialFrom(local, testnet.OnlineAddr+port) })
	if stats.Errors > 0 {
		t.Errorf("clients met errors: %v", stats.FirstError)
	}
	s.same(online, target)
	s.exact(s.end(copier, responder), stats)
}

// Two copiers that see the same clients, as both nodes behind one balancer's
// address do: neither may take the other's flows for its own.
func TestTwoCopiersWithTheSameClients(t *testing.T) {
	t.Parallel()
	s := newScene(t, testnet.LabConfig{})
	online, target := s.serve(port, port)
	copier, responder := s.copies(httpMap)

	report := filepath.Join(s.Dir, "second.json")
	argv := s.Copier("-x", httpMap, "--invite-file", s.InviteFile(), "--report", report)
	other := s.keep(rig.Start(s.Lab.Online, "second copier", argv...))
	if err := other.WaitOutput(s.within(), rig.TunnelUp); err != nil {
		t.Fatal(err)
	}
	if err := responder.WaitOutput(s.within(), "two copiers on one host copy the same"); err != nil {
		t.Error(err)
	}
	stats := mixed(s, s.dialer(port))
	ctx := s.within()
	rig.Until(ctx, func() bool {
		c, n, open := target.Counts()
		return c == 2*int(stats.Connections) && n == 2*int(stats.Requests) && open == 0
	})
	twice := online.Log()
	twice = append(twice, twice...)
	s.compare(twice, target.Log())
	s.stops(other)
	books, err := rig.ReadReport(report)
	if err != nil {
		t.Fatal(err)
	}
	for _, problem := range books.Check() {
		t.Errorf("ledger of the second: %s", problem)
	}
	s.exact(books, stats)
	s.exact(s.end(copier, responder), stats)
}
