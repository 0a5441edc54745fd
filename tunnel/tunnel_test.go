package tunnel

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"flowtwin/tunnel/frame"
)

// deadline bounds every wait of these tests; nothing is expected to take long.
const deadline = 20 * time.Second

func testContext(tb testing.TB) context.Context {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), deadline)
	tb.Cleanup(cancel)
	return ctx
}

// checkLeaks fails the test when goroutines of this package or of quic-go are
// left when everything has been closed.
func checkLeaks(tb testing.TB) {
	tb.Helper()
	tb.Cleanup(func() {
		var stacks string
		for end := time.Now().Add(deadline); time.Now().Before(end); {
			<-time.After(time.Millisecond)
			b := make([]byte, 1<<20)
			stacks = ""
			for s := range strings.SplitSeq(string(b[:runtime.Stack(b, true)]), "\n\n") {
				if strings.Contains(s, "quic-go.") || strings.Contains(s, "flowtwin/tunnel.(") {
					stacks += s + "\n\n"
				}
			}
			if stacks == "" {
				return
			}
		}
		tb.Errorf("goroutines left:\n%s", stacks)
	})
}

// A logBuffer collects log lines.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *logBuffer) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// eventually waits until ok says so.
func eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	for end := time.Now().Add(deadline); !ok(); {
		<-time.After(time.Millisecond)
		if time.Now().After(end) {
			tb.Fatalf("%s: did not happen", what)
		}
	}
}

func testIdentity(tb testing.TB) Identity {
	tb.Helper()
	id, err := LoadIdentity(tb.TempDir())
	if err != nil {
		tb.Fatal(err)
	}
	return id
}

func testMaps() []Map {
	return []Map{{Port: 80, Target: netip.MustParseAddrPort("192.0.2.1:80")}}
}

func listen(tb testing.TB, cfg ServerConfig) *Server {
	tb.Helper()
	if cfg.Addr == "" {
		cfg.Addr = "127.0.0.1:0"
	}
	s, err := Listen(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = s.Close() })
	return s
}

func newClient(tb testing.TB, cfg ClientConfig) *Client {
	tb.Helper()
	if cfg.Maps == nil {
		cfg.Maps = testMaps()
	}
	if cfg.Lanes == 0 {
		cfg.Lanes = 1
	}
	c, err := NewClient(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = c.Close() })
	return c
}

// pair connects a copier and a responder.
func pair(tb testing.TB, cfg ClientConfig) (*Client, *Peer) {
	tb.Helper()
	checkLeaks(tb)
	id := testIdentity(tb)
	s := listen(tb, ServerConfig{Identity: id})
	cfg.Invite = id.Invite([]string{s.Addr().String()}, time.Time{})
	c := newClient(tb, cfg)
	if err := c.Connect(testContext(tb)); err != nil {
		tb.Fatal(err)
	}
	p, err := s.Accept(testContext(tb))
	if err != nil {
		tb.Fatal(err)
	}
	for i := range c.cfg.Lanes {
		c.Lane(i).Epoch()
	}
	return c, p
}

// readFrames reads n frames of a lane.
func readFrames(tb testing.TB, l *PeerLane, n int) (types []frame.Type, payload []byte) {
	tb.Helper()
	for len(types) < n {
		b, err := l.Read()
		if err != nil {
			tb.Fatalf("read after %d of %d frames: %v", len(types), n, err)
		}
		for len(b) > 0 {
			typ, _, body, rest, err := frame.Next(b)
			if err != nil {
				tb.Fatal(err)
			}
			types = append(types, typ)
			if typ == frame.TypeData {
				d, _ := frame.ParseData(body)
				payload = append(payload, d.Payload...)
			}
			b = rest
		}
	}
	return types, payload
}

