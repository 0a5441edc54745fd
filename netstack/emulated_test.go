package netstack

import (
	"bytes"
	"io"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"flowtwin/internal/packet"
)

// kernelRTT returns the least round-trip time that the target's kernel has met.
func kernelRTT(t *testing.T, c *net.TCPConn) (rtt time.Duration) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Error(err)
		return 0
	}
	var info *unix.TCPInfo
	if cerr := raw.Control(func(fd uintptr) { info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) }); cerr != nil || err != nil {
		t.Error(cerr, err)
		return 0
	}
	return time.Duration(info.Min_rtt) * time.Microsecond
}

// The target's kernel meets clients as far away as told, each at its own distance
// where leases say so, with segments of the size that a real network carries.
func TestTargetMeetsTheRoundTripTime(t *testing.T) {
	const most = time.Second // an order of magnitude, not a measurement
	for name, tt := range map[string]struct {
		line  Line
		lease time.Duration
		least time.Duration
	}{
		"for all":      {Line{RTT: 40 * time.Millisecond}, 0, 40 * time.Millisecond},
		"with jitter":  {Line{RTT: 60 * time.Millisecond, Jitter: 10 * time.Millisecond}, 0, 50 * time.Millisecond},
		"of the lease": {Line{Leased: true}, 80 * time.Millisecond, 80 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			h := open(t, Config{Line: tt.line})
			rtts := make(chan time.Duration, 1)
			target := h.serve(t, "10.9.0.1:0", func(c *net.TCPConn) {
				_, _ = io.ReadFull(c, make([]byte, 300_000))
				_, _ = c.Write(bytes.Repeat([]byte("y"), 300_000))
				_, _ = io.Copy(io.Discard, c) // the answer is acknowledged
				rtts <- kernelRTT(t, c)
				_ = c.Close()
			})
			l, err := h.net.Acquire(client(1), false)
			if err != nil {
				t.Fatal(err)
			}
			if tt.line.Leased {
				l.RTT = tt.lease
			}
			began := time.Now()
			c, err := h.net.Stack(l.Shard).Dial(l, target, 0)
			if err != nil {
				t.Fatal(err)
			}
			s := &sender{data: bytes.Repeat([]byte("x"), 300_000)}
			c.Session = s.event
			h.awaitState(t, c, Established)
			if took := time.Since(began); c.Connect() == 0 || c.Connect() > took-tt.least {
				t.Errorf("the target's own part of a handshake of %v is %v", took, c.Connect())
			}
			h.await(t, "the answer", func() bool { return s.got == 300_000 })
			if took := time.Since(began); took < 2*tt.least {
				t.Errorf("handshake and answer took %v", took)
			}
			if err := c.CloseWrite(); err != nil {
				t.Error(err)
			}
			h.await(t, "the end", func() bool { s.event(c); return s.eof })
			if got := <-rtts; got < tt.least-5*time.Millisecond || got > most {
				t.Errorf("the target's kernel measures %v, want at least %v", got, tt.least)
			}
			if got := h.ns.Run(t, "ip", "link", "show", h.net.Name()); !strings.Contains(got, " mtu 1500 ") {
				t.Errorf("the device: %s", got)
			}
			c.Release()
			h.awaitEmpty(t)
		})
	}
}

// On a bad line everything still arrives, by TCP's doing; what was lost is counted.
func TestBadLine(t *testing.T) {
	h := open(t, Config{Line: Line{RTT: 4 * time.Millisecond, Loss: 0.02, Bandwidth: 20_000_000}})
	target := h.serve(t, "[fd09::1]:0", echo)
	const conns, size = 20, 50_000
	var all []*sender
	for i := range conns {
		s := &sender{data: bytes.Repeat([]byte("x"), size), fin: true}
		h.dial(t, client(i), target, 0).Session = s.event
		all = append(all, s)
	}
	h.await(t, "all echoes", func() bool {
		for _, s := range all {
			if !s.eof {
				return false
			}
		}
		return true
	})
	for i, s := range all {
		if s.got != size {
			t.Errorf("conn %d: %d bytes came back", i, s.got)
		}
	}
	if s := h.net.Stats(); s.LineLost == 0 {
		t.Errorf("stats %+v", s)
	}
}

// Ten thousand delayed sessions are entries in a heap: no goroutine is started for
// any of them.
func TestTenThousandDelayedSessions(t *testing.T) {
	const conns, size = 10_000, 300
	h := open(t, Config{Shards: 2, Line: Line{RTT: 40 * time.Millisecond, Jitter: 10 * time.Millisecond}})
	target := h.serveOutside(t, "10.9.0.1:7008", 4)
	before := runtime.NumGoroutine()
	answered, answers := 0, make([]int, conns)
	var all []*Conn
	for i := range conns {
		c := h.dial(t, client(i*7919), target, uint64(i))
		s := &sender{data: bytes.Repeat([]byte{byte(i)}, size)}
		c.Session = func(c *Conn) {
			s.event(c)
			if s.got == size && answers[i] == 0 {
				answered++
			}
			answers[i] = s.got
		}
		all = append(all, c)
		if i%64 == 0 {
			h.await(t, "nothing", func() bool { return true })
		}
	}
	h.await(t, "all answers", func() bool { return answered == conns })
	// A timer of gVisor's that is due has a goroutine for a moment.
	h.await(t, "goroutines no more than before", func() bool { return runtime.NumGoroutine() <= before+2 })
	if s := h.net.Stats(); s.LineFull != 0 || s.LineLost != 0 {
		t.Errorf("stats %+v", s)
	}
	for _, c := range all {
		c.Release()
	}
	h.awaitEmpty(t)
}

