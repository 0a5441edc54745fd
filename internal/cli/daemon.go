package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
)

// readyEnv tells the process that it is the background half, and on which file
// descriptor its parent waits.
const (
	readyEnv = "FLOWTWIN_DAEMON_READY_FD"
	readyFD  = 3 // the first of exec.Cmd.ExtraFiles
	started  = "started"
)

// Daemonize puts the command into the background. A Go process cannot fork, so
// it runs itself again, in a session of its own and with the same arguments; the
// copy reports over a pipe, so that an error of its start still reaches the
// terminal and the exit code of the first.
//
// In the first process it returns parent true when the copy has started, or the
// copy's error; main exits then. In the copy it returns parent false and ready,
// which must be called once: with nil when the command is up, or with the error
// that ends it. Later calls do nothing.
//
// The copy's stdout and stderr are appended to logFile, where a panic's trace
// ought to be found; "" discards them. The working directory stays, so relative
// paths in the arguments mean the same.
func Daemonize(logFile string) (parent bool, ready func(error), err error) {
	if os.Getenv(readyEnv) != "" {
		ready, err := background()
		return false, ready, err
	}
	return true, nil, foreground(logFile)
}

// background is the copy's half.
func background() (ready func(error), err error) {
	if err := os.Unsetenv(readyEnv); err != nil {
		return nil, err
	}
	syscall.CloseOnExec(readyFD)
	pipe := os.NewFile(readyFD, "ready")
	var once sync.Once
	return func(err error) {
		once.Do(func() {
			text := started
			if err != nil {
				text = err.Error()
			}
			// The parent may have been killed; nobody is left to tell.
			_, _ = io.WriteString(pipe, text)
			_ = pipe.Close()
		})
	}, nil
}

// foreground starts the copy and waits for its word.
func foreground(logFile string) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("daemon: %w", err)
	}
	var out *os.File // nil: /dev/null
	if logFile != "" {
		if out, err = openLog(logFile); err != nil {
			return err
		}
		defer out.Close()
	}
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("daemon: %w", err)
	}
	defer r.Close()
	cmd := exec.Command(self, os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d", readyEnv, readyFD))
	cmd.ExtraFiles = []*os.File{w}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if out != nil {
		cmd.Stdout, cmd.Stderr = out, out
	}
	err = cmd.Start()
	w.Close()
	if err != nil {
		return fmt.Errorf("daemon: %w", err)
	}
	return await(r, cmd)
}

// await reads the copy's word: started, an error's text, or nothing when it died.
func await(r io.Reader, cmd *exec.Cmd) error {
	b, err := io.ReadAll(r)
	if err != nil {
		return fmt.Errorf("daemon: %w", err)
	}
	switch text := strings.TrimSpace(string(b)); text {
	case started:
		return cmd.Process.Release()
	case "":
		return fmt.Errorf("daemon: ended before it had started: %w", cmd.Wait())
	default:
		return errors.New(text)
	}
}