func TestFramesArrive(t *testing.T) {
	for _, tt := range []struct {
		name               string
		lanes, connections int
	}{{"one lane", 1, 1}, {"five lanes", 5, 1}, {"four connections", 6, 4}} {
		t.Run(tt.name, func(t *testing.T) {
			c, p := pair(t, ClientConfig{Lanes: tt.lanes, Connections: tt.connections, Name: "online", Version: "v1"})
			if h := p.Hello(); h.Name != "online" || h.Version != "v1" || h.Lanes != tt.lanes || len(h.Maps) != 1 || h.Maps[0] != testMaps()[0] {
				t.Errorf("hello = %+v", h)
			}
			for i := range tt.lanes {
				l := c.Lane(i)
				want := bytes.Repeat([]byte{byte(i + 1)}, 300)
				ok := l.Open(7, &frame.Open{MSS: 1460}) && l.Data(7, 1, 2, want) && l.Fin(7, 1, false) && l.Reset(8, 1) && l.Abort(9, frame.AbortIdle)
				if !ok {
					t.Fatalf("lane %d: a frame was refused", i)
				}
				l.Flush()
				types, payload := readFrames(t, p.Lane(i), 5)
				if got := len(types); got != 5 || types[0] != frame.TypeOpen || types[4] != frame.TypeAbort {
					t.Errorf("lane %d: frames %v", i, types)
				}
				if !bytes.Equal(payload, want) {
					t.Errorf("lane %d: payload %x…", i, payload[:min(8, len(payload))])
				}
			}
			if st := c.Stats(); !st.Up || st.Connects != 1 || st.BytesSent == 0 || st.Remote == "" {
				t.Errorf("stats = %+v", st)
			}
		})
	}
}

// Super-packets are longer than the lane's chunks, and the responder's first
// buffer: order and content must survive being cut and joined.
func TestLargePayloads(t *testing.T) {
	c, p := pair(t, ClientConfig{})
	l := c.Lane(0)
	var want []byte
	sizes := []int{1, 20_000, 64 << 10, frame.MaxPayload, 0, 40_000, 1448, frame.MaxPayload - 1}
	for i, n := range sizes {
		b := bytes.Repeat([]byte{byte('a' + i)}, n)
		for !l.Data(uint32(i), 0, 0, b) {
			runtime.Gosched()
		}
		want = append(want, b...)
	}
	l.Flush()
	if _, got := readFrames(t, p.Lane(0), len(sizes)); !bytes.Equal(got, want) {
		t.Errorf("%d bytes arrived changed, %d were sent", len(got), len(want))
	}
	if l.Data(0, 0, 0, make([]byte, frame.MaxPayload+1)) {
		t.Error("a payload beyond MaxPayload was taken")
	}
}

func TestFinish(t *testing.T) {
	c, p := pair(t, ClientConfig{Lanes: 2})
	account := frame.AppendClosed(nil, 1, &frame.Closed{How: frame.ClosedBoth, DeliveredBytes: 3})
	for i := range 2 {
		l := c.Lane(i)
		l.Open(1, &frame.Open{})
		l.Data(1, 0, 0, []byte("abc"))
		l.Fin(1, 0, false)
		l.Flush()
	}
	finished := make(chan error, 1)
	go func() { finished <- c.Finish(testContext(t)) }()
	for i := range 2 {
		readFrames(t, p.Lane(i), 3)
		if _, err := p.Lane(i).Read(); !errors.Is(err, io.EOF) {
			t.Fatalf("lane %d: after Bye: %v, want EOF", i, err)
		}
		select {
		case err := <-finished:
			t.Fatalf("finished (%v) before lane %d said ReturnBye", err, i)
		default:
		}
		p.Lane(i).Return(account, true, false)
		p.Lane(i).Return(frame.AppendEmpty(nil, frame.TypeReturnBye, 0), true, true)
	}
	if err := <-finished; err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		l := c.Lane(i)
		if l.Data(1, 0, 0, nil) || l.Fin(1, 0, false) {
			t.Error("frames are taken after Bye")
		}
		if !l.Up() {
			t.Error("the lane went down by Finish: its accounts would be given up")
		}
		got, epoch := l.Returns()
		want := frame.AppendEmpty(bytes.Clone(account), frame.TypeReturnBye, 0)
		if !bytes.Equal(got, want) || epoch != 1 {
			t.Errorf("lane %d: returns %x of epoch %d, want %x of 1", i, got, epoch, want)
		}
	}
}
