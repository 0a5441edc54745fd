//go:build netns

package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"flowtwin/internal/e2e/rig"
	"flowtwin/internal/e2e/traffic"
	"flowtwin/internal/testnet"
)

// mixed is traffic of all kinds, for tests whose point is elsewhere.
func mixed(s *scene, d *traffic.Dialer) traffic.Stats {
	s.t.Helper()
	loads := []traffic.Load{
		{Name: "keepalive", Clients: 20, Rounds: 2, Requests: 100, Rate: 1000},
		{Name: "short", Clients: 10, Rounds: 40, Requests: 1, Rate: 200},
		{Name: "post", Clients: 5, Rounds: 2, Requests: 10, Bodies: []int{1, 1000, 5000, 64 << 10}},
		{Name: "download", Clients: 2, Rounds: 2, Requests: 5, Answer: 300_000},
		{Name: "reset", Clients: 5, Rounds: 4, Requests: 3, Reset: true},
	}
	var mu sync.Mutex
	var all traffic.Stats
	var wg sync.WaitGroup
	for _, l := range loads {
		wg.Go(func() {
			stats := s.make(l, d)
			mu.Lock()
			defer mu.Unlock()
			all.Add(stats)
		})
	}
	wg.Wait()
	return all
}

// httpScene lays out a scene with recording servers on port 80 and starts the
// copying of one to the other.
func httpScene(t *testing.T, cfg testnet.LabConfig) (s *scene, online, target *traffic.Server, end func(traffic.Stats)) {
	t.Helper()
	s = newScene(t, cfg)
	online, target = s.serve(port, port)
	copier, responder := s.copies(httpMap)
	return s, online, target, func(clients traffic.Stats) {
		t.Helper()
		s.same(online, target)
		s.exact(s.end(copier, responder), clients)
	}
}

// The everyday case: browsers' and services' HTTP client, a pool of connections,
// a real web server.
func TestNginxMeetsWhatAGoClientAsked(t *testing.T) {
	s := newScene(t, testnet.LabConfig{})
	_, onlineDir := s.nginx(s.Lab.Online, "nginx-online")
	_, targetDir := s.nginx(s.Lab.Target, "nginx-target")
	copier, responder := s.copies(httpMap)

	d := s.dialer(port)
	const workers, requests = 16, 150
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() { httpClient(t, d, w, requests) })
	}
	wg.Wait()

	s.compareNginx(onlineDir, targetDir, workers*requests)
	s.end(copier, responder)
}

// httpClient makes requests with the standard library's client.
func httpClient(t *testing.T, d *traffic.Dialer, worker, requests int) {
	t.Helper()
	transport := &http.Transport{
		DialContext:     func(context.Context, string, string) (net.Conn, error) { return d.Dial(worker) },
		MaxConnsPerHost: 3,
	}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	body := make([]byte, 20_000)
	_, _ = rand.Read(body)
	for n := range requests {
		url := fmt.Sprintf("http://online/w%d/%d", worker, n)
		var resp *http.Response
		var err error
		switch n % 3 {
		case 0:
			resp, err = client.Post(url, "application/octet-stream", bytes.NewReader(body[:n*100]))
		default:
			resp, err = client.Get(url)
		}
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		if n%20 == 19 {
			transport.CloseIdleConnections()
		}
	}
}

// compareNginx waits until both nginx have logged the requests, and compares.
func (s *scene) compareNginx(onlineDir, targetDir string, requests int) {
	s.t.Helper()
	read := func(dir string) traffic.Log {
		log, err := traffic.NginxLog(dir)
		if err != nil {
			s.t.Fatal(err)
		}
		return log
	}
	for _, dir := range []string{onlineDir, targetDir} {
		rig.Until(s.within(), func() bool { return read(dir).Requests() >= requests })
	}
	online := read(onlineDir)
	if online.Requests() != requests {
		s.t.Errorf("nginx online logged %d requests, clients made %d", online.Requests(), requests)
	}
	s.compare(online, read(targetDir))
}

