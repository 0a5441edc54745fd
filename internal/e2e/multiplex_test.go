//go:build netns

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"flowtwin/internal/e2e/rig"
	"flowtwin/internal/e2e/traffic"
	"flowtwin/internal/testnet"
)

// An h2Server speaks HTTP/2 with prior knowledge and records what it is asked.
type h2Server struct {
	http http.Server

	mu    sync.Mutex
	asked []string
}

// serveH2 starts a server in ns that answers after a pause: streams overtake each
// other.
func (s *scene) serveH2(ns *testnet.NS, addr string, pause time.Duration) *h2Server {
	s.t.Helper()
	srv := &h2Server{}
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	srv.http = http.Server{
		Protocols: &protocols, ReadHeaderTimeout: patience,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			srv.mu.Lock()
			srv.asked = append(srv.asked, fmt.Sprintf("%s %s %d %s %v", r.Method, r.URL.Path, len(body), digest(body), err))
			srv.mu.Unlock()
			<-time.After(pause)
			_, _ = w.Write(bytes.Repeat([]byte("a"), 5000))
		}),
	}
	ln := ns.Listen(s.t, addr)
	var done sync.WaitGroup
	done.Go(func() { _ = srv.http.Serve(ln) })
	s.t.Cleanup(func() {
		_ = srv.http.Close()
		done.Wait()
	})
	return srv
}

func (srv *h2Server) log() []string {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	return slices.Sorted(slices.Values(srv.asked))
}

// counted counts what is written to a connection.
type counted struct {
	net.Conn
	sent func(int)
}

func (c counted) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.sent(n)
	return n, err
}

// counting is d's Dial that adds up what is done with its connections.
func counting(d *traffic.Dialer, stats *traffic.Stats, mu *sync.Mutex) func(client int) (net.Conn, error) {
	return func(client int) (net.Conn, error) {
		conn, err := d.Dial(client)
		if err != nil {
			return nil, err
		}
		mu.Lock()
		defer mu.Unlock()
		stats.Connections++
		return counted{conn, func(n int) {
			mu.Lock()
			defer mu.Unlock()
			stats.Sent += int64(n)
		}}, nil
	}
}

// Many requests share a connection, and an acknowledgement of one answer's bytes
// says nothing about the others: nothing may wait long for what never comes.
func TestHTTP2PriorKnowledge(t *testing.T) {
	t.Parallel()
	for name, pause := range map[string]time.Duration{"target as online": 10 * time.Millisecond, "target slower": 200 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, testnet.LabConfig{})
			online := s.serveH2(s.Lab.Online, port, 10*time.Millisecond)
			target := s.serveH2(s.Lab.Target, port, pause)
			copier, responder := s.copies(httpMap)
			const clients, streams, requests = 4, 20, 20
			var mu sync.Mutex
			var stats traffic.Stats
			dial := counting(s.dialer(port), &stats, &mu)
			var wg sync.WaitGroup
			for c := range clients {
				var protocols http.Protocols
				protocols.SetUnencryptedHTTP2(true)
				transport := &http.Transport{
					Protocols:   &protocols,
					DialContext: func(context.Context, string, string) (net.Conn, error) { return dial(c) },
				}
				client := &http.Client{Transport: transport}
				// A connection that is there already is used by all.
				h2Requests(t, client, fmt.Sprintf("http://online/%d/first", c), 1)
				var of sync.WaitGroup
				for w := range streams {
					of.Go(func() { h2Requests(t, client, fmt.Sprintf("http://online/%d/%d", c, w), requests) })
				}
				wg.Go(func() {
					of.Wait()
					transport.CloseIdleConnections()
				})
			}
			wg.Wait()
			rig.Until(s.within(), func() bool { return len(target.log()) >= clients*(streams*requests+1) })
			if want, got := online.log(), target.log(); !slices.Equal(want, got) {
				t.Errorf("online was asked %d times, target %d times", len(want), len(got))
			}
			report := s.end(copier, responder)
			mu.Lock() // a transport may end behind its client
			defer mu.Unlock()
			s.exact(report, stats)
			t.Logf("%d connections; %d turns, %d released by --max-hold; lag %v", stats.Connections, report.Answers.Turns, report.Answers.HeldMax, report.Lag)
			if report.Answers.HeldMax*10 > report.Answers.Turns {
				t.Errorf("%d of %d turns were released by --max-hold", report.Answers.HeldMax, report.Answers.Turns)
			}
		})
	}
}

func h2Requests(t *testing.T, client *http.Client, url string, n int) {
	t.Helper()
	for i := range n {
		var resp *http.Response
		var err error
		if i%3 == 0 {
			resp, err = client.Post(fmt.Sprintf("%s/%d", url, i), "text/plain", bytes.NewReader(bytes.Repeat([]byte("b"), 7000)))
		} else {
			resp, err = client.Get(fmt.Sprintf("%s/%d", url, i))
		}
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
	}
}
