//go:build netns

package e2e

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"flowtwin/internal/e2e/rig"
	"flowtwin/internal/e2e/traffic"
	"flowtwin/internal/testnet"
)

// binaries is the folder that TestMain builds the programs into.
var binaries string

func TestMain(m *testing.M) {
	if os.Geteuid() != 0 {
		m.Run() // each test says why it is skipped
		return
	}
	dir, err := os.MkdirTemp("", "flowtwin-e2e-")
	if err != nil {
		panic(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	// Tests also start the programs without privileges.
	if err := os.Chmod(dir, 0o755); err != nil {
		panic(err)
	}
	build := exec.Command("go", "build", "-trimpath", "-o", dir+"/", "./cmd/...")
	build.Dir = filepath.Join("..", "..")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		panic(fmt.Sprintf("%v\n%s", err, out))
	}
	binaries = dir
	// Clients and both servers of 5,000 connections are in this process. Where the
	// limit cannot be raised it may do as it is; if not, a test will say so.
	const files = 32768
	_ = unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: files, Max: files})
	m.Run()
}

// Where the tests' HTTP servers listen and what is copied there.
const (
	port     = ":80"
	httpMap  = "80-" + testnet.TargetAddr + ":80"
	httpMap6 = "80-[" + testnet.TargetAddr6 + "]:80"
)

// patience bounds each wait for something that must happen.
const patience = 30 * time.Second

// A scene is one test's network with what runs in it.
type scene struct {
	*rig.Rig
	t *testing.T

	processes []*rig.Process
	before    map[*testnet.NS]testnet.Snapshot
	watches   map[string]*testnet.Watch
}

// newScene lays the network out, changes it as prepare does, and takes note of
// how its hosts are configured.
func newScene(t *testing.T, cfg testnet.LabConfig, prepare ...func(*testnet.Lab)) *scene {
	t.Helper()
	testnet.RequireRoot(t)
	lab, err := testnet.NewLab(cfg)
	if err != nil {
		t.Fatal(err)
	}
	s := &scene{
		Rig:     &rig.Rig{Lab: lab, Bin: binaries, Dir: t.TempDir()},
		t:       t,
		before:  make(map[*testnet.NS]testnet.Snapshot),
		watches: make(map[string]*testnet.Watch),
	}
	t.Cleanup(s.tearDown)
	for _, p := range prepare {
		p(lab)
	}
	for name, ns := range map[string]*testnet.NS{"online": lab.Online, "target": lab.Target} {
		s.before[ns] = testnet.TakeSnapshot(t, ns)
		if s.watches[name], err = testnet.NewWatch(ns, "eth0"); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func (s *scene) tearDown() {
	for _, p := range s.processes {
		p.Kill()
		if s.t.Failed() {
			s.t.Logf("---- %s printed:\n%s", p.Name, tail(p.Output(), 120))
		}
	}
	if err := s.Lab.Close(); err != nil {
		s.t.Error(err)
	}
}

// tail returns the last n lines of text.
func tail(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	if len(lines) > n {
		lines = append([]string{"…"}, lines[len(lines)-n:]...)
	}
	return strings.Join(lines, "\n")
}

// within returns a context that ends after the patience.
func (s *scene) within() context.Context {
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	s.t.Cleanup(cancel)
	return ctx
}

// keep takes over a process that was started: it is killed at the test's end.
func (s *scene) keep(p *rig.Process, err error) *rig.Process {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
	s.processes = append(s.processes, p)
	return p
}

// copies starts responder, with options, and copier for maps.
func (s *scene) copies(maps string, options ...string) (copier, responder *rig.Process) {
	s.t.Helper()
	responder = s.keep(s.StartResponder(s.within(), options...))
	copier = s.keep(s.StartCopier(s.within(), maps))
	return copier, responder
}

// serve starts a recording HTTP server on each host's addresses.
func (s *scene) serve(onlineAddr, targetAddr string) (online, target *traffic.Server) {
	s.t.Helper()
	return s.serveAt(s.Lab.Online, onlineAddr), s.serveAt(s.Lab.Target, targetAddr)
}

// serveAt starts a recording HTTP server.
func (s *scene) serveAt(ns *testnet.NS, addr string) *traffic.Server {
	s.t.Helper()
	srv, err := rig.Serve(ns, addr)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = srv.Close() })
	return srv
}

// dialer returns a dialer from the clients to the online server's port.
func (s *scene) dialer(port string) *traffic.Dialer {
	return s.dialerTo(testnet.OnlineAddr+port, testnet.ClientAddr)
}

func (s *scene) dialerTo(addr string, source func(int) string) *traffic.Dialer {
	d := traffic.NewDialer(s.Lab.Clients, addr, source)
	s.t.Cleanup(d.Close)
	return d
}

