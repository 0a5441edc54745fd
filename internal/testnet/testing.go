package testnet

import (
	"errors"
	"os"
	"testing"
)

// names is shared by all tests of a process: what is unique is the point of it.
var names namer //nolint:gochecknoglobals // a process-wide counter, nothing else keeps names apart

// New makes a namespace with a unique name that contains name, and removes it
// when the test ends. Without root it skips the test, or fails it when
// FLOWTWIN_REQUIRE_ROOT=1.
func New(t testing.TB, name string) *NS {
	t.Helper()
	ns, err := Create(names.next(name))
	if err != nil {
		skipOrFail(t, err)
	}
	t.Cleanup(func() {
		if err := ns.Close(); err != nil {
			t.Errorf("remove namespace: %v", err)
		}
	})
	return ns
}

// RequireRoot skips the test when this process is not root, or fails it when
// FLOWTWIN_REQUIRE_ROOT=1.
func RequireRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		skipOrFail(t, ErrPrivilege)
	}
}

func skipOrFail(t testing.TB, err error) {
	t.Helper()
	if errors.Is(err, ErrPrivilege) && os.Getenv("FLOWTWIN_REQUIRE_ROOT") != "1" {
		t.Skip(err)
	}
	t.Fatal(err)
}

// Link joins two namespaces by a veth pair as [Connect] does.
func Link(t testing.TB, a *NS, devA, cidrA string, b *NS, devB, cidrB string) {
	t.Helper()
	if err := Connect(a, devA, cidrA, b, devB, cidrB); err != nil {
		t.Fatal(err)
	}
}

// Run runs a command inside the namespace, and returns what it printed. It fails
// the test when the command fails.
func (n *NS) Run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := n.Output(name, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}
