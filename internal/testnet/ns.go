// Package testnet lays out networks for tests and for the demo: network
// namespaces joined by veth pairs, or by a [Wire] that loses and reorders
// packets as a seed tells it.
//
// The functions that build a network return errors, so that programs can use
// them; New, Link and the other functions that take a testing.TB are thin layers
// on top which fail or skip the test.
//
// It changes nothing of the host but its own namespaces, and needs root.
package testnet

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// ErrPrivilege says that this process may not make network namespaces, or mount disks.
var ErrPrivilege = errors.New("network namespaces and mounts need root")

// An NS is a named network namespace of its own, with lo up. It can also be seen
// with "ip netns".
type NS struct {
	name   string
	handle netns.NsHandle
	nl     *netlink.Handle
}

// Create makes a namespace that is called name. Close removes it.
func Create(name string) (*NS, error) {
	if os.Geteuid() != 0 {
		return nil, ErrPrivilege
	}
	ns := &NS{name: name}
	err := onThread(func() (err error) {
		ns.handle, err = netns.NewNamed(name)
		return err
	})
	if errors.Is(err, os.ErrPermission) {
		return nil, fmt.Errorf("namespace %s: %w: %w", name, ErrPrivilege, err)
	}
	if err != nil {
		return nil, fmt.Errorf("namespace %s: %w", name, err)
	}
	if ns.nl, err = netlink.NewHandleAt(ns.handle); err != nil {
		return nil, errors.Join(fmt.Errorf("netlink in %s: %w", name, err), ns.Close())
	}
	if err := ns.prepare(); err != nil {
		return nil, errors.Join(err, ns.Close())
	}
	return ns, nil
}

// prepare sets lo up, and lets IPv6 addresses be used at once instead of after a
// second in which nobody has objected.
func (n *NS) prepare() error {
	for _, which := range []string{"all", "default"} {
		err := n.Sysctl("net.ipv6.conf."+which+".accept_dad", "0")
		if err != nil && !errors.Is(err, os.ErrNotExist) { // there may be no IPv6
			return err
		}
	}
	return n.up("lo")
}

// Name returns the name under /run/netns.
func (n *NS) Name() string { return n.name }

// Close removes the namespace's name. The kernel frees it with its devices when
// no process and no socket is left inside.
func (n *NS) Close() error {
	if n.nl != nil {
		n.nl.Close()
	}
	return errors.Join(n.handle.Close(), netns.DeleteNamed(n.name))
}

// Do calls fn on a thread that is inside the namespace. Sockets and devices that
// fn opens stay there for good; goroutines that it starts are not inside. Do
// panics when the namespace is gone.
func (n *NS) Do(fn func()) {
	err := onThread(func() error {
		if err := netns.Set(n.handle); err != nil {
			return err
		}
		fn()
		return nil
	})
	if err != nil {
		panic(fmt.Sprintf("testnet: enter %s: %v", n.name, err))
	}
}

// onThread calls fn on a locked thread, and puts the thread's namespace back
// afterwards, also when fn ends the goroutine.
func onThread(fn func() error) error {
	runtime.LockOSThread()
	origin, err := netns.Get()
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("own namespace: %w", err)
	}
	defer func() {
		// A thread that does not find its way back stays locked: the runtime ends
		// it with the goroutine instead of giving it to another one.
		if netns.Set(origin) == nil {
			runtime.UnlockOSThread()
		}
		_ = origin.Close()
	}()
	return fn()
}

// Command returns a command that will run inside the namespace. It is killed
// when this process ends, and a Ctrl-C at the terminal is left to this process.
func (n *NS) Command(name string, args ...string) *exec.Cmd {
	// nsenter execs the program, so the command's pid is the program's own.
	all := append([]string{"--net=/run/netns/" + n.name, "--", name}, args...)
	cmd := exec.Command("nsenter", all...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	return cmd
}

// Output runs a command inside the namespace and returns what it printed; what
// it wrote to stderr is part of the error.
func (n *NS) Output(name string, args ...string) (string, error) {
	var out, errOut bytes.Buffer
	cmd := n.Command(name, args...)
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s: %s %s: %w: %s", n.name, name,
			strings.Join(args, " "), err, strings.TrimSpace(errOut.String()))
	}
	return out.String(), nil
}

// Unique returns a namespace name that contains name and that nobody else uses.
func Unique(name string) string {
	return fmt.Sprintf("ft-%s-%08x", name, rand.Uint32())
}
