package ctl

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// socket returns a path short enough for a socket.
func socket(t *testing.T) string {
	t.Helper()
	t.Chdir(t.TempDir())
	return "s"
}

func serve(t *testing.T, path string, table Table) *Server {
	t.Helper()
	s, err := Listen(t.Context(), path, table, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func echo() Table {
	return Table{
		"echo": {Args: "WORD...", Help: "say it again", Max: 3, Do: func(_ context.Context, args []string) (any, error) {
			return strings.Join(args, " "), nil
		}},
		"figures": {Do: func(context.Context, []string) (any, error) { return map[string]int{"flows": 7}, nil }},
		"fail":    {Do: func(context.Context, []string) (any, error) { return nil, errors.New("250 is not a percentage") }},
	}
}

func TestMainCallsOperations(t *testing.T) {
	path := socket(t)
	serve(t, path, echo())
	tests := []struct {
		args           string
		code           int
		stdout, stderr string
	}{
		{"--control " + path + " echo a b", 0, "a b\n", ""},
		{"--control=" + path + " figures", 0, "{\n  \"flows\": 7\n}\n", ""},
		{"--control " + path + " fail", 1, "", "x ctl: fail: 250 is not a percentage\n"},
		{"--control " + path + " echo 1 2 3 4", 1, "", "x ctl: echo: 4 arguments; usage: echo WORD...\n"},
		{"--control " + path + " nothing", 1, "", "x ctl: nothing: no such operation; there are: echo, fail, figures, help\n"},
		{"--control " + path, 2, "", "x ctl: no operation given; see \"help\"\n"},
		{"--control " + path + "x echo", 1, "", "no control socket at " + path + "x"},
		{"--help", 0, "Usage: x ctl", ""},
		{"echo", 2, "", "--control: give the path"},
	}
	for _, tt := range tests {
		var stdout, stderr strings.Builder
		code := Main(t.Context(), "x", strings.Fields(tt.args), func(string) string { return "" }, &stdout, &stderr)
		if code != tt.code || !strings.Contains(stdout.String(), tt.stdout) || !strings.Contains(stderr.String(), tt.stderr) {
			t.Errorf("%s: code %d, stdout %q, stderr %q", tt.args, code, &stdout, &stderr)
		}
	}
	var stdout strings.Builder
	if code := Main(t.Context(), "x", []string{"help"}, func(string) string { return path }, &stdout, io.Discard); code != 0 ||
		!strings.Contains(stdout.String(), "echo WORD...                 say it again") {
		t.Errorf("help: code %d, %q", code, &stdout)
	}
}

// What an operation changes must not be open to every user of the host.
func TestSocketIsTheOwnersAlone(t *testing.T) {
	path := socket(t)
	s := serve(t, path, echo())
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is left behind: %v", err)
	}
}

// A killed process leaves its socket; the next one must start all the same, and
// neither must take the socket of one that lives, or a file.
func TestListenReplacesOnlyDeadSockets(t *testing.T) {
	path := socket(t)
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	_ = dead.Close()
	if _, err := Call(t.Context(), path, "echo"); err == nil || !strings.Contains(err.Error(), "has been killed") {
		t.Errorf("call of a dead one: %v", err)
	}
	serve(t, path, echo())
	if _, err := Listen(t.Context(), path, echo(), slog.Default()); err == nil || !strings.Contains(err.Error(), "another process listens") {
		t.Errorf("second Listen: %v", err)
	}
	if _, err := Call(t.Context(), path, "echo"); err != nil {
		t.Errorf("the first is disturbed: %v", err)
	}
	file := filepath.Join(filepath.Dir(path), "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(t.Context(), file, echo(), slog.Default()); err == nil {
		t.Error("Listen took over a file")
	}
	if b, _ := os.ReadFile(file); string(b) != "precious" {
		t.Errorf("the file holds %q", b)
	}
}

// Operations change one state: two at once would need locks in all of them.
func TestOperationsRunOneAtATime(t *testing.T) {
	path := socket(t)
	var running, most atomic.Int32
	serve(t, path, Table{"count": {Do: func(context.Context, []string) (any, error) {
		n := running.Add(1)
		most.Store(max(most.Load(), n))
		running.Add(-1)
		return n, nil
	}}})
	var wg sync.WaitGroup
	for range 2 * maxConns { // more than are served at once
		wg.Go(func() {
			for range 20 {
				if _, err := Call(t.Context(), path, "count"); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if n := most.Load(); n != 1 {
		t.Errorf("%d operations at once", n)
	}
}

// The operation that ends the process must be answered: who asked would take it
// for a failure.
func TestCloseAnswersWhatRuns(t *testing.T) {
	path := socket(t)
	began := make(chan struct{})
	s := serve(t, path, Table{"stop": {Do: func(ctx context.Context, _ []string) (any, error) {
		close(began)
		<-ctx.Done()
		return "stopped", nil
	}}})
	go func() {
		<-began
		_ = s.Close()
	}()
	if r, err := Call(t.Context(), path, "stop"); err != nil || string(r) != `"stopped"` {
		t.Errorf("%s, %v", r, err)
	}
}

// A client may be anything that can open the socket.
func TestServeSurvivesNonsense(t *testing.T) {
	path := socket(t)
	serve(t, path, echo())
	for _, text := range []string{"hello\n", "{}\n", `{"op":7}` + "\n", strings.Repeat("x", maxLine+1) + "\n", "\n"} {
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(conn, text)
		line, err := bufio.NewReader(conn).ReadString('\n')
		if err != nil || !strings.HasPrefix(line, `{"error":`) {
			t.Errorf("%.20q: %q, %v", text, line, err)
		}
		_ = conn.Close()
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_, _ = io.WriteString(conn, `{"op":"echo","args":["a"]}`+"\n"+`{"op":"echo","args":["b"]}`+"\n")
	lines := bufio.NewReader(conn)
	for _, want := range []string{"{\"result\":\"a\"}\n", "{\"result\":\"b\"}\n"} {
		if line, err := lines.ReadString('\n'); line != want {
			t.Errorf("%q, %v; want %q", line, err, want)
		}
	}
}

// Whoever wants to stop a command must not wait for those who only hold the line.
func TestIdleClientsAreHurriedWhenOthersWait(t *testing.T) {
	path := socket(t)
	serve(t, path, echo())
	for range 3 * maxConns {
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience) // of the first sixteen alone
	defer cancel()
	if _, err := Call(ctx, path, "echo", "stop"); err != nil {
		t.Error(err)
	}
}

// A server that turns a client away may have gone before the client has asked.
func TestRefusalIsRead(t *testing.T) {
	path := socket(t)
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		_ = write(conn, response{Error: "user 65534 may not control this process"})
		_ = conn.Close()
	}()
	// So much does not fit into the socket: the write fails.
	if _, err := Call(t.Context(), path, "echo", strings.Repeat("x", 1<<20)); err == nil || !strings.Contains(err.Error(), "user 65534") {
		t.Errorf("error %v", err)
	}
}

// Who reads the log must see what was asked for, and an error only where one is.
func TestServerLogsOperations(t *testing.T) {
	var log bytes.Buffer
	path := socket(t)
	s, err := Listen(t.Context(), path, echo(), slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"echo", "add", "82"}, {"fail"}} {
		Main(t.Context(), "x", append([]string{"--control", path}, args...), func(string) string { return "" }, io.Discard, io.Discard)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(log.String(), "\n")
	if len(lines) != 3 || !strings.HasSuffix(lines[0], `level=INFO msg=control op="echo add 82"`) ||
		!strings.HasSuffix(lines[1], `level=INFO msg=control op=fail err="fail: 250 is not a percentage"`) {
		t.Errorf("log:\n%s", log.String())
	}
}
