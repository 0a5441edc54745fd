// The demo copies live traffic between two hosts of a small network that it lays
// out in network namespaces: clients, an online server and a target on three
// subnets, joined by a router. It runs the two real programs out of bin/, and
// compares what the clients did, what the online server saw and what the target
// saw. Nothing is left behind.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

func main() {
	duration := flag.Duration("time", 15*time.Second, "how long the clients work")
	bin := flag.String("bin", "bin", "folder with the programs copier and responder")
	flag.Parse()
	if os.Geteuid() != 0 {
		os.Exit(asRoot())
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *bin, *duration); err != nil {
		fmt.Fprintf(os.Stderr, "\ndemo: %v\n", err)
		os.Exit(1)
	}
}

// asRoot runs this program again by sudo and returns its exit code.
func asRoot() int {
	self, err := os.Executable()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		return 1
	}
	fmt.Println("Network namespaces need root: starting again by sudo.")
	cmd := exec.Command("sudo", append([]string{"--", self}, os.Args[1:]...)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	err = cmd.Run()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		return exit.ExitCode()
	case err != nil:
		fmt.Fprintln(os.Stderr, "demo:", err)
		return 1
	default:
		return 0
	}
}

// run lays out the network, and takes it away again whatever happens.
func run(ctx context.Context, bin string, duration time.Duration) (err error) {
	if bin, err = filepath.Abs(bin); err != nil {
		return err
	}
	for _, program := range []string{"copier", "responder"} {
		if _, err := os.Stat(filepath.Join(bin, program)); err != nil {
			return fmt.Errorf("%w (make build makes it)", err)
		}
	}
	dir, err := os.MkdirTemp("", "flowtwin-demo-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	s, err := newShow(bin, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	if err := s.perform(ctx, duration); err != nil {
		if ctx.Err() != nil {
			return errors.New("interrupted; nothing is left behind")
		}
		return err
	}
	return nil
}
