package cli

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// WritePid writes the process id to file and returns what removes it again. It
// refuses when the file names another process that is alive; one left behind by
// a crash is replaced. An empty name does nothing.
func WritePid(file string) (remove func() error, err error) {
	if file == "" {
		return func() error { return nil }, nil
	}
	if pid, ok := readPid(file); ok && pid != os.Getpid() && alive(pid) {
		return nil, fmt.Errorf("pid file %s: process %d is running", file, pid)
	}
	if err := os.WriteFile(file, fmt.Appendf(nil, "%d\n", os.Getpid()), 0o644); err != nil {
		return nil, fmt.Errorf("pid file: %w", err)
	}
	return func() error { return removePid(file) }, nil
}

// removePid removes file if it is still ours.
func removePid(file string) error {
	if pid, ok := readPid(file); !ok || pid != os.Getpid() {
		return nil
	}
	if err := os.Remove(file); err != nil {
		return fmt.Errorf("pid file: %w", err)
	}
	return nil
}

func readPid(file string) (pid int, ok bool) {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0, false
	}
	pid, err = strconv.Atoi(strings.TrimSpace(string(b)))
	return pid, err == nil && pid > 0
}

// alive asks the kernel with the null signal: EPERM means that there is such a
// process, of somebody else.
func alive(pid int) bool {
	err := syscall.Kill(pid, 0)
	return err == nil || errors.Is(err, syscall.EPERM)
}
