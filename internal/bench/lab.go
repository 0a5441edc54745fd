package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"flowtwin/internal/testnet"

	"golang.org/x/sys/unix"
)

const (
	onlineAddr = "10.81.2.2"
	targetAddr = "10.81.3.2"

	onlineCPU = "0" // the online server and the copier
	otherCPU  = "1" // clients, target, responder
)

// A lab is clients, online and target on three subnets joined by a router, with
// plain packets of 1500 bytes: offloads are off.
type lab struct {
	dir                             string
	clients, router, online, target *testnet.NS
}

func newLab(dir string) (*lab, error) {
	l := &lab{dir: dir}
	for _, n := range []struct {
		ns   **testnet.NS
		name string
	}{{&l.clients, "clients"}, {&l.router, "router"}, {&l.online, "online"}, {&l.target, "target"}} {
		ns, err := testnet.Create("ftbench-" + n.name)
		if err != nil {
			return nil, errors.Join(err, l.close())
		}
		*n.ns = ns
	}
	if err := l.wire(); err != nil {
		return nil, errors.Join(err, l.close())
	}
	return l, nil
}

func (l *lab) wire() error {
	if err := l.router.Sysctl("net.ipv4.ip_forward", "1"); err != nil {
		return err
	}
	for i, ns := range []*testnet.NS{l.clients, l.online, l.target} {
		subnet := "10.81." + strconv.Itoa(i+1) + "."
		dev := "r" + strconv.Itoa(i)
		if err := testnet.Connect(l.router, dev, subnet+"1/24", ns, "eth0", subnet+"2/24"); err != nil {
			return err
		}
		if err := ns.Route("default", subnet+"1"); err != nil {
			return err
		}
		if err := errors.Join(testnet.SetOffloads(l.router, dev, false), testnet.SetOffloads(ns, "eth0", false)); err != nil {
			return err
		}
	}
	return l.clients.Sysctl("net.ipv4.ip_local_port_range", "1024 65535")
}

func (l *lab) close() error {
	var errs []error
	for _, ns := range []*testnet.NS{l.clients, l.router, l.online, l.target} {
		if ns != nil {
			errs = append(errs, ns.Close())
		}
	}
	return errors.Join(errs...)
}

// A proc is a program under way in the lab.
type proc struct {
	cmd *exec.Cmd
	log *os.File
}

// start runs a program in ns on one CPU, its output in a file of the lab.
func (l *lab) start(ns *testnet.NS, cpu, log, name string, args ...string) (*proc, error) {
	f, err := os.Create(filepath.Join(l.dir, log))
	if err != nil {
		return nil, err
	}
	cmd := ns.Command("taskset", append([]string{"-c", cpu, name}, args...)...)
	cmd.Stdout, cmd.Stderr = f, f
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", name, err), f.Close())
	}
	return &proc{cmd, f}, nil
}

func (p *proc) pid() int { return p.cmd.Process.Pid }

// stop asks the program to end and waits for it.
func (p *proc) stop() error {
	if p == nil {
		return nil
	}
	_ = p.cmd.Process.Signal(unix.SIGTERM)
	kill := time.AfterFunc(20*time.Second, func() { _ = p.cmd.Process.Kill() })
	defer kill.Stop()
	err := p.cmd.Wait()
	if err != nil {
		text, _ := os.ReadFile(p.log.Name())
		err = fmt.Errorf("%s: %w\n%s", filepath.Base(p.log.Name()), err, tail(text, 2000))
	}
	return errors.Join(err, p.log.Close())
}

func tail(b []byte, n int) []byte { return b[max(0, len(b)-n):] }

const nginxConf = `worker_processes 1;
daemon off;
pid %[1]s/nginx.pid;
error_log %[1]s/error.log warn;
worker_rlimit_nofile 65000;
events { worker_connections 30000; multi_accept on; }
http {
  log_format seq '$connection $request_uri $request_length';
  access_log %[1]s/access.log seq buffer=256k flush=1s;
  keepalive_requests 1000000000;
  keepalive_timeout 600s;
  client_body_temp_path %[1]s/body;
  client_max_body_size 100m;
  client_body_buffer_size 2m;
  gzip_min_length 10000;
  gzip_types *;
  gzip_comp_level 6;
  server {
    listen 80;
    root %[1]s;
    location = /gzip.html { gzip on; }
    location = /post { return 200 "ok"; }
  }
}
`

// nginx starts a server whose files and log are in a directory of its own.
func (l *lab) nginx(ns *testnet.NS, cpu, name string) (*proc, error) {
	dir := filepath.Join(l.dir, name)
	if err := os.RemoveAll(dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	words := bytes.Repeat([]byte("the quick brown fox jumps over the lazy dog 0123456789\n"), 2000)
	for file, data := range map[string][]byte{
		"nginx.conf": fmt.Appendf(nil, nginxConf, dir),
		"index.html": words[:600],
		"gzip.html":  words,
	} {
		if err := os.WriteFile(filepath.Join(dir, file), data, 0o644); err != nil {
			return nil, err
		}
	}
	return l.start(ns, cpu, name+".log", "nginx", "-p", dir, "-c", filepath.Join(dir, "nginx.conf"))
}

// load runs the clients and returns what they saw.
func (l *lab) load(ctx context.Context, ns *testnet.NS, what load) (loadResult, error) {
	self, err := os.Executable()
	if err != nil {
		return loadResult{}, err
	}
	args := []string{
		"-c", otherCPU, self, "load", "-addr", what.addr, "-conns", strconv.Itoa(what.conns),
		"-rate", strconv.Itoa(what.rate), "-body", strconv.Itoa(what.body), "-path", what.path,
		"-duration", what.duration.String(), "-short=" + strconv.FormatBool(what.short), "-idle=" + strconv.FormatBool(what.idle),
	}
	cmd := ns.Command("taskset", args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil || ctx.Err() != nil {
		return loadResult{}, errors.Join(fmt.Errorf("load: %w", err), ctx.Err())
	}
	var r loadResult
	return r, json.Unmarshal(out, &r)
}

// until polls cond, since what it waits for is another program's doing.
func until(ctx context.Context, what string, limit time.Duration, cond func() bool) error {
	deadline := time.Now().Add(limit)
	for !cond() {
		if time.Now().After(deadline) {
			return fmt.Errorf("%s: not after %v", what, limit)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
	return nil
}

// listening reports whether something in ns accepts connections at port 80.
func listening(ns *testnet.NS) bool {
	out, err := ns.Output("ss", "-Hltn", "sport", "=", ":80")
	return err == nil && strings.TrimSpace(out) != ""
}
