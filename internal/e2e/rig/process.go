// Package rig starts the product's binaries, and servers for them to copy
// between, on the hosts of a [testnet.Lab].
package rig

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"

	"flowtwin/internal/testnet"
)

// A Process is a program that was started in a namespace. What it prints is kept.
type Process struct {
	Name string

	cmd  *exec.Cmd
	done chan struct{} // closed when the program has ended
	err  error         // of Wait; read after done

	mu     sync.Mutex
	all    bytes.Buffer // stdout and stderr as they came
	stdout bytes.Buffer
	wrote  chan struct{} // closed and renewed at each write
}

// Start starts a program in ns. Its standard input is empty.
func Start(ns *testnet.NS, name string, argv ...string) (*Process, error) {
	return StartEnv(ns, nil, name, argv...)
}

// StartEnv is Start with additional environment variables (key=value).
func StartEnv(ns *testnet.NS, env []string, name string, argv ...string) (*Process, error) {
	p := &Process{Name: name, done: make(chan struct{}), wrote: make(chan struct{})}
	p.cmd = ns.Command(argv[0], argv[1:]...)
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr = sink{p, true}, sink{p, false}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// sink takes what the program prints.
type sink struct {
	p      *Process
	stdout bool
}

func (s sink) Write(b []byte) (int, error) {
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	close(s.p.wrote)
	s.p.wrote = make(chan struct{})
	if s.stdout {
		s.p.stdout.Write(b)
	}
	return s.p.all.Write(b)
}

// Pid returns the program's process number.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Output returns what the program has printed so far, stdout and stderr together.
func (p *Process) Output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.all.String()
}

// Stdout returns what the program has printed to stdout so far.
func (p *Process) Stdout() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stdout.String()
}

// Done is closed when the program has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Signal sends a signal.
func (p *Process) Signal(s syscall.Signal) error {
	if err := p.cmd.Process.Signal(s); err != nil {
		return fmt.Errorf("signal %s: %w", p.Name, err)
	}
	return nil
}

// WaitOutput waits until the program has printed text, and fails when it ends
// without.
func (p *Process) WaitOutput(ctx context.Context, text string) error {
	return p.WaitOutputTimes(ctx, text, 1)
}

// WaitOutputTimes waits until the program has printed text n times.
func (p *Process) WaitOutputTimes(ctx context.Context, text string, n int) error {
	for {
		p.mu.Lock()
		found, wrote := strings.Count(p.all.String(), text) >= n, p.wrote
		p.mu.Unlock()
		if found {
			return nil
		}
		select {
		case <-wrote:
		case <-p.done:
			if strings.Count(p.Output(), text) >= n {
				return nil
			}
			return fmt.Errorf("%s ended (%s) without saying %q", p.Name, p.cmd.ProcessState, text)
		case <-ctx.Done():
			return fmt.Errorf("%s does not say %q: %w", p.Name, text, ctx.Err())
		}
	}
}

// Wait waits for the end of the program and returns its exit code, -1 for the end
// by a signal.
func (p *Process) Wait(ctx context.Context) (int, error) {
	select {
	case <-p.done:
	case <-ctx.Done():
		return 0, fmt.Errorf("%s does not end: %w", p.Name, ctx.Err())
	}
	var exit *exec.ExitError
	if p.err != nil && !errors.As(p.err, &exit) {
		return 0, fmt.Errorf("%s: %w", p.Name, p.err)
	}
	return p.cmd.ProcessState.ExitCode(), nil
}

// Stop ends the program by SIGTERM and returns its exit code.
func (p *Process) Stop(ctx context.Context) (int, error) {
	if err := p.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return 0, err
	}
	return p.Wait(ctx)
}

// Kill ends the program by SIGKILL, if it has not ended, and waits for that.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}
