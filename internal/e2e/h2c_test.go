//go:build netns

package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/h2c" //nolint:staticcheck // net/http itself cannot be upgraded
	"golang.org/x/net/http2/hpack"

	"flowtwin/internal/e2e/rig"
	"flowtwin/internal/testnet"
)

// An h2cServer writes down the requests that it gets, with their protocol.
type h2cServer struct {
	pause time.Duration
	mu    sync.Mutex
	got   []string
}

func (h *h2cServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	h.mu.Lock()
	h.got = append(h.got, fmt.Sprintf("%s %s %d", r.Proto, r.URL.Path, len(body)))
	h.mu.Unlock()
	<-time.After(h.pause)
	_, _ = fmt.Fprintf(w, "answer to %s", r.URL.Path)
}

func (h *h2cServer) log() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Sorted(slices.Values(h.got))
}

// serveH2C starts a server that can be upgraded to HTTP/2.
func (s *scene) serveH2C(ns *testnet.NS, pause time.Duration) *h2cServer {
	s.t.Helper()
	h := &h2cServer{pause: pause}
	ln := ns.Listen(s.t, port)
	srv := &http.Server{Handler: h2c.NewHandler(h, new(http2.Server)), ReadHeaderTimeout: time.Minute} //nolint:staticcheck // as above
	var done sync.WaitGroup
	done.Go(func() { _ = srv.Serve(ln) })
	s.t.Cleanup(func() { _ = srv.Close(); done.Wait() })
	return h
}

// A connection begins with HTTP/1, is upgraded to HTTP/2, and carries many requests
// at a time then: the preface may not come before the target has agreed.
func TestUpgradeToHTTP2(t *testing.T) {
	t.Parallel()
	s := newScene(t, testnet.LabConfig{})
	online, target := s.serveH2C(s.Lab.Online, 0), s.serveH2C(s.Lab.Target, 20*time.Millisecond)
	copier, responder := s.copies(httpMap)
	const clients, streams = 3, 20
	arrived := func() bool { return len(target.log()) >= clients*(1+streams) }
	stats := s.users(clients, s.dialer(port), func(i int, u *user) error {
		if err := u.upgrade(fmt.Sprintf("/%d/first", i)); err != nil {
			return err
		}
		if err := u.streams(streams, func(n int) string { return fmt.Sprintf("/%d/%d", i, n) }); err != nil {
			return err
		}
		if !rig.Until(s.within(), arrived) {
			return fmt.Errorf("target got %d requests", len(target.log()))
		}
		return nil
	})
	if want, got := online.log(), target.log(); !slices.Equal(want, got) {
		t.Errorf("online got %q, target %q", want, got)
	}
	report := s.end(copier, responder)
	s.exact(report, stats)
	s.noneHeldToTheEnd(report)
}

// upgrade sends a first request that is answered in HTTP/2.
func (u *user) upgrade(path string) error {
	if err := u.tell("GET %s HTTP/1.1\r\nHost: online\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n", path); err != nil {
		return err
	}
	if err := u.hear("HTTP/1.1 101 Switching Protocols\r\n"); err != nil {
		return err
	}
	for line := ""; line != "\r\n"; {
		var err error
		if line, err = u.br.ReadString('\n'); err != nil {
			return err
		}
	}
	return u.tell("%s", http2.ClientPreface)
}

// streams makes n requests at a time, and reads the answers to them and to the
// first.
func (u *user) streams(n int, path func(int) string) error {
	var out, head bytes.Buffer
	fr, enc := http2.NewFramer(&out, u.br), hpack.NewEncoder(&head)
	errs := []error{fr.WriteSettings()}
	for i := range n {
		head.Reset()
		for _, f := range [][2]string{{":method", "POST"}, {":scheme", "http"}, {":path", path(i)}, {":authority", "online"}} {
			errs = append(errs, enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}))
		}
		id := uint32(3 + 2*i)
		errs = append(errs, fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: head.Bytes(), EndHeaders: true}),
			fr.WriteData(id, true, bytes.Repeat([]byte("x"), 100*i)))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := u.tell("%s", out.String()); err != nil {
		return err
	}
	for ended := 0; ended < n+1; {
		f, err := fr.ReadFrame()
		if err != nil {
			return err
		}
		if f.Header().Flags.Has(http2.FlagDataEndStream) && (f.Header().Type == http2.FrameData || f.Header().Type == http2.FrameHeaders) {
			ended++
		}
		if f, ok := f.(*http2.SettingsFrame); ok && !f.IsAck() {
			out.Reset()
			if err := errors.Join(fr.WriteSettingsAck(), u.tell("%s", out.String())); err != nil {
				return err
			}
		}
	}
	return nil
}
