package traffic_test

import (
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"flowtwin/internal/e2e/traffic"
)

func conversation(paths ...string) traffic.Conversation {
	var c traffic.Conversation
	for _, p := range paths {
		c = append(c, traffic.Request{Method: "GET", Path: p, Bytes: 1, Sum: "s"})
	}
	return c
}

func TestCompare(t *testing.T) {
	changed := conversation("/b/1", "/b/2")
	changed[1].Sum = "other"
	online := traffic.Log{conversation("/a/1", "/a/2"), conversation("/b/1", "/b/2"), conversation()}
	tests := []struct {
		name   string
		target traffic.Log
		want   []string // in the differences, one each
	}{
		{"the same", online, nil},
		{"other order of connections", traffic.Log{online[2], online[1], online[0]}, nil},
		{
			"a request missing at the end",
			traffic.Log{online[0][:1], online[1], online[2]},
			[]string{"4 requests, target 3", "first 1 of 2"},
		},
		{"requests in another order", traffic.Log{{online[0][1], online[0][0]}, online[1], online[2]}, []string{
			"/a/1: only online", "/a/2: only at the target",
		}},
		{"another body", traffic.Log{online[0], changed, online[2]}, []string{"sum other"}},
		{
			"a connection twice",
			traffic.Log{online[0], online[0], online[1], online[2]},
			[]string{"3 connections, target 4", "4 requests, target 6", "/a/1: only at the target"},
		},
		{
			"requests split over two connections",
			traffic.Log{online[0][:1], online[0][1:], online[1], online[2]},
			[]string{"3 connections, target 4", "first 1 of 2", "/a/2: only at the target"},
		},
		{"an empty connection missing", online[:2], []string{"3 connections, target 2", "without requests"}},
		{
			"a request more",
			traffic.Log{append(conversation("/a/1", "/a/2"), changed[1]), online[1], online[2]},
			[]string{"4 requests, target 5", "1 more than the 2"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := traffic.Compare(online, tt.target)
			if len(got) != len(tt.want) {
				t.Fatalf("differences:\n%s\nwant %d", traffic.Describe(got), len(tt.want))
			}
			for i, want := range tt.want {
				if !strings.Contains(got[i], want) {
					t.Errorf("difference %d is %q, want %q in it", i, got[i], want)
				}
			}
		})
	}
}

// serve starts a server on loopback.
func serve(t *testing.T) (*traffic.Server, traffic.Dial) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := traffic.Serve(ln)
	t.Cleanup(func() { _ = s.Close() })
	return s, func(int) (net.Conn, error) { return net.Dial("tcp", ln.Addr().String()) }
}

// The records are what everything is judged by: the same clients leave the same
// records at two servers, and other ones do not.
func TestServersRecordWhatClientsSend(t *testing.T) {
	loads := []traffic.Load{
		{Name: "get", Clients: 3, Rounds: 2, Requests: 4},
		{Name: "post", Clients: 2, Rounds: 2, Requests: 3, Bodies: []int{1, 70_000}, Answer: 10_000},
		{Name: "slow", Clients: 2, Rounds: 1, Requests: 2, Rate: 1000, Bodies: []int{10}, Pieces: 3, Pause: time.Millisecond},
	}
	a, dialA := serve(t)
	b, dialB := serve(t)
	var stats traffic.Stats
	for _, l := range loads {
		stats.Add(l.Run(t.Context(), dialA))
		l.Run(t.Context(), dialB)
	}
	if stats.Errors > 0 || stats.Connections != 12 || stats.Requests != 24+12+4 {
		t.Errorf("clients: %s", stats)
	}
	if n := a.Log().Requests(); n != 40 {
		t.Errorf("server recorded %d requests, want 40", n)
	}
	if diff := traffic.Compare(a.Log(), b.Log()); len(diff) > 0 {
		t.Errorf("records of the same loads differ:\n%s", traffic.Describe(diff))
	}
	traffic.Load{Name: "more", Clients: 1, Rounds: 1, Requests: 1}.Run(t.Context(), dialB)
	if diff := traffic.Compare(a.Log(), b.Log()); len(diff) != 3 {
		t.Errorf("one connection more, differences:\n%s", traffic.Describe(diff))
	}
}

func TestLoadEndsWithItsContext(t *testing.T) {
	_, dial := serve(t)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if stats := (traffic.Load{Name: "endless", Clients: 2}).Run(ctx, dial); stats.Errors > 0 || stats.Requests == 0 {
		t.Errorf("clients: %s", stats)
	}
}

// Clients that meet errors must say so, or a test is green for nothing.
func TestClientsCountErrors(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Write([]byte("HTTP/1.1 500 Broken\r\nContent-Length: 0\r\n\r\n"))
			_ = conn.Close()
		}
	}()
	l := traffic.Load{Name: "broken", Clients: 2, Rounds: 1, Requests: 1}
	stats := l.Run(t.Context(), func(int) (net.Conn, error) { return net.Dial("tcp", ln.Addr().String()) })
	if stats.Errors != 2 || stats.FirstError == nil {
		t.Errorf("clients: %s", stats)
	}
}

func TestNginxLog(t *testing.T) {
	dir := t.TempDir()
	write := func(text string) {
		if err := os.WriteFile(filepath.Join(dir, "access.log"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("5 1 100 GET /a\n7 1 200 POST /b\n5 2 100 GET /c\n5 3 1")
	log, err := traffic.NginxLog(dir)
	if err != nil {
		t.Fatal(err)
	}
	want := traffic.Log{
		{{Method: "GET", Path: "/a", Bytes: 100}, {Method: "GET", Path: "/c", Bytes: 100}},
		{{Method: "POST", Path: "/b", Bytes: 200}},
	}
	if diff := traffic.Compare(want, log); len(diff) > 0 {
		t.Errorf("log read wrongly:\n%s", traffic.Describe(diff))
	}
	write("5 1 100 GET /a\n5 3 100 GET /c\n")
	if _, err := traffic.NginxLog(dir); err == nil {
		t.Error("a log without a connection's second request is accepted")
	}
}

func TestServerTellsBodiesOfOneSizeApart(t *testing.T) {
	var sums []string
	for _, body := range []string{"one", "two"} {
		s, dial := serve(t)
		conn, err := dial(0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write([]byte("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nConnection: close\r\n\r\n" + body)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, conn); err != nil {
			t.Fatal(err)
		}
		_ = conn.Close()
		log := s.Log()
		if log.Requests() != 1 {
			t.Fatalf("log holds %v, want one request", log)
		}
		sums = append(sums, log[0][0].Sum)
	}
	if sums[0] == sums[1] {
		t.Errorf("both bodies have the sum %q", sums[0])
	}
}
