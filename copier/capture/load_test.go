package capture

import (
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"flowtwin/internal/flow"
)

// Maps and samples change while packets come: none may be lost for that.
func TestSelectUnderLoad(t *testing.T) {
	client, server := pair(t)
	const addr = "10.9.0.2:80"
	serve(t, server, addr, []byte("answer"))
	set := openIn(t, server, Config{Matches: serverAt(addr), Rings: 2})
	tp := startTap(t, set)
	stop := make(chan struct{})
	var others sync.WaitGroup
	others.Go(func() {
		more := serverAt(addr)
		for i := range 64 {
			more = append(more, Match{Addr: netip.MustParseAddr(fmt.Sprintf("fd00::%x", i)), Port: uint16(1000 + i)})
		}
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			matches, choice := more[:1], flow.Choice(nil)
			if i%2 == 0 {
				matches, choice = more, flow.Choice{{Key: 1, ByPort: true, To: 1 << hashBits}}
			}
			if err := set.Select(matches, choice); err != nil {
				t.Error(err)
				return
			}
		}
	})
	const requests = 100
	body := []byte(strings.Repeat("x", 5000))
	for range requests {
		request(t, client, addr, body)
	}
	all := tp.until(t, fins(requests))
	close(stop)
	others.Wait()
	sent := 0
	for _, p := range all {
		if p.ToServer {
			sent += p.view.PayloadLen
		}
	}
	if sent < requests*len(body) {
		t.Errorf("%d bytes of %d captured", sent, requests*len(body))
	}
}

// A thread that was in another namespace must not be used by anything else there: the
// tunnel's sockets would be opened in the container.
func TestNetNSKeepsItsThreads(t *testing.T) {
	_, server := pair(t)
	own, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{Matches: []Match{{Port: 80}}, NetNS: "/run/netns/" + server.Name()}
	for range 5 {
		set, err := Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if err := set.Close(); err != nil {
			t.Fatal(err)
		}
	}
	// Also where it goes wrong inside.
	cfg.Interfaces = []string{"none"}
	for range 5 {
		if _, err := Open(cfg); err == nil {
			t.Fatal("opened an interface that is not there")
		}
	}
	var all, ready sync.WaitGroup
	hold := make(chan struct{})
	const threads = 50
	ready.Add(threads)
	for range threads {
		all.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			ready.Done()
			<-hold // so that each has a thread of its own
			if ns, err := os.Readlink(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid())); err != nil || ns != own {
				t.Errorf("a thread is in %s, not %s: %v", ns, own, err)
			}
		})
	}
	ready.Wait()
	close(hold)
	all.Wait()
}

// Kernels before 6.8 have a sixth of the memory for filters: who has many maps is told
// which knob it is.
func TestFilterBeyondTheSocketsMemory(t *testing.T) {
	_, server := pair(t)
	if err := server.Sysctl("net.core.optmem_max", "20480"); err != nil {
		t.Fatal(err)
	}
	cfg := Config{}
	for i := range 128 {
		cfg.Matches = append(cfg.Matches, Match{Addr: netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), Port: 80})
	}
	var set *Set
	var err error
	server.Do(func() { set, err = Open(cfg) })
	if err == nil {
		_ = set.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "net.core.optmem_max") {
		t.Errorf("opened with %v", err)
	}
}