// Many small commands in one segment, binary values over several segments.
func TestRedisHoldsTheSameAfterPipelines(t *testing.T) {
	s := newScene(t, testnet.LabConfig{})
	s.keep(s.StartRedis(s.within(), s.Lab.Online, "redis-online"))
	s.keep(s.StartRedis(s.within(), s.Lab.Target, "redis-target"))
	const redisPort = ":6379"
	// With a local address: the test's own questions over loopback are not copied.
	copier, responder := s.copies(testnet.OnlineAddr + redisPort + "-" + testnet.TargetAddr + redisPort)

	stats := traffic.RedisLoad{Clients: 20, Pipelines: 60, Depth: 50, MaxValue: 2000}.Run(s.dialer(redisPort).Dial)
	t.Logf("clients: %s", stats)
	if stats.Errors > 0 {
		t.Errorf("clients met errors: %v", stats.FirstError)
	}

	online := traffic.NewRedis(s.dialIn(s.Lab.Online, "127.0.0.1"+redisPort))
	target := traffic.NewRedis(s.dialIn(s.Lab.Target, "127.0.0.1"+redisPort))
	want, err := online.Digest()
	if err != nil {
		t.Fatal(err)
	}
	var got string
	same := rig.Until(s.within(), func() bool {
		if got, err = target.Digest(); err != nil {
			t.Fatal(err)
		}
		return got == want
	})
	if !same {
		diff, err := traffic.CompareRedis(online, target)
		t.Errorf("redis differs: digest %s online, %s at the target (%v)\n%s", want, got, err, traffic.Describe(diff))
	}
	s.exact(s.end(copier, responder), stats)
}

// One segment, many segments, and more than any window or queue holds at once.
func TestBodiesOfEachSizeArriveWhole(t *testing.T) {
	for name, l := range map[string]traffic.Load{
		"1 B":   {Name: "tiny", Clients: 10, Rounds: 2, Requests: 50, Bodies: []int{1}},
		"64 KB": {Name: "middle", Clients: 10, Rounds: 2, Requests: 50, Bodies: []int{64 << 10}, Rate: 1000},
		"1 MB":  {Name: "large", Clients: 10, Rounds: 2, Requests: 10, Bodies: []int{1 << 20}, Rate: 60},
	} {
		t.Run(name, func(t *testing.T) {
			s, _, _, end := httpScene(t, testnet.LabConfig{})
			end(s.make(l, s.dialer(port)))
		})
	}
}

// Every client is slow: state for each has to be kept for long, on both sides.
func TestFiveThousandSlowConnectionsAtATime(t *testing.T) {
	s, online, _, end := httpScene(t, testnet.LabConfig{})
	const clients = 5000
	l := traffic.Load{
		Name: "slow", Clients: clients, Rounds: 1, Requests: 3, Rate: clients * 3 / 12.0,
		Bodies: []int{100}, Pieces: 3, Pause: 300 * time.Millisecond,
	}
	most := 0
	watching, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		rig.Until(watching, func() bool {
			_, _, open := online.Counts()
			most = max(most, open)
			return false
		})
	})
	stats := s.make(l, s.dialer(port))
	stop()
	wg.Wait()
	t.Logf("%d connections at a time", most)
	if most < clients {
		t.Errorf("only %d connections were open at a time, want %d", most, clients)
	}
	end(stats)
}

// Tuples, sessions and table entries come and go at a high rate.
func TestThousandShortConnectionsASecond(t *testing.T) {
	s, _, _, end := httpScene(t, testnet.LabConfig{})
	end(s.make(traffic.Load{Name: "short", Clients: 100, Rounds: 50, Requests: 1, Rate: 1000}, s.dialer(port)))
}

func TestShortConnectionsAsFastAsTheClientsCanGo(t *testing.T) {
	s, _, _, end := httpScene(t, testnet.LabConfig{})
	end(s.make(traffic.Load{Name: "short", Clients: 50, Rounds: 200, Requests: 1}, s.dialer(port)))
}

