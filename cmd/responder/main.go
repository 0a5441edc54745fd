// Command responder runs on the target host: it takes what copiers send and plays
// it to the target, in real connections, through a TUN device of its own.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/pflag"

	"flowtwin/internal/cli"
	"flowtwin/internal/ctl"
	"flowtwin/responder"
)

// version is set by the linker.
var version = "devel"

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// run is main with its surroundings passed in; it returns the exit code: 2 for
// arguments that make no sense, 1 for all other errors.
func run(args []string, stdout, stderr io.Writer) int {
	if len(args) > 0 && args[0] == "ctl" {
		return ctl.Main(context.Background(), "responder", args[1:], os.Getenv, stdout, stderr)
	}
	opts, err := parseFlags(args)
	switch {
	case errors.Is(err, pflag.ErrHelp):
		fmt.Fprint(stdout, usage())
		return 0
	case err != nil:
		fmt.Fprintln(stderr, "responder:", err)
		return 2
	case opts.version:
		fmt.Fprintln(stdout, "responder", version)
		return 0
	}
	return cli.Main("responder", opts.daemon, opts.logFile, stderr, func(ready func(error)) error {
		return start(opts, stdout, ready)
	})
}

// start runs the responder until a signal ends it.
func start(opts options, stdout io.Writer, ready func(error)) (err error) {
	log, closer, err := cli.Logger(opts.json, opts.logFile)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closer.Close()) }()
	remove, err := cli.WritePid(opts.pidFile)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, remove()) }()

	ctx, status, stop := cli.Signals(context.Background())
	defer stop()
	cfg := opts.config
	cfg.Version, cfg.Log, cfg.Out, cfg.Status = version, log, stdout, status
	if opts.json && opts.daemon {
		cfg.Out = nil // the log is all there is to read, and every line of it JSON
	}
	cfg.Ready = func() { ready(nil) }
	return responder.Run(ctx, cfg)
}
