package responder

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"flowtwin/tunnel"
)

// writeInvite writes the invite so that it is complete when it appears, and for
// its owner alone.
func writeInvite(file string, i tunnel.Invite) (err error) {
	f, err := os.CreateTemp(filepath.Dir(file), ".invite-*") // mode 0600
	if err != nil {
		return fmt.Errorf("invite file: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("invite file: %w", err), os.Remove(f.Name()))
		}
	}()
	if _, err := f.WriteString(i.String() + "\n"); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), file)
}

// checkInvite makes sure, as far as can be seen, that the invite can be written.
func checkInvite(file string) error {
	if file == "" {
		return nil
	}
	if there, err := os.Stat(file); err == nil && there.IsDir() {
		return fmt.Errorf("invite file: %s is a directory", file)
	}
	dir := filepath.Dir(file)
	if err := unix.Faccessat(unix.AT_FDCWD, dir, unix.W_OK|unix.X_OK, unix.AT_EACCESS); err != nil {
		return fmt.Errorf("invite file: directory %s: %w", dir, err)
	}
	return nil
}

// loadIdentity finds key and secret. Where the usual folder cannot be used, and
// no other was asked for, it is one in the home folder; fellBack tells which.
func loadIdentity(dir string) (id tunnel.Identity, fellBack string, err error) {
	if dir != "" {
		id, err = tunnel.LoadIdentity(dir)
		return id, "", err
	}
	id, err = tunnel.LoadIdentity(DefaultStateDir)
	if !errors.Is(err, fs.ErrPermission) && !errors.Is(err, errReadOnly) {
		return id, "", err
	}
	home, homeErr := os.UserHomeDir()
	if homeErr != nil {
		return id, "", errors.Join(err, homeErr)
	}
	fellBack = filepath.Join(home, ".flowtwin")
	id, homeErr = tunnel.LoadIdentity(fellBack)
	if homeErr != nil {
		return id, "", errors.Join(err, homeErr)
	}
	return id, fellBack, nil
}
