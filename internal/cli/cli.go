// Package cli holds what the copier and responder commands have in common: the
// logger, the pid file, going into the background, and what the signals mean.
//
// Nothing here exits the process; the commands' main functions do.
package cli

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
)

// Logger returns the logger of a command: text lines, or JSON, to file or, when
// file is "", to stderr. The closer closes the file; with stderr it does nothing.
// The file is appended to, so that copytruncate rotation works.
func Logger(jsonFormat bool, file string) (*slog.Logger, io.Closer, error) {
	w := nopCloser{os.Stderr}
	if file == "" {
		return slog.New(handler(jsonFormat, w)), w, nil
	}
	f, err := openLog(file)
	if err != nil {
		return nil, nil, err
	}
	return slog.New(handler(jsonFormat, f)), f, nil
}

func openLog(file string) (*os.File, error) {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return nil, fmt.Errorf("log file: %w", err)
	}
	return f, nil
}

func handler(jsonFormat bool, w io.Writer) slog.Handler {
	if jsonFormat {
		return slog.NewJSONHandler(w, nil)
	}
	return slog.NewTextHandler(w, nil)
}

// nopCloser keeps stderr open: the last error line of main goes there.
type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

// Signals gives the signals their meaning. SIGINT, SIGTERM and SIGHUP (the terminal is
// gone) end the returned context, which asks for an orderly stop; the first two have
// their default effect again from then on, so that another one ends the process at once.
// SIGHUP has not: a terminal's end sends two, the shell's and the kernel's. Where it is
// ignored (nohup) it stays so. SIGUSR1 arrives on status: print the status now. stop
// undoes all of it. Once a stop is asked for, a pipe that nobody reads any more kills
// no longer: what reads the output (tee) gets the terminal's signals, too.
func Signals(parent context.Context) (ctx context.Context, status <-chan os.Signal, stop func()) {
	ctx, cancel := context.WithCancel(parent)
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGINT, syscall.SIGTERM)
	hup := make(chan os.Signal, 1)
	if !signal.Ignored(syscall.SIGHUP) {
		signal.Notify(hup, syscall.SIGHUP)
	}
	go func() {
		select {
		case <-end:
		case <-hup:
		case <-ctx.Done():
		}
		if ctx.Err() == nil {
			signal.Ignore(syscall.SIGPIPE)
		}
		// The default effect first: whoever sees that we stop may send a second one.
		signal.Stop(end)
		cancel()
	}()
	usr1 := make(chan os.Signal, 1)
	signal.Notify(usr1, syscall.SIGUSR1)
	return ctx, usr1, func() {
		signal.Stop(usr1)
		signal.Stop(hup)
		cancel()
	}
}