// make runs a load, all of which must succeed.
func (s *scene) make(l traffic.Load, d *traffic.Dialer) traffic.Stats {
	s.t.Helper()
	stats := l.Run(s.t.Context(), d.Dial)
	s.t.Logf("clients of %s: %s", l.Name, stats)
	if stats.Errors > 0 {
		s.t.Errorf("clients of %s met errors: %v", l.Name, stats.FirstError)
	}
	return stats
}

// settle waits until both servers have seen as much, and the ends of all
// connections.
func (s *scene) settle(online, target *traffic.Server) {
	s.t.Helper()
	rig.Until(s.within(), func() bool {
		oc, or, oo := online.Counts()
		tc, tr, to := target.Counts()
		return oc == tc && or == tr && oo == 0 && to == 0
	})
}

// same waits until both servers have seen as much, and compares what it was.
func (s *scene) same(online, target *traffic.Server) {
	s.t.Helper()
	s.settle(online, target)
	if _, _, open := target.Counts(); open > 0 {
		s.t.Errorf("%d connections at the target are still open", open)
	}
	s.compare(online.Log(), target.Log())
}

func (s *scene) compare(online, target traffic.Log) {
	s.t.Helper()
	s.t.Logf("online saw %d connections with %d requests, target %d with %d",
		len(online), online.Requests(), len(target), target.Requests())
	if diff := traffic.Compare(online, target); len(diff) > 0 {
		s.t.Errorf("online and target differ:\n%s", traffic.Describe(diff))
	}
	if online.Requests() == 0 {
		s.t.Error("online saw no request: the test has tested nothing")
	}
}

// end stops both programs and checks all that must hold after any run. It
// returns the copier's report.
func (s *scene) end(copier, responder *rig.Process) *rig.Report {
	s.t.Helper()
	s.stops(copier)
	s.stops(responder)
	s.untouched()
	s.quiet()
	return s.report()
}

// report reads the copier's last report, and checks its sums.
func (s *scene) report() *rig.Report {
	s.t.Helper()
	report, err := rig.ReadReport(s.ReportFile())
	if err != nil {
		s.t.Fatal(err)
	}
	for _, problem := range report.Check() {
		s.t.Errorf("ledger: %s", problem)
	}
	return report
}

// nginx starts an nginx in ns, whose log is in dir.
func (s *scene) nginx(ns *testnet.NS, name string) (p *rig.Process, dir string) {
	s.t.Helper()
	p, dir, err := s.StartNginx(s.within(), ns, name)
	return s.keep(p, err), dir
}

// exact checks that the books say what clients have done: each connection a
// session, each byte delivered.
func (s *scene) exact(report *rig.Report, clients traffic.Stats) {
	s.t.Helper()
	if got := report.Sessions.Opened; got != uint64(clients.Connections) {
		s.t.Errorf("ledger: %d sessions opened, clients made %d connections", got, clients.Connections)
	}
	if got := report.Sent.Delivered.Bytes; got != uint64(clients.Sent) {
		s.t.Errorf("ledger: %d bytes delivered, clients sent %d", got, clients.Sent)
	}
	if got := report.Packets.KernelDropped; got != 0 {
		s.t.Errorf("ledger: %d packets dropped by the kernel", got)
	}
}

// stops ends a program by SIGTERM, which must be an orderly end.
func (s *scene) stops(p *rig.Process) {
	s.t.Helper()
	code, err := p.Stop(s.within())
	if err != nil {
		s.t.Fatal(err)
	}
	if code != 0 {
		s.t.Errorf("%s exits with %d after SIGTERM", p.Name, code)
	}
}

// untouched checks that both hosts are configured as before.
func (s *scene) untouched() {
	s.t.Helper()
	for ns, before := range s.before {
		if diff := testnet.TakeSnapshot(s.t, ns).Diff(before); len(diff) > 0 {
			s.t.Errorf("host %s is left changed:\n  %s", ns.Name(), strings.Join(diff, "\n  "))
		}
	}
}

// quiet checks that no host has sent a packet under a foreign address. It ends
// the watches.
func (s *scene) quiet() {
	s.t.Helper()
	for name, w := range s.watches {
		strange, err := w.Close()
		if err != nil {
			s.t.Error(err)
		}
		if len(strange) > 0 {
			s.t.Errorf("%s sent packets on eth0 under foreign addresses: %v", name, describe(strange))
		}
	}
	clear(s.watches)
}

func describe(sources map[netip.Addr]int) string {
	var parts []string
	for addr, n := range sources {
		parts = append(parts, fmt.Sprintf("%s (%d packets)", addr, n))
		if len(parts) == 10 {
			parts = append(parts, fmt.Sprintf("… %d addresses", len(sources)))
			break
		}
	}
	return strings.Join(parts, ", ")
}

// dialIn connects from inside ns.
func (s *scene) dialIn(ns *testnet.NS, addr string) net.Conn {
	s.t.Helper()
	var conn net.Conn
	var err error
	ns.Do(func() { conn, err = net.Dial("tcp", addr) })
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = conn.Close() })
	return conn
}
