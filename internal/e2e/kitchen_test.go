//go:build netns

package e2e

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"flowtwin/internal/e2e/rig"
	"flowtwin/internal/testnet"
)

// A kitchen is where a recipe is made: the lab, with a folder and a path of
// programs for each host.
type kitchen struct {
	*scene
	recipe *recipe
	hosts  map[string]*testnet.NS

	running []*program // until Ctrl-C, in the order of their start
	beside  []*program // which end by themselves (&)
	ended   []*program
	nginxes []*rig.Process // that the document takes for granted

	// settled is asked for before a program is ended: whether it has seen
	// everything, so that what it prints is no matter of time.
	settled func() bool
}

// A program is one that runs on a host.
type program struct {
	*rig.Process
	host, name string
	shows      []string
}

// newKitchen lays the lab out with the hosts and files that a recipe needs.
func newKitchen(t *testing.T, r *recipe) *kitchen {
	t.Helper()
	k := &kitchen{recipe: r, hosts: make(map[string]*testnet.NS)}
	k.scene = newScene(t, testnet.LabConfig{}, func(l *testnet.Lab) {
		k.hosts["clients"], k.hosts["online"], k.hosts["target"] = l.Clients, l.Online, l.Target
		for name, n := range map[string]int{"target2": 5, "online2": 6} {
			if r.has(name) {
				k.hosts[name] = addHost(t, l, name, n)
			}
		}
	})
	for host := range k.hosts {
		if err := os.MkdirAll(k.at(host), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write := func(file, text string, mode os.FileMode) {
		if err := os.WriteFile(file, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	for at, text := range r.files {
		host, name, _ := strings.Cut(at, ":")
		write(filepath.Join(k.at(host), name), text, 0o644)
	}
	// What the document cannot know: where the programs are, that all hosts share
	// one /var/lib here, and have no ssh server.
	bin := k.at("bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	write(filepath.Join(bin, "copier"), fmt.Sprintf("#!/bin/sh\nexec %s/copier \"$@\"\n", binaries), 0o755)
	write(filepath.Join(bin, "responder"), fmt.Sprintf("#!/bin/sh\nexec %s/responder --state-dir state \"$@\"\n", binaries), 0o755)
	write(filepath.Join(bin, "scp"), "#!/bin/sh\nfor to; do :; done\nmkdir -p ../${to%:}\nfor f; do [ \"$f\" = \"$to\" ] || [ \"$f\" = -r ] || cp -r \"$f\" ../${to%:}/; done\n", 0o755)
	return k
}

// at returns a host's folder.
func (k *kitchen) at(host string) string { return filepath.Join(k.Dir, host) }

// makes runs the recipe from its next step on, to its end or to the step that begins
// with until.
func (k *kitchen) makes(until string) {
	k.t.Helper()
	for len(k.recipe.steps) > 0 {
		s := k.recipe.steps[0]
		if until != "" && strings.HasPrefix(s.host+" "+s.command, until) {
			return
		}
		k.recipe.steps = k.recipe.steps[1:]
		k.t.Logf("%s: %s", s.host, s.command)
		k.does(s)
	}
	if until != "" {
		k.t.Fatalf("the recipe has no step %q", until)
	}
	for len(k.running) > 0 {
		k.interrupts(k.running[len(k.running)-1])
	}
	for _, p := range k.ended {
		if missing := shown(p.shows, p.Output()); len(missing) > 0 {
			k.t.Errorf("%s of %s does not print what the document shows:\n%s\nbut\n%s", p.name, p.host, strings.Join(missing, "\n"), p.Output())
		}
		if p.name == "responder" && !strings.Contains(p.Stdout(), "sums       ok") {
			k.t.Errorf("the responder of %s says\n%s", p.host, p.Stdout())
		}
	}
	k.untouched()
	k.quiet()
}

// does makes a step. A program that runs until Ctrl-C is left running once it is
// ready.
func (k *kitchen) does(s step) {
	k.t.Helper()
	if name, is := strings.CutPrefix(s.command, "^C"); is {
		p := k.last(s.host, strings.TrimSpace(name))
		p.shows = append(p.shows, s.shows...)
		for _, b := range k.beside {
			k.waits(b)
		}
		k.ended, k.beside = append(k.ended, k.beside...), nil
		if k.settled != nil && !rig.Until(k.within(), k.settled) {
			k.t.Errorf("before %q at %s: not everything has arrived", s.command, s.host)
		}
		k.interrupts(p)
		return
	}
	p := k.starts(s)
	switch ready, port := readiness(s.command); {
	case ready != "":
		if err := p.WaitOutputTimes(k.within(), ready, max(1, strings.Count(s.command, "--invite-file"))); err != nil {
			k.t.Fatalf("%v\n%s", err, p.Output())
		}
		k.running = append(k.running, p)
	case port != "":
		k.listens(p, port)
		k.running = append(k.running, p)
	case strings.HasSuffix(s.command, "&"):
		k.beside = append(k.beside, p)
	default:
		k.waits(p)
		// A command that only looks is repeated until there is something to see.
		for end := time.Now().Add(patience); p.name == "ss" && len(shown(p.shows, p.Output())) > 0 && time.Now().Before(end); {
			p = k.starts(s)
			k.waits(p)
		}
		k.ended = append(k.ended, p)
	}
}

// readiness returns what a program that runs until Ctrl-C prints, or the port where
// it listens, once it is ready; nothing for one that ends by itself.
func readiness(command string) (ready, port string) {
	has := func(s string) bool { return strings.Contains(command+" ", " "+s+" ") }
	switch name, _, _ := strings.Cut(command, " "); {
	case has("ctl") || has("-i") && name == "copier":
		return "", ""
	case name == "copier" && has("--invite-file"):
		return rig.TunnelUp, ""
	case name == "copier":
		return "msg=recording", ""
	case name == "responder":
		return rig.ResponderReady, ""
	case name == "tcpdump":
		return "listening on", ""
	case name == "nginx":
		return "", ":80"
	case name == "redis-server":
		return "", ":6379"
	}
	return "", ""
}

// starts starts a command as a shell on its host does.
func (k *kitchen) starts(s step) *program {
	k.t.Helper()
	name, _, _ := strings.Cut(s.command, " ")
	path := k.at("bin") + ":" + os.Getenv("PATH") + ":/usr/sbin:/sbin"
	command := s.command
	if !strings.HasSuffix(command, "&") {
		command = "exec " + command // the process is the program's, with its end
	}
	p := k.keep(rig.Start(k.hosts[s.host], s.host+" "+name, "env", "-C", k.at(s.host), "PATH="+path, "sh", "-c", command))
	k.t.Cleanup(func() { _ = syscall.Kill(-p.Pid(), syscall.SIGKILL) })
	return &program{Process: p, host: s.host, name: name, shows: s.shows}
}

func (k *kitchen) listens(p *program, port string) {
	k.t.Helper()
	if !rig.Until(k.within(), func() bool {
		var conn net.Conn
		var err error
		k.hosts[p.host].Do(func() { conn, err = net.Dial("tcp", "127.0.0.1"+port) })
		return err == nil && conn.Close() == nil
	}) {
		k.t.Fatalf("%s of %s does not listen:\n%s", p.name, p.host, p.Output())
	}
}

// waits waits for a command that ends by itself, and well.
func (k *kitchen) waits(p *program) {
	k.t.Helper()
	if code, err := p.Wait(k.within()); err != nil || code != 0 {
		k.t.Fatalf("%s of %s ends with %d, %v:\n%s", p.name, p.host, code, err, p.Output())
	}
}

// last returns what was started last of what runs on a host, of that name if any.
func (k *kitchen) last(host, name string) *program {
	k.t.Helper()
	for i := len(k.running) - 1; i >= 0; i-- {
		if p := k.running[i]; p.host == host && (name == "" || p.name == name) {
			return p
		}
	}
	k.t.Fatalf("at %s nothing runs that ^C %s could end", host, name)
	return nil
}

// interrupts ends a program as Ctrl-C at its terminal does.
func (k *kitchen) interrupts(p *program) {
	k.t.Helper()
	if err := syscall.Kill(-p.Pid(), syscall.SIGINT); err != nil && !errors.Is(err, syscall.ESRCH) {
		k.t.Fatal(err)
	}
	k.waits(p)
	for i, r := range k.running {
		if r == p {
			k.running = append(k.running[:i], k.running[i+1:]...)
			break
		}
	}
	k.ended = append(k.ended, p)
}

// report returns what a copier has written to report.json on the online server.
func (k *kitchen) report() string { return filepath.Join(k.at("online"), "report.json") }
