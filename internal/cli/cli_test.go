package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// daemonEnv makes the test binary play a command that daemonizes, see TestMain.
const daemonEnv = "FLOWTWIN_TEST_DAEMON"

func TestMain(m *testing.M) {
	mode := os.Getenv(daemonEnv)
	if mode == "" {
		m.Run()
		return
	}
	os.Exit(play(mode)) //nolint:forbidigo // this is the main of the command that is played
}

// play is a command in the given mode; it returns the exit code.
func play(mode string) int {
	if mode == "stop" {
		ctx, _, stop := Signals(context.Background())
		defer stop()
		fmt.Fprintln(os.Stdout, "started")
		<-ctx.Done()
		if _, err := fmt.Fprintln(os.Stdout, "the ledger"); err == nil {
			return 4 // the pipe was still read
		}
		return 0
	}
	parent, ready, err := Daemonize(os.Getenv("FLOWTWIN_TEST_LOG"))
	if parent || err != nil {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 3
		}
		return 0
	}
	switch mode {
	case "ok":
		fmt.Fprintln(os.Stdout, "in the background")
		ready(nil)
	case "error":
		ready(errors.New("port is taken"))
	case "die":
		return 7
	}
	return 0
}

// A start that goes wrong in the background must be seen at the terminal.
func TestDaemonizeTellsHowTheStartWent(t *testing.T) {
	tests := []struct {
		mode, stderr string
		code         int
	}{
		{"ok", "", 0},
		{"error", "port is taken", 3},
		{"die", "exit status 7", 3},
	}
	for _, tt := range tests {
		t.Run(tt.mode, func(t *testing.T) {
			log := filepath.Join(t.TempDir(), "log")
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), daemonEnv+"="+tt.mode, "FLOWTWIN_TEST_LOG="+log)
			var stderr strings.Builder
			cmd.Stderr = &stderr
			if err := cmd.Run(); err != nil && tt.code == 0 {
				t.Fatal(err)
			}
			if got := cmd.ProcessState.ExitCode(); got != tt.code {
				t.Errorf("exit code %d, want %d (%s)", got, tt.code, &stderr)
			}
			if !strings.Contains(stderr.String(), tt.stderr) {
				t.Errorf("stderr %q, want %q in it", &stderr, tt.stderr)
			}
			if b, _ := os.ReadFile(log); tt.mode == "ok" && string(b) != "in the background\n" {
				t.Errorf("log holds %q", b)
			}
		})
	}
}

func TestWritePid(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pid")
	remove, err := WritePid(file)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != fmt.Sprintln(os.Getpid()) {
		t.Errorf("file holds %q (%v), want %d", b, err, os.Getpid())
	}
	if err := remove(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("file is still there: %v", err)
	}
}

// Two daemons with one pid file: the second must not take over the first one's.
func TestWritePidRefusesTheOwnersFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pid")
	remove, err := WritePid(file)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := WritePid(file); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("process %d is running", os.Getpid())) {
		t.Errorf("the second start got %v", err)
	}
	if b, _ := os.ReadFile(file); string(b) != fmt.Sprintln(os.Getpid()) {
		t.Errorf("the second start left %q", b)
	}
	if err := remove(); err != nil {
		t.Error(err)
	}
	if remove, err = WritePid(file); err != nil {
		t.Fatalf("after the first has gone: %v", err)
	}
	if err := remove(); err != nil {
		t.Error(err)
	}
}

// After a crash and a reboot the number in the file may be that of any process.
func TestWritePidReplacesReusedNumber(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pid")
	if err := os.WriteFile(file, fmt.Appendf(nil, "%d\n and more text\n", os.Getppid()), 0o644); err != nil {
		t.Fatal(err)
	}
	remove, err := WritePid(file)
	if err != nil {
		t.Fatalf("stale pid file: %v", err)
	}
	if b, _ := os.ReadFile(file); string(b) != fmt.Sprintln(os.Getpid()) {
		t.Errorf("file holds %q", b)
	}
	if err := remove(); err != nil {
		t.Error(err)
	}
}

func TestLogger(t *testing.T) {
	file := filepath.Join(t.TempDir(), "log")
	for range 2 { // the second run appends
		log, c, err := Logger(true, file)
		if err != nil {
			t.Fatal(err)
		}
		log.Info("hello", "flow", 7)
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	var rec map[string]any
	if len(lines) != 2 || json.Unmarshal([]byte(lines[1]), &rec) != nil || rec["flow"] != 7.0 {
		t.Errorf("log holds %q", b)
	}
	if _, _, err := Logger(false, filepath.Join(file, "below")); err == nil {
		t.Error("opened a log below a file")
	}
}

func TestSignals(t *testing.T) {
	heed(syscall.SIGHUP) // the tests may run under nohup
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP} {
		ctx, status, stop := Signals(context.Background())
		raise(t, syscall.SIGUSR1)
		<-status
		if ctx.Err() != nil {
			t.Fatal("SIGUSR1 stopped the command")
		}
		raise(t, sig)
		<-ctx.Done()
		raise(t, syscall.SIGHUP) // a terminal's end sends it twice: the second must not kill
		raise(t, syscall.SIGUSR1)
		<-status
		stop()
	}
}

// nohup's commands outlive their terminal.
func TestSignalsUnderNohup(t *testing.T) {
	signal.Ignore(syscall.SIGHUP)
	defer heed(syscall.SIGHUP)
	ctx, status, stop := Signals(context.Background())
	defer stop()
	raise(t, syscall.SIGHUP)
	raise(t, syscall.SIGUSR1)
	<-status
	if ctx.Err() != nil {
		t.Error("SIGHUP stopped a command that ignores it")
	}
}

// Ctrl-C, and the end of a terminal, end what reads the output, too, such as tee: the
// command must come to its end all the same, to write its report.
func TestStopWithoutAReader(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), daemonEnv+"=stop")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(out.Close(), cmd.Process.Signal(syscall.SIGTERM), cmd.Wait()); err != nil {
		t.Error(err)
	}
}

// heed undoes signal.Ignore, which signal.Reset does not.
func heed(sig os.Signal) {
	c := make(chan os.Signal, 1)
	signal.Notify(c, sig)
	signal.Stop(c)
}

func raise(t *testing.T, sig syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(os.Getpid(), sig); err != nil {
		t.Fatal(err)
	}
}
