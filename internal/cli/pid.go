package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"
)

// WritePid writes the process id to file and returns what removes it again. The
// file is locked as long as the process lives, and one that another process has
// locked is refused: a number alone, left behind by a crash, may be anybody's by
// now. An empty name does nothing.
func WritePid(file string) (remove func() error, err error) {
	if file == "" {
		return func() error { return nil }, nil
	}
	f, err := lockPid(file)
	if err != nil {
		return nil, fmt.Errorf("pid file: %w", err)
	}
	err = f.Truncate(0)
	if err == nil {
		_, err = fmt.Fprintf(f, "%d\n", os.Getpid())
	}
	if err != nil { // a full disk; a file that says nothing is not left behind
		err = errors.Join(err, os.Remove(file))
		f.Close()
		return nil, fmt.Errorf("pid file: %w", err)
	}
	return func() error {
		defer f.Close() // last: who finds the file unlocked must find it gone
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("pid file: %w", err)
		}
		return nil
	}, nil
}

// lockPid opens and locks file.
func lockPid(file string) (*os.File, error) {
	for {
		f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE, 0o644)
		if err != nil {
			return nil, err
		}
		if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
			defer f.Close()
			if !errors.Is(err, syscall.EWOULDBLOCK) {
				return nil, fmt.Errorf("lock %s: %w", file, err)
			}
			var pid [20]byte
			n, _ := f.Read(pid[:]) // empty when it is just being written
			return nil, fmt.Errorf("%s: process %s is running", file, strings.TrimSpace(string(pid[:n])))
		}
		// Its owner may have removed it between the open and the lock.
		ours, err := f.Stat()
		if err == nil {
			if there, serr := os.Stat(file); serr == nil && os.SameFile(ours, there) {
				return f, nil
			}
		}
		f.Close()
		if err != nil {
			return nil, err
		}
	}
}
