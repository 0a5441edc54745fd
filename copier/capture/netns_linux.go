package capture

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// inNetNS calls fn on a thread inside the network namespace that name stands for:
// its file, or the number of a process in it; "" is the present one. Sockets that fn
// opens stay in the namespace, and keep it.
func inNetNS(name string, fn func() error) error {
	if name == "" {
		return fn()
	}
	there, err := openNetNS(name)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(there) }()
	done := make(chan error)
	go func() { done <- visit(name, there, fn) }()
	return <-done
}

// visit takes the thread of its goroutine to the namespace there and back.
func visit(name string, there int, fn func() error) error {
	runtime.LockOSThread() // a thread that does not get back ends with the goroutine
	own, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("capture: own network namespace: %w", err)
	}
	defer func() { _ = unix.Close(own) }()
	if err := unix.Setns(there, unix.CLONE_NEWNET); err != nil {
		return explainNetNS(name, err)
	}
	defer func() {
		if unix.Setns(own, unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
	}()
	return fn()
}

func openNetNS(name string) (fd int, err error) {
	path := name
	if isPid(name) {
		path = "/proc/" + name + "/ns/net"
	}
	fd, err = unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, explainNetNS(name, err)
	}
	return fd, nil
}

func isPid(name string) bool { return strings.Trim(name, "0123456789") == "" }

// explainNetNS says why a namespace cannot be entered, and what to do.
func explainNetNS(name string, err error) error {
	switch {
	case errors.Is(err, os.ErrNotExist) && isPid(name):
		return fmt.Errorf("capture: network namespace: no process %s: %w", name, err)
	case errors.Is(err, os.ErrNotExist) && !strings.Contains(name, "/"):
		return fmt.Errorf("capture: network namespace: no file %s; one made by \"ip netns\" is /run/netns/%s: %w", name, name, err)
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("capture: network namespace %s: entering it needs CAP_SYS_ADMIN, and CAP_SYS_PTRACE for another user's process: run as root: %w", name, err)
	case errors.Is(err, unix.EINVAL):
		return fmt.Errorf("capture: %s is no network namespace: %w", name, err)
	}
	return fmt.Errorf("capture: network namespace %s: %w", name, err)
}
