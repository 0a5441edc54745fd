package testnet

import (
	"errors"
	"net"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// New makes a namespace with a unique name that contains name, and removes it
// when the test ends. Without root it skips the test, or fails it when
// FLOWTWIN_REQUIRE_ROOT=1.
func New(tb testing.TB, name string) *NS {
	tb.Helper()
	ns, err := Create(Unique(name))
	if err != nil {
		skipOrFail(tb, err)
	}
	tb.Cleanup(func() {
		if err := ns.Close(); err != nil {
			tb.Errorf("remove namespace: %v", err)
		}
	})
	return ns
}

// RequireRoot skips the test when this process is not root, or fails it when
// FLOWTWIN_REQUIRE_ROOT=1.
func RequireRoot(tb testing.TB) {
	tb.Helper()
	if os.Geteuid() != 0 {
		skipOrFail(tb, ErrPrivilege)
	}
}

// SmallDisk mounts an empty disk of a size such as "64k" at dir until the test ends.
// Without root it skips the test, or fails it when FLOWTWIN_REQUIRE_ROOT=1.
func SmallDisk(tb testing.TB, dir, size string) {
	tb.Helper()
	RequireRoot(tb)
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			tb.Error(err)
		}
	})
}

func skipOrFail(tb testing.TB, err error) {
	tb.Helper()
	if errors.Is(err, ErrPrivilege) && os.Getenv("FLOWTWIN_REQUIRE_ROOT") != "1" {
		tb.Skip(err)
	}
	tb.Fatal(err)
}

// Link joins two namespaces by a veth pair as [Connect] does.
func Link(tb testing.TB, a *NS, devA, cidrA string, b *NS, devB, cidrB string) {
	tb.Helper()
	if err := Connect(a, devA, cidrA, b, devB, cidrB); err != nil {
		tb.Fatal(err)
	}
}

// Listen listens for TCP connections inside the namespace until the test ends.
func (n *NS) Listen(tb testing.TB, addr string) net.Listener {
	tb.Helper()
	var ln net.Listener
	var err error
	n.Do(func() { ln, err = net.Listen("tcp", addr) })
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = ln.Close() })
	return ln
}

// TakeSnapshot is [NS.Snapshot] for a test, which fails when it cannot be had.
func TakeSnapshot(tb testing.TB, ns *NS) Snapshot {
	tb.Helper()
	s, err := ns.Snapshot()
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// Run runs a command inside the namespace, and returns what it printed. It fails
// the test when the command fails.
func (n *NS) Run(tb testing.TB, name string, args ...string) string {
	tb.Helper()
	out, err := n.Output(name, args...)
	if err != nil {
		tb.Fatal(err)
	}
	return out
}
