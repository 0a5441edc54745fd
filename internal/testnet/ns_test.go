package testnet_test

import (
	"net"
	"os"
	"runtime"
	"strings"
	"testing"

	"flowtwin/internal/testnet"
)

// pair returns two namespaces, a with 10.9.0.1 and fd09::1, b with .2 and ::2.
func pair(t *testing.T) (a, b *testnet.NS) {
	t.Helper()
	a, b = testnet.New(t, "testnet-a"), testnet.New(t, "testnet-b")
	testnet.Link(t, a, "eth0", "10.9.0.1/24", b, "eth0", "10.9.0.2/24")
	for ns, addr := range map[*testnet.NS]string{a: "fd09::1/64", b: "fd09::2/64"} {
		if err := ns.AddAddr("eth0", addr); err != nil {
			t.Fatal(err)
		}
	}
	return a, b
}

func TestSocketsOpenedInsideReachTheOtherEnd(t *testing.T) {
	for _, addr := range []string{"10.9.0.2:80", "[fd09::2]:80"} {
		t.Run(addr, func(t *testing.T) {
			a, b := pair(t)
			b.Listen(t, addr)
			var err error
			a.Do(func() {
				var c net.Conn
				if c, err = net.Dial("tcp", addr); err == nil {
					_ = c.Close()
				}
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
}

// A thread left inside would let a later, unrelated goroutine open its sockets
// in the wrong namespace.
func TestDoPutsTheThreadBackWhenFnPanics(t *testing.T) {
	ns := testnet.New(t, "testnet-panic")
	runtime.LockOSThread() // so that the link read is this thread's, before and after
	defer runtime.UnlockOSThread()
	before := threadNamespace(t)
	func() {
		defer func() { _ = recover() }()
		ns.Do(func() {
			if threadNamespace(t) == before {
				t.Error("Do did not enter the namespace")
			}
			panic("inside")
		})
	}()
	if after := threadNamespace(t); after != before {
		t.Errorf("thread is in %s after Do, was in %s", after, before)
	}
}

func threadNamespace(t *testing.T) string {
	t.Helper()
	s, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestCommandsRunInside(t *testing.T) {
	a, _ := pair(t)
	out := a.Run(t, "ip", "-br", "addr")
	if !strings.Contains(out, "10.9.0.1/24") || !strings.Contains(out, "fd09::1/64") {
		t.Errorf("addresses inside:\n%s", out)
	}
	if _, err := a.Output("sh", "-c", "echo reason >&2; exit 3"); err == nil || !strings.Contains(err.Error(), "reason") {
		t.Errorf("failed command's error = %v, want it to contain what was on stderr", err)
	}
}
