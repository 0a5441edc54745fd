package netstack

import (
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Who is told to load a module that is loaded looks for the fault where it is not.
func TestWhyThereIsNoTun(t *testing.T) {
	for err, hint := range map[error]string{
		unix.ENOENT: "modprobe tun", unix.ENODEV: "modprobe tun", unix.EACCES: "run as root", unix.EMFILE: "cannot be opened",
	} {
		got := explainTun(err)
		if !strings.Contains(got.Error(), hint) || !errors.Is(got, err) || errors.Is(got, ErrNoTun) == errors.Is(err, unix.EMFILE) {
			t.Errorf("%v: %v", err, got)
		}
	}
}
