// Command bench measures what copying costs and whether it is exact: three
// subnets in network namespaces, nginx on both ends, the real binaries. The
// online server and the copier share one CPU, everything else the other. Figures
// are CPU time from /proc or ratios within one run, the median of several runs.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := dispatch(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1)
	}
}

// dispatch runs the part of the bench that the first argument names: the load
// and the noting server are processes of their own, so that their CPU time is.
func dispatch(ctx context.Context) error {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "load":
			return loadMain(ctx, os.Args[2:])
		case "serve":
			return serveMain(ctx, os.Args[2:])
		}
	}
	return benchMain(ctx)
}

func loadMain(ctx context.Context, args []string) error {
	var l load
	fs := flag.NewFlagSet("load", flag.ExitOnError)
	fs.StringVar(&l.addr, "addr", "", "")
	fs.IntVar(&l.conns, "conns", 1, "")
	fs.IntVar(&l.rate, "rate", 0, "")
	fs.IntVar(&l.body, "body", 0, "")
	fs.StringVar(&l.path, "path", "/", "")
	fs.DurationVar(&l.duration, "duration", time.Second, "")
	fs.BoolVar(&l.short, "short", false, "")
	fs.BoolVar(&l.idle, "idle", false, "")
	if err := fs.Parse(args); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(runLoad(ctx, l))
}

func serveMain(ctx context.Context, args []string) error {
	fs := flag.NewFlagSet("serve", flag.ExitOnError)
	addr := fs.String("addr", ":80", "")
	file := fs.String("log", "", "")
	if err := fs.Parse(args); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, unixTerm)
	defer stop()
	f, err := os.Create(*file)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	return runServer(ctx, *addr, f)
}

func benchMain(ctx context.Context) error {
	runs := flag.Int("runs", 3, "runs of each measurement; the median is shown")
	seconds := flag.Duration("seconds", 5*time.Second, "length of a run")
	only := flag.String("only", ".", "regexp: which measurements")
	jsonFile := flag.String("json", "", "write the figures here too")
	keep := flag.Bool("keep", false, "keep the logs")
	bin := flag.String("bin", "bin", "where copier and responder are")
	copierArgs := flag.String("copier-args", "", "more arguments for the copier")
	responderArgs := flag.String("responder-args", "", "more arguments for the responder")
	flag.Parse()
	match, err := regexp.Compile(*only)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "ftbench")
	if err != nil {
		return err
	}
	if err := os.Chmod(dir, 0o755); err != nil { // nginx's workers write below
		return err
	}
	if *keep {
		fmt.Println("logs in", dir)
	} else {
		defer func() { _ = os.RemoveAll(dir) }()
	}
	absBin, err := filepath.Abs(*bin)
	if err != nil {
		return err
	}
	l, err := newLab(dir)
	if err != nil {
		return err
	}
	defer func() { _ = l.close() }()
	b := &bench{lab: l, bin: absBin, runs: *runs, seconds: *seconds, copierArgs: *copierArgs, responderArgs: *responderArgs}
	for _, m := range b.measurements() {
		if !match.MatchString(m.name) {
			continue
		}
		fmt.Fprintf(os.Stderr, "measuring %s\n", m.name)
		if err := m.run(ctx); err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
	}
	b.print(os.Stdout)
	if *jsonFile != "" {
		return b.writeJSON(*jsonFile)
	}
	return nil
}
