package ctl

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"time"
)

// Env may name the control socket for [Main].
const Env = "FLOWTWIN_CONTROL"

// answerWait is how long a command may take to answer: it does one operation
// after the other.
const answerWait = 30 * time.Second

// Main is the command line "PROGRAM ctl [--control PATH] OPERATION [ARGUMENT...]":
// it has the operation done by the running program and prints the result. It
// returns the exit code: 2 for arguments that make no sense, 1 for all other errors.
func Main(ctx context.Context, program string, args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	fs := flag.NewFlagSet(program+" ctl", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	path := fs.String("control", getenv(Env), "")
	err := fs.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(stdout, usage(program))
		return 0
	case err != nil:
	case *path == "":
		err = errors.New("--control: give the path that " + program + " --control was given, or set " + Env)
	case fs.NArg() == 0:
		err = errors.New("no operation given; see \"help\"")
	}
	if err != nil {
		fmt.Fprintf(stderr, "%s ctl: %v\n", program, err)
		return 2
	}
	result, err := Call(ctx, *path, fs.Arg(0), fs.Args()[1:]...)
	if err != nil {
		fmt.Fprintf(stderr, "%s ctl: %v\n", program, err)
		return 1
	}
	fmt.Fprintln(stdout, readable(result))
	return 0
}

func usage(program string) string {
	return fmt.Sprintf(`Usage: %[1]s ctl [--control PATH] OPERATION [ARGUMENT...]

Asks or tells a running %[1]s, started with --control PATH. PATH may also be in
$%[2]s. The operation "help" lists all.
`, program, Env)
}

// readable returns a result as people read it: texts as they are, the rest indented.
func readable(result json.RawMessage) string {
	var text string
	if json.Unmarshal(result, &text) == nil {
		return text
	}
	var b bytes.Buffer
	if json.Indent(&b, result, "", "  ") != nil {
		return string(result)
	}
	return b.String()
}

// Call has one operation done by the command that listens at path. An error of
// the operation is returned with its own text.
func Call(ctx context.Context, path, op string, args ...string) (json.RawMessage, error) {
	ctx, cancel := context.WithTimeout(ctx, answerWait)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, fmt.Errorf("no control socket at %s: nothing was started with --control %[1]s, or it has ended", path)
	case errors.Is(err, syscall.ECONNREFUSED):
		return nil, fmt.Errorf("nobody listens at %s: the process has been killed", path)
	case err != nil:
		return nil, fmt.Errorf("control socket: %w", err)
	}
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	b, err := json.Marshal(request{Op: op, Args: args})
	if err != nil {
		return nil, err
	}
	_, unsent := conn.Write(append(b, '\n'))
	var r response
	line, err := bufio.NewReader(conn).ReadBytes('\n') // a refusal comes unasked, and breaks the write
	if err != nil && unsent != nil {
		err = unsent
	}
	if err == nil {
		err = json.Unmarshal(line, &r)
	}
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, errors.New("no answer: the process does not run, or is stopped")
	case err != nil:
		return nil, fmt.Errorf("control socket: %w", err)
	case r.Error != "":
		return nil, errors.New(strings.TrimSpace(r.Error))
	}
	return r.Result, nil
}
