// Command copier runs on the online server: it copies what clients send to it
// to a target, through a responder. It changes nothing on the host.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime/debug"

	"github.com/spf13/pflag"

	"flowtwin/copier"
	"flowtwin/internal/cli"
	"flowtwin/internal/ctl"
	"flowtwin/tunnel"
)

// version is set by the linker.
var version = "devel"

func main() {
	os.Exit(run(os.Args[1:], os.Getenv, os.Stdout, os.Stderr))
}

// run is main with its surroundings passed in; it returns the exit code: 2 for
// arguments that make no sense, 1 for all other errors.
func run(args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	if len(args) > 0 && args[0] == "ctl" {
		return ctl.Main(context.Background(), "copier", args[1:], getenv, stdout, stderr)
	}
	opts, err := parseFlags(args, getenv, net.DefaultResolver)
	switch {
	case errors.Is(err, pflag.ErrHelp):
		fmt.Fprint(stdout, usage())
		return 0
	case err != nil:
		fmt.Fprintln(stderr, "copier:", err)
		return 2
	case opts.version:
		fmt.Fprintln(stdout, "copier", version)
		return 0
	}
	return cli.Main("copier", opts.daemon, opts.logFile, stderr, func(ready func(error)) error {
		return start(opts, getenv, stdout, ready)
	})
}

// start runs the copier until a signal ends it.
func start(opts options, getenv func(string) string, stdout io.Writer, ready func(error)) (err error) {
	log, closer, err := cli.Logger(opts.json, opts.logFile)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closer.Close()) }()
	var bar *cli.Bar
	if opts.config.Replay != nil && len(opts.config.More) == 0 && opts.logFile == "" && !opts.daemon {
		if bar = cli.TerminalBar(os.Stderr); bar != nil {
			log = bar.Logger(opts.json)
		}
	}
	remove, err := cli.WritePid(opts.pidFile)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, remove()) }()
	if opts.openInvite {
		log.Warn("the invite was given as an argument: others on this host can read it; better give --invite-file")
	}
	// The heap is small and mostly tables without pointers: collecting it more
	// often costs little, and the memory belongs to production.
	debug.SetGCPercent(50)
	if getenv("GOMAXPROCS") == "" {
		opts.config = opts.config.LimitCPUs()
	}

	ctx, status, stop := cli.Signals(context.Background())
	defer stop()
	cfg := opts.config
	cfg.Version, cfg.Log, cfg.Out, cfg.Status = version, log, stdout, status
	if dry := cfg.Replay != nil && cfg.Replay.DryRun; opts.json && opts.daemon && !dry {
		cfg.Out = nil // the log is all there is to read, and every line of it JSON
	}
	cfg.Ready = func() { ready(nil) }
	if bar != nil {
		cfg.Progress = bar.Draw
	}
	cfg.ParseMaps = func(ctx context.Context, text string) ([]tunnel.Map, error) {
		return parseMaps(ctx, []string{text}, net.DefaultResolver)
	}
	return copier.Run(ctx, cfg)
}