// When the responder ends, what is still on its way to the target arrives at once:
// no socket of the target is left behind.
func TestCloseEmptiesTheLine(t *testing.T) {
	h := open(t, Config{Line: Line{RTT: 400 * time.Millisecond}})
	ended := make(chan int64, 1)
	target := h.serve(t, "10.9.0.1:0", func(c *net.TCPConn) {
		n, _ := io.Copy(io.Discard, c)
		ended <- n
		_ = c.Close()
	})
	c := h.dial(t, client(1), target, 0)
	s := &sender{data: []byte("request")}
	c.Session = s.event
	h.await(t, "the request", func() bool { s.event(c); return c.State() == Established && len(s.data) == 0 })
	if err := h.net.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ended:
	case <-time.After(deadline):
		t.Error("the target's socket is left open")
	}
}

// secondAway returns a stack without a device, a round trip of a second before its
// targets, by a clock that stands at at.
func secondAway(t *testing.T, at *time.Duration) (*Net, *Stack, *wire) {
	t.Helper()
	n, _, w := unplugged(t)
	s := n.stacks[0]
	s.lines = newLines(s, Line{RTT: time.Second}, func() time.Duration { return *at })
	t.Cleanup(s.lines.injector.close)
	s.out.line = s.lines
	return n, s, w
}

// A conn that is over keeps its tuple until its last packet has left: the target's
// packets that cross it must not be answered by a reset that overtakes it.
func TestConnWaitsForItsLastPacket(t *testing.T) {
	var at time.Duration
	n, s, w := secondAway(t, &at)
	l, err := n.Acquire(client(1), false)
	if err != nil {
		t.Fatal(err)
	}
	c, err := s.Dial(l, netip.MustParseAddrPort("10.0.0.1:80"), 0)
	if err != nil {
		t.Fatal(err)
	}
	c.Abort()
	c.Release()
	s.Ready(nil)
	if s.Len() != 1 {
		t.Error("the conn is forgotten while its SYN is under way")
	}
	at = time.Second
	s.lines.deliver(at)
	if p := w.take(t, 1)[0]; !packet.Flags(p[virtioHdr+ip4Header+13]).Has(packet.SYN) {
		t.Errorf("another packet than the SYN leaves: %x", p)
	}
	<-s.Wake()
	if s.Ready(nil); s.Len() != 0 {
		t.Error("the conn is kept although nothing is under way")
	}
}

// What is still on its way to a conn that is forgotten must not reach the one that
// has its place now.
func TestLatePacketReachesNobody(t *testing.T) {
	var at time.Duration
	n, s, w := secondAway(t, &at)
	target := netip.MustParseAddrPort("10.0.0.1:80")
	dial := func(i int) *Conn {
		l, err := n.Acquire(client(i), false)
		if err != nil {
			t.Fatal(err)
		}
		c, err := s.Dial(l, target, 0)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	old := dial(1)
	at = 100 * time.Millisecond
	s.lines.receive(old, make([]byte, ip4Header+tcpHeader), 0, 1)
	old.Abort()
	old.Release()
	s.lines.deliver(500 * time.Millisecond)
	w.take(t, 1)
	s.v4.fresh = innerPorts // the next conn gets a place that was used
	if s.Ready(nil); s.Len() != 0 {
		t.Fatal("the conn is not forgotten")
	}
	if c := dial(2); c.slot != old.slot {
		t.Fatalf("slot %d, not %d", c.slot, old.slot)
	}
	s.lines.deliver(time.Second)
	if old.unacked.Load() != 0 {
		t.Error("the packet was shown to the stack")
	}
}

// The resets of the end are not lost, whatever the line loses: nothing would end the
// target's sockets afterwards.
func TestEndIsNotLost(t *testing.T) {
	const conns = 40
	h := open(t, Config{Line: Line{Loss: 1e-9, RTT: 2 * time.Millisecond, Bandwidth: 1e6}})
	began, ended := make(chan struct{}, conns), make(chan struct{}, conns)
	target := h.serve(t, "10.9.0.1:0", func(c *net.TCPConn) {
		began <- struct{}{}
		_, _ = io.Copy(io.Discard, c)
		ended <- struct{}{}
		_ = c.Close()
	})
	up := 0
	for i := range conns {
		h.dial(t, client(i), target, 0).Session = func(c *Conn) {
			if c.State() == Established {
				c.Session = func(*Conn) {}
				up++
			}
		}
	}
	h.await(t, "all connections", func() bool { return up == conns && len(began) == conns })
	l := h.net.Stack(0).lines
	l.mu.Lock()
	l.cfg.Loss = 0.5
	l.mu.Unlock()
	if err := h.net.Close(); err != nil {
		t.Fatal(err)
	}
	for i := range conns {
		select {
		case <-ended:
		case <-time.After(deadline / 10):
			t.Fatalf("%d of %d sockets of the target are left open", conns-i, conns)
		}
	}
}
