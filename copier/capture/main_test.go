package capture

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"flowtwin/internal/packet"
	"flowtwin/internal/testnet"
)

const patience = 20 * time.Second // for anything that happens at once normally

// openIn opens a capture inside ns, and closes it when the test ends.
func openIn(tb testing.TB, ns *testnet.NS, cfg Config) *Set {
	tb.Helper()
	var set *Set
	var err error
	ns.Do(func() { set, err = Open(cfg) })
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := set.Close(); err != nil {
			tb.Errorf("close: %v", err)
		}
	})
	return set
}

func serverAt(addr string) []Match {
	ap := netip.MustParseAddrPort(addr)
	return []Match{{Addr: ap.Addr(), Port: ap.Port()}}
}

// A taken packet is a copy of a captured one.
type taken struct {
	Packet
	view  packet.View
	fault packet.Fault
	ring  int
}

// A tap reads all rings of a set and keeps what they bring.
type tap struct {
	mu      sync.Mutex
	packets []taken
	changed chan struct{} // one token when packets has grown
	done    sync.WaitGroup
}

func startTap(tb testing.TB, set *Set) *tap {
	tb.Helper()
	tp := &tap{changed: make(chan struct{}, 1)}
	for i, r := range set.rings {
		tp.done.Go(func() { tp.read(tb, i, r) })
	}
	// Registered later than the set's Close, so called before it.
	tb.Cleanup(func() {
		if err := set.Close(); err != nil {
			tb.Error(err)
		}
		tp.done.Wait()
	})
	return tp
}

func (tp *tap) read(tb testing.TB, i int, r *Ring) {
	tb.Helper()
	for {
		ok, err := r.Next(time.Second)
		if errors.Is(err, os.ErrClosed) {
			return
		}
		if err != nil {
			tb.Error(err)
			return
		}
		if ok {
			tp.keep(i, r)
		}
	}
}

func (tp *tap) keep(i int, r *Ring) {
	tp.mu.Lock()
	defer tp.mu.Unlock()
	var p Packet
	for r.Packet(&p) {
		c := taken{Packet: p, ring: i}
		c.Data = append([]byte(nil), p.Data...)
		c.fault = c.view.Parse(c.Data, c.WireLen)
		tp.packets = append(tp.packets, c)
	}
	select {
	case tp.changed <- struct{}{}:
	default:
	}
}

// until waits for the packets so far to satisfy want, which says what is missing.
func (tp *tap) until(tb testing.TB, want func([]taken) string) []taken {
	tb.Helper()
	deadline := time.After(patience)
	for {
		tp.mu.Lock()
		all := tp.packets[:len(tp.packets):len(tp.packets)]
		tp.mu.Unlock()
		missing := want(all)
		if missing == "" {
			return all
		}
		select {
		case <-tp.changed:
		case <-deadline:
			tb.Fatalf("after %v: %s; captured %s", patience, missing, describe(all))
		}
	}
}

func describe(all []taken) string {
	var s strings.Builder
	fmt.Fprintf(&s, "%d packets", len(all))
	for _, p := range all[:min(len(all), 40)] {
		fmt.Fprintf(&s, "\n  to server %t, iface %d, wire %d, got %d, %v, %v:%d > %v:%d flags %x seq %d + %d", p.ToServer, p.Iface,
			p.WireLen, len(p.Data), p.fault, p.view.Src, p.view.SrcPort, p.view.Dst, p.view.DstPort, p.view.Flags, p.view.Seq, p.view.PayloadLen)
	}
	return s.String()
}

// fins waits for n flows to have ended in both directions.
func fins(n int) func([]taken) string {
	return func(all []taken) string {
		toServer, fromServer := map[uint16]bool{}, map[uint16]bool{}
		for _, p := range all {
			if !p.view.Flags.Has(packet.FIN) {
				continue
			}
			if p.ToServer {
				toServer[p.view.SrcPort] = true
			} else {
				fromServer[p.view.DstPort] = true
			}
		}
		if len(toServer) < n || len(fromServer) < n {
			return fmt.Sprintf("FINs of %d and %d flows, want %d", len(toServer), len(fromServer), n)
		}
		return ""
	}
}

// randomBytes returns n bytes that are not likely to match when misplaced.
func randomBytes(tb testing.TB, n int) []byte {
	tb.Helper()
	b := make([]byte, n)
	if _, err := rand.Read(b); err != nil {
		tb.Fatal(err)
	}
	return b
}

// serve accepts connections at addr inside ns, reads each to its end, and then
// answers with answer.
func serve(tb testing.TB, ns *testnet.NS, addr string, answer []byte) {
	tb.Helper()
	l := ns.Listen(tb, addr)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = c.Close() }()
				_, _ = io.Copy(io.Discard, c)
				_, _ = c.Write(answer)
			}()
		}
	}()
}

// request connects from inside ns, sends body and reads the answer to its end.
func request(tb testing.TB, ns *testnet.NS, addr string, body []byte) []byte {
	tb.Helper()
	var c net.Conn
	var err error
	ns.Do(func() { c, err = net.DialTimeout("tcp", addr, patience) })
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		tb.Fatal(err)
	}
	if _, err := c.Write(body); err != nil {
		tb.Fatal(err)
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		tb.Fatal(err)
	}
	answer, err := io.ReadAll(c)
	if err != nil {
		tb.Fatal(err)
	}
	return answer
}
