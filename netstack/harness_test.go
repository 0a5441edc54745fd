package netstack

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/refs"

	"flowtwin/internal/testnet"
)

func TestMain(m *testing.M) {
	flag.Parse()
	if flag.Lookup("test.bench").Value.String() == "" { // it costs a tenth
		refs.SetLeakMode(refs.LeaksPanic)
	}
	if addr := os.Getenv(echoEnv); addr != "" {
		echoForever(addr)
		return
	}
	if work := os.Getenv(kernelEnv); work != "" {
		if err := kernelClient(work); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		return
	}
	if m.Run() == 0 {
		refs.DoLeakCheck()
	}
}

// deadline ends a test that waits for what does not come.
const deadline = 20 * time.Second

// host is a namespace with a Net in it and addresses for targets.
type host struct {
	ns  *testnet.NS
	net *Net
}

// open makes a namespace with targets 10.9.0.1 and fd09::1, and a Net in it.
func open(tb testing.TB, cfg Config) *host {
	tb.Helper()
	h := &host{ns: testnet.New(tb, "netstack")}
	for _, a := range []string{"10.9.0.1/24", "fd09::1/64"} {
		if err := h.ns.AddAddr("lo", a); err != nil {
			tb.Fatal(err)
		}
	}
	h.settle(tb)
	h.open(tb, cfg)
	return h
}

// settle waits until the kernel has made the local route of fd09::1: it does so
// some time after the address was added.
func (h *host) settle(tb testing.TB) {
	tb.Helper()
	end, poll := time.After(deadline), time.NewTicker(5*time.Millisecond)
	defer poll.Stop()
	for !strings.Contains(h.ns.Run(tb, "ip", "-6", "route", "show", "table", "local"), "local fd09::1") {
		select {
		case <-poll.C:
		case <-end:
			tb.Fatal("no local route for fd09::1")
		}
	}
}

func (h *host) open(tb testing.TB, cfg Config) {
	tb.Helper()
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.NewTextHandler(tb.Output(), nil))
	}
	var err error
	h.ns.Do(func() { h.net, err = Open(cfg) })
	if err != nil {
		tb.Fatal(err)
	}
	n := h.net
	tb.Cleanup(func() {
		if err := n.Close(); err != nil {
			tb.Errorf("close: %v", err)
		}
		if s := n.Stats(); s.TunDropped != 0 {
			tb.Errorf("%d packets dropped before the TUN", s.TunDropped)
		}
	})
}

// serve accepts at addr inside the namespace, and runs f for each connection.
func (h *host) serve(tb testing.TB, addr string, f func(*net.TCPConn)) netip.AddrPort {
	tb.Helper()
	l := h.ns.Listen(tb, addr)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go f(c.(*net.TCPConn))
		}
	}()
	return netip.MustParseAddrPort(l.Addr().String())
}

const echoEnv = "FLOWTWIN_TEST_ECHO"

// echoForever is the program of an echo server in a process of its own: the files
// that a process may have open do not suffice for both ends of 10,000 connections.
func echoForever(addr string) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) {
			_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
		})
	}}
	l, err := lc.Listen(context.Background(), "tcp", addr)
	if err != nil {
		fmt.Fprintln(os.Stdout, err)
		return
	}
	fmt.Fprintln(os.Stdout, "listening")
	for {
		c, err := l.Accept()
		if err != nil {
			fmt.Fprintln(os.Stdout, err)
			return
		}
		go echo(c.(*net.TCPConn))
	}
}

// serveOutside runs n processes of echoForever at addr inside the namespace.
func (h *host) serveOutside(tb testing.TB, addr string, n int) netip.AddrPort {
	tb.Helper()
	for range n {
		cmd := h.ns.Command(os.Args[0])
		cmd.Env = append(os.Environ(), echoEnv+"="+addr)
		out, err := cmd.StdoutPipe()
		if err != nil {
			tb.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		})
		if line, err := bufio.NewReader(out).ReadString('\n'); line != "listening\n" {
			tb.Fatalf("echo server: %q, %v", line, err)
		}
	}
	return netip.MustParseAddrPort(addr)
}

// echo is a server that returns what it gets until the client's FIN.
func echo(c *net.TCPConn) {
	_, _ = io.Copy(c, c)
	_ = c.Close()
}

func client(i int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, byte(2 + i>>16), byte(i >> 8)}), uint16(2000+i%60000))
}

// dial acquires a tuple for client and dials on its stack.
func (h *host) dial(tb testing.TB, client, target netip.AddrPort, user uint64) *Conn {
	tb.Helper()
	l, err := h.net.Acquire(client, target.Addr().Is6())
	if err != nil {
		tb.Fatal(err)
	}
	c, err := h.net.Stack(l.Shard).Dial(l, target, user)
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

// await runs the stacks' owner until cond holds: what a conn's session says is
// called at each of its events.
func (h *host) await(tb testing.TB, what string, cond func() bool) {
	tb.Helper()
	end := time.After(deadline)
	poll := time.NewTicker(10 * time.Millisecond) // several stacks, one owner
	defer poll.Stop()
	var ready []*Conn
	for {
		for i := range h.net.Shards() {
			ready = h.net.Stack(i).Ready(ready[:0])
			for _, c := range ready {
				if f, ok := c.Session.(func(*Conn)); ok {
					f(c)
				}
			}
		}
		if cond() {
			return
		}
		select {
		case <-h.net.Stack(0).Wake():
		case <-poll.C:
		case <-end:
			tb.Fatalf("waited in vain for %s; stats %+v", what, h.net.Stats())
		}
	}
}

// awaitState waits until c is in state want.
func (h *host) awaitState(tb testing.TB, c *Conn, want State) {
	tb.Helper()
	h.await(tb, fmt.Sprintf("state %v (now %v)", want, c.State()), func() bool { return c.State() == want })
}

// awaitEmpty waits until all conns are forgotten.
func (h *host) awaitEmpty(tb testing.TB) {
	tb.Helper()
	h.await(tb, "empty stacks", func() bool {
		n := 0
		for i := range h.net.Shards() {
			n += h.net.Stack(i).Len()
		}
		return n == 0
	})
}

// snmp returns a counter of the namespace's kernel.
func (h *host) snmp(tb testing.TB, proto, name string) int {
	tb.Helper()
	var names []string
	for line := range strings.Lines(h.ns.Run(tb, "cat", "/proc/net/snmp", "/proc/net/netstat")) {
		f := strings.Fields(line)
		if f[0] != proto+":" {
			continue
		}
		if names == nil {
			names = f
			continue
		}
		for i := range names {
			if names[i] == name {
				n, err := strconv.Atoi(f[i])
				if err != nil {
					tb.Fatal(err)
				}
				return n
			}
		}
	}
	tb.Fatalf("no counter %s %s", proto, name)
	return 0
}