// Nothing on the online host waits for the copy, so the copy has to keep up.
func TestKeepAliveAsFastAsTheClientsCanGo(t *testing.T) {
	s := newScene(t, testnet.LabConfig{})
	_, onlineDir := s.nginx(s.Lab.Online, "nginx-online")
	_, targetDir := s.nginx(s.Lab.Target, "nginx-target")
	copier, responder := s.copies(httpMap)

	start := time.Now()
	stats := s.make(traffic.Load{Name: "full", Clients: 50, Rounds: 1, Requests: 3000}, s.dialer(port))
	t.Logf("%.0f requests a second", float64(stats.Requests)/time.Since(start).Seconds())
	s.compareNginx(onlineDir, targetDir, int(stats.Requests))
	s.exact(s.end(copier, responder), stats)
}

// lossy is the wire of the issue: 1 % lost, 2 % overtaken by later packets.
func lossy() *testnet.WireConfig {
	return &testnet.WireConfig{Loss: 0.01, Reorder: 0.02, Seed: 7}
}

// What the capture sees is out of order, repeated, and late.
func TestLossOnTheClientsSide(t *testing.T) {
	t.Parallel()
	s, _, _, end := httpScene(t, testnet.LabConfig{ClientWire: lossy()})
	stats := mixed(s, s.dialer(port))
	reportWire(t, s.Lab.ClientWire)
	end(stats)
}

// The tunnel's packets are lost; what it carries must not be.
func TestLossOnTheTunnelsPath(t *testing.T) {
	t.Parallel()
	s, _, _, end := httpScene(t, testnet.LabConfig{TunnelWire: lossy()})
	stats := mixed(s, s.dialer(port))
	reportWire(t, s.Lab.TunnelWire)
	end(stats)
}

func reportWire(t *testing.T, w *testnet.Wire) {
	t.Helper()
	forwarded, lost, late := w.Stats()
	t.Logf("wire: %d packets forwarded, %d lost, %d late", forwarded, lost, late)
	if lost == 0 || late == 0 {
		t.Error("the wire lost or reordered nothing: the test has tested nothing")
	}
}

// With offloads the capture sees merged packets without checksums, else single
// ones.
func TestOffloads(t *testing.T) {
	t.Parallel()
	for name, on := range map[string]bool{"on": true, "off": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, _, _, end := httpScene(t, testnet.LabConfig{})
			for _, ns := range []*testnet.NS{s.Lab.Clients, s.Lab.Online, s.Lab.Target} {
				if err := testnet.SetOffloads(ns, "eth0", on); err != nil {
					t.Fatal(err)
				}
			}
			end(mixed(s, s.dialer(port)))
		})
	}
}

func TestIPv6(t *testing.T) {
	t.Parallel()
	s := newScene(t, testnet.LabConfig{})
	online, target := s.serve(port, port)
	copier, responder := s.copies(httpMap6)
	stats := mixed(s, s.dialerTo("["+testnet.OnlineAddr6+"]"+port, testnet.ClientAddr6))
	s.same(online, target)
	s.exact(s.end(copier, responder), stats)
}

// Clients of one family, a target of the other: dual-stack online servers meet
// both.
func TestClientsOfBothFamiliesToOneTarget(t *testing.T) {
	t.Parallel()
	s, _, _, end := httpScene(t, testnet.LabConfig{})
	four, six := s.dialer(port), s.dialerTo("["+testnet.OnlineAddr6+"]"+port, testnet.ClientAddr6)
	var stats, stats6 traffic.Stats
	var wg sync.WaitGroup
	wg.Go(func() { stats = s.make(traffic.Load{Name: "four", Clients: 5, Rounds: 5, Requests: 20}, four) })
	wg.Go(func() { stats6 = s.make(traffic.Load{Name: "six", Clients: 5, Rounds: 5, Requests: 20}, six) })
	wg.Wait()
	stats.Add(stats6)
	end(stats)
}

// A server that listens on loopback only is the usual one behind a proxy.
func TestTargetOnLoopback(t *testing.T) {
	t.Parallel()
	s := newScene(t, testnet.LabConfig{})
	online, target := s.serve(port, "127.0.0.1:8080")
	copier, responder := s.copies("80-127.0.0.1:8080")
	stats := mixed(s, s.dialer(port))
	s.same(online, target)
	s.exact(s.end(copier, responder), stats)
}
