package rig

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"flowtwin/internal/e2e/traffic"
	"flowtwin/internal/testnet"
)

// What the programs log, as far as anyone waits for it.
const (
	TunnelUp       = "tunnel is up" // the copier, at each connection; it captures already
	ResponderReady = "listening"    // the responder accepts copiers
	StatusLine     = "msg=status"   // both, every 10 s and on SIGUSR1
)

// A Rig runs the product in a Lab.
type Rig struct {
	Lab *testnet.Lab
	Bin string // folder with the binaries copier and responder
	Dir string // for the files of a run
}

// InviteFile is where the responder of StartResponder writes its invite.
func (r *Rig) InviteFile() string { return filepath.Join(r.Dir, "invite") }

// ReportFile is where the copier of StartCopier writes its report.
func (r *Rig) ReportFile() string { return filepath.Join(r.Dir, "report.json") }

// Copier returns the command line of a copier without any option but args.
func (r *Rig) Copier(args ...string) []string {
	return append([]string{filepath.Join(r.Bin, "copier")}, args...)
}

// Responder returns the command line of a responder with a state folder of its
// own, listening on port 7443.
func (r *Rig) Responder(args ...string) []string {
	return append([]string{
		filepath.Join(r.Bin, "responder"), "--listen", ":7443",
		"--state-dir", filepath.Join(r.Dir, "state"), "--invite-file", r.InviteFile(),
	}, args...)
}

// StartResponder starts the responder on the target host and waits until it is
// ready.
func (r *Rig) StartResponder(ctx context.Context, args ...string) (*Process, error) {
	return startReady(ctx, r.Lab.Target, ResponderReady, "responder", r.Responder(args...))
}

// StartCopier starts a copier of maps (as its -x) on the online server, with the
// responder's invite, and waits until it copies.
func (r *Rig) StartCopier(ctx context.Context, maps string, args ...string) (*Process, error) {
	argv := r.Copier("-x", maps, "--invite-file", r.InviteFile(), "--report", r.ReportFile())
	return startReady(ctx, r.Lab.Online, TunnelUp, "copier", append(argv, args...))
}

func startReady(ctx context.Context, ns *testnet.NS, ready, name string, argv []string) (*Process, error) {
	p, err := Start(ns, name, argv...)
	if err != nil {
		return nil, err
	}
	if err := p.WaitOutput(ctx, ready); err != nil {
		p.Kill()
		return nil, fmt.Errorf("%w\n%s", err, p.Output())
	}
	return p, nil
}

// Serve starts a recording HTTP server in ns on the addresses.
func Serve(ns *testnet.NS, addrs ...string) (*traffic.Server, error) {
	var listeners []net.Listener
	var errs []error
	ns.Do(func() {
		for _, addr := range addrs {
			ln, err := net.Listen("tcp", addr)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			listeners = append(listeners, ln)
		}
	})
	if len(errs) > 0 {
		for _, ln := range listeners {
			errs = append(errs, ln.Close())
		}
		return nil, errors.Join(errs...)
	}
	return traffic.Serve(listeners...), nil
}

// StartNginx starts an nginx on port 80 in ns and waits until it listens. Its
// access log is read by [traffic.NginxLog] with dir.
func (r *Rig) StartNginx(ctx context.Context, ns *testnet.NS, name string) (p *Process, dir string, err error) {
	return r.StartNginxClosing(ctx, ns, name, 0)
}

// StartNginxClosing starts an nginx that closes each connection after so many
// requests. It may take the place of an earlier one of that name.
func (r *Rig) StartNginxClosing(ctx context.Context, ns *testnet.NS, name string, requests int) (p *Process, dir string, err error) {
	dir = filepath.Join(r.Dir, name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, "", err
	}
	argv, err := traffic.NginxCommand(dir, requests)
	if err != nil {
		return nil, "", err
	}
	p, err = startListening(ctx, ns, name, "127.0.0.1:80", argv)
	return p, dir, err
}

// StartRedis starts a redis server on port 6379 in ns and waits until it listens.
func (r *Rig) StartRedis(ctx context.Context, ns *testnet.NS, name string) (*Process, error) {
	dir := filepath.Join(r.Dir, name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	argv, err := traffic.RedisCommand(dir)
	if err != nil {
		return nil, err
	}
	return startListening(ctx, ns, name, "127.0.0.1:6379", argv)
}

func startListening(ctx context.Context, ns *testnet.NS, name, addr string, argv []string) (*Process, error) {
	p, err := Start(ns, name, argv...)
	if err != nil {
		return nil, err
	}
	for {
		var conn net.Conn
		var err error
		ns.Do(func() { conn, err = net.Dial("tcp", addr) })
		if err == nil {
			return p, conn.Close()
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-p.Done():
			return nil, fmt.Errorf("%s ended:\n%s", name, p.Output())
		case <-ctx.Done():
			p.Kill()
			return nil, fmt.Errorf("%s does not listen: %w\n%s", name, ctx.Err(), p.Output())
		}
	}
}

// Until asks cond again and again until it holds or ctx ends; false: it did not.
func Until(ctx context.Context, cond func() bool) bool {
	for !cond() {
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return cond()
		}
	}
	return true
}
