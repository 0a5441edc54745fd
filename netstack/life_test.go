package netstack

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"flowtwin/internal/packet"
)

func TestTenThousandConnectionsAtOnce(t *testing.T) {
	const conns, size = 10_000, 300
	h := open(t, Config{Shards: 2})
	target := h.serveOutside(t, "10.9.0.1:7007", 4)
	closed := 0
	var all []*Conn
	for i := range conns {
		c := h.dial(t, client(i*7919), target, uint64(i))
		s := &sender{data: bytes.Repeat([]byte{byte(i)}, size)}
		done := false
		c.Session = func(c *Conn) {
			if s.event(c); s.got == size && !done {
				done = true
				closed++
			}
		}
		all = append(all, c)
		if i%64 == 0 {
			h.await(t, "nothing", func() bool { return true })
		}
	}
	h.await(t, "all answers", func() bool { return closed == conns })
	if got := h.net.Stats().TuplesInUse; got != conns {
		t.Errorf("%d tuples in use, want %d", got, conns)
	}
	for _, c := range all {
		if c.State() != Established || c.Acked() != size {
			t.Fatalf("conn %d: %v, acked %d", c.User, c.State(), c.Acked())
		}
		c.Release()
	}
	h.awaitEmpty(t)
	if st := h.net.Stats(); st.TuplesInUse != 0 || st.TuplesWaiting != conns {
		t.Errorf("stats %+v", st)
	}
}

// Each short connection gets a tuple of its own, although the client uses its
// ports again; none meets the target's TIME_WAIT of an earlier one.
func TestShortConnectionsFromOneAddress(t *testing.T) {
	const conns = 20_000
	h := open(t, Config{Pool: []netip.Prefix{netip.MustParsePrefix("198.18.7.7/32")}, Shards: 2})
	target := h.serve(t, "10.9.0.1:0", func(c *net.TCPConn) {
		_, _ = io.ReadFull(c, make([]byte, 4))
		_, _ = c.Write([]byte("answer"))
		_ = c.Close() // first: TIME_WAIT stays here
	})
	open, done := 0, 0
	used := map[tupleKey]bool{}
	for i := 0; done < conns; {
		for ; open < 100 && i < conns; i++ {
			c := h.dial(t, netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, 1}), uint16(i%5000)), target, 0)
			if used[c.key] {
				t.Fatalf("connection %d: tuple used before", i)
			}
			used[c.key] = true
			s := &sender{data: []byte("ping")}
			c.Session = func(c *Conn) {
				if s.event(c); s.eof || c.State() > Established {
					if s.got != 6 {
						t.Errorf("%d bytes, %v", s.got, c.State())
					}
					c.Release()
					open--
					done++
				}
			}
			open++
		}
		before := done
		h.await(t, "progress", func() bool { return done > before })
	}
	h.awaitEmpty(t)
	if n := h.snmp(t, "TcpExt", "TCPChallengeACK"); n != 0 {
		t.Errorf("%d tuples collided in the target's kernel", n)
	}
}

func TestLargeAnswerIsAbsorbed(t *testing.T) {
	const size = 100 << 20
	for _, mtu := range []int{65535, 1500} {
		h := open(t, Config{MTU: mtu})
		target := h.serve(t, "10.9.0.1:0", func(c *net.TCPConn) {
			_, _ = io.CopyN(c, zeros{}, size)
			_ = c.Close()
		})
		s := &sender{}
		c := h.dial(t, client(1), target, 0)
		c.Session = s.event
		h.await(t, "the end", func() bool { return s.eof })
		if s.got != size {
			t.Errorf("mtu %d: absorbed %d bytes, want %d", mtu, s.got, size)
		}
		_ = c.CloseWrite()
		h.awaitState(t, c, Finished)
		c.Release()
		h.awaitEmpty(t)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

func TestHalfClose(t *testing.T) {
	h := open(t, Config{})
	target := h.serve(t, "10.9.0.1:0", func(c *net.TCPConn) {
		b, _ := io.ReadAll(c) // until our FIN
		_, _ = c.Write(bytes.ToUpper(b))
		_, _ = c.Write([]byte(" and more"))
		_ = c.Close()
	})
	s := &sender{data: []byte("hello"), fin: true}
	c := h.dial(t, client(1), target, 0)
	c.Session = s.event
	h.await(t, "the end", func() bool { return s.eof })
	if s.got != len("HELLO and more") {
		t.Errorf("absorbed %d bytes", s.got)
	}
	h.awaitState(t, c, Finished)
	c.Release()
	h.awaitEmpty(t)
}

func TestTargetClosesFirst(t *testing.T) {
	h := open(t, Config{})
	target := h.serve(t, "10.9.0.1:0", func(c *net.TCPConn) { _ = c.Close() })
	s := &sender{}
	c := h.dial(t, client(1), target, 0)
	c.Session = s.event
	h.await(t, "EOF", func() bool { return s.eof })
	if got := c.State(); got != Established {
		t.Errorf("state %v after the target's FIN, want established", got)
	}
	if _, eof, err := c.Absorb(); !eof || err != nil {
		t.Errorf("second Absorb: eof %v, err %v", eof, err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Error(err)
	}
	h.awaitState(t, c, Finished)
	if _, err := c.Write([]byte("x")); !errors.Is(err, ErrClosed) {
		t.Errorf("Write after the end: %v", err)
	}
	c.Release()
	h.awaitEmpty(t)
}

func TestTargetResets(t *testing.T) {
	h := open(t, Config{})
	target := h.serve(t, "10.9.0.1:0", func(c *net.TCPConn) {
		_, _ = c.Read(make([]byte, 1))
		_ = c.SetLinger(0)
		_ = c.Close()
	})
	s := &sender{data: []byte("x")}
	c := h.dial(t, client(1), target, 0)
	c.Session = s.event
	h.awaitState(t, c, Reset)
	if _, err := c.Write([]byte("x")); !errors.Is(err, ErrReset) {
		t.Errorf("Write after a reset: %v", err)
	}
	c.Release()
	h.awaitEmpty(t)
}

func TestAbortResetsTheTarget(t *testing.T) {
	h := open(t, Config{})
	failed := make(chan error, 1)
	target := h.serve(t, "10.9.0.1:0", func(c *net.TCPConn) {
		_, err := c.Read(make([]byte, 1))
		failed <- err
	})
	c := h.dial(t, client(1), target, 0)
	h.awaitState(t, c, Established)
	c.Abort()
	select {
	case err := <-failed:
		if err == nil || errors.Is(err, io.EOF) {
			t.Errorf("target read: %v, want a reset", err)
		}
	case <-time.After(deadline):
		t.Fatal("the target has not seen the reset")
	}
	if got := c.State(); got != Reset {
		t.Errorf("state %v", got)
	}
	c.Release()
	h.awaitEmpty(t)
}

func TestRefused(t *testing.T) {
	h := open(t, Config{})
	for _, target := range []string{"10.9.0.1:9", "[fd09::1]:9"} {
		c := h.dial(t, client(1), netip.MustParseAddrPort(target), 0)
		h.awaitState(t, c, Refused)
		if _, err := c.Write([]byte("x")); !errors.Is(err, ErrRefused) {
			t.Errorf("Write: %v", err)
		}
		c.Release()
		h.awaitEmpty(t)
	}
}

// Without a route the kernel answers with ICMP, as a rejecting firewall does.
func TestUnreachable(t *testing.T) {
	h := open(t, Config{})
	h.ns.Run(t, "ip", "route", "add", "prohibit", "10.98.0.0/16")
	h.ns.Run(t, "ip", "-6", "route", "add", "prohibit", "fd98::/64")
	for _, key := range []string{"net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"} {
		if err := h.ns.Sysctl(key, "1"); err != nil {
			t.Fatal(err)
		}
	}
	for _, target := range []string{"10.98.0.1:80", "[fd98::1]:80"} {
		c := h.dial(t, client(1), netip.MustParseAddrPort(target), 0)
		h.awaitState(t, c, Refused)
		c.Release()
		h.awaitEmpty(t)
	}
	if n := h.net.Stats().Strays; n != 0 {
		t.Errorf("%d strays", n)
	}
}

func TestNoAnswer(t *testing.T) {
	h := open(t, Config{Pool: []netip.Prefix{netip.MustParsePrefix("198.18.0.0/15")}})
	h.lose(func(*packet.View) bool { return true })
	h.net.stacks[0].dialing.timeout = 50 * time.Millisecond
	c := h.dial(t, client(1), netip.MustParseAddrPort("10.99.0.1:80"), 0) // nobody has it
	h.awaitState(t, c, TimedOut)
	if c.Connect() != 0 {
		t.Error("connect time without a handshake")
	}
	c.Release()
	h.awaitEmpty(t)
}

func TestReleaseWhileConnecting(t *testing.T) {
	h := open(t, Config{})
	c := h.dial(t, client(1), netip.MustParseAddrPort("10.99.0.1:80"), 0)
	c.Release()
	h.awaitEmpty(t)
}

func TestTargetsThatCannotBeDialled(t *testing.T) {
	h := open(t, Config{})
	for _, target := range []string{"[::1]:80", "127.0.0.1:80", "0.0.0.0:80", "10.9.0.1:0", "[fe80::1%lo]:80", "224.0.0.1:80"} {
		addr := netip.MustParseAddrPort(target)
		l, err := h.net.Acquire(client(1), addr.Addr().Is6())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := h.net.Stack(l.Shard).Dial(l, addr, 0); err == nil {
			t.Errorf("Dial %s: no error", target)
		} else {
			t.Log(err)
		}
	}
	if n := h.net.Stats().TuplesInUse; n != 0 {
		t.Errorf("%d tuples kept by failed dials", n)
	}
}

// A server that speaks first must not wait for the client's first byte, although
// the end of the handshake is held back for it.
func TestServerSpeaksFirst(t *testing.T) {
	h := open(t, Config{})
	target := h.serve(t, "10.9.0.1:0", func(c *net.TCPConn) {
		_, _ = c.Write([]byte("220 hello\r\n"))
		echo(c)
	})
	s := &sender{}
	c := h.dial(t, client(1), target, 0)
	c.Session = s.event
	h.await(t, "greeting", func() bool { return s.got == 11 })
	c.Release()
}

// The tap sees each packet of the target once, with outward addresses. The target's
// kernel may send some of them again.
func TestTapSeesEachPacketOnce(t *testing.T) {
	h := open(t, Config{MTU: 1500, Shards: 2})
	var mu sync.Mutex
	var v packet.View
	const size = 1 << 20
	type end struct {
		packets        int
		start          packet.Seq
		have           [size]bool // bytes, by their sequence numbers
		syn, fin       bool
		client, server netip.AddrPort
	}
	ends := map[uint64]*end{1: {}, 2: {}}
	for i := range h.net.Shards() {
		h.net.Stack(i).SetTap(func(user uint64, at int64, headers []byte, payload int) {
			mu.Lock()
			defer mu.Unlock()
			e := ends[user]
			if f := v.Parse(headers, len(headers)); f != packet.OK || len(v.Headers) != len(headers) || v.PayloadLen != payload {
				t.Errorf("tap of user %d: %v, %d header bytes, payload %d and %d", user, f, len(headers), v.PayloadLen, payload)
			}
			if since := time.Since(time.Unix(0, at)); since < 0 || since > time.Minute {
				t.Errorf("time of a packet is off by %v", since)
			}
			e.packets++
			if v.Flags.Has(packet.SYN) {
				e.syn, e.start = true, v.Seq.Add(1)
			}
			begin := v.Seq.Diff(e.start)
			if payload > 0 && (begin < 0 || begin+payload > size) {
				t.Errorf("tap of user %d: %d bytes at %d of %d", user, payload, begin, size)
				return
			}
			for i := range payload {
				e.have[begin+i] = true
			}
			e.fin = e.fin || v.Flags.Has(packet.FIN)
			e.client = netip.AddrPortFrom(v.Dst.Netip(), v.DstPort)
			e.server = netip.AddrPortFrom(v.Src.Netip(), v.SrcPort)
		})
	}
	for user, addr := range map[uint64]string{1: "10.9.0.1:0", 2: "[fd09::1]:0"} {
		target := h.serve(t, addr, echo)
		s := &sender{data: make([]byte, size), fin: true}
		l, err := h.net.Acquire(client(1), target.Addr().Is6())
		if err != nil {
			t.Fatal(err)
		}
		c, err := h.net.Stack(l.Shard).Dial(l, target, user)
		if err != nil {
			t.Fatal(err)
		}
		c.Session = s.event
		h.await(t, "echo", func() bool { return s.eof })
		c.Release()
		h.awaitEmpty(t)
		mu.Lock()
		if e := ends[user]; slices.Contains(e.have[:], false) || !e.syn || !e.fin || e.client != l.Client || e.server != target {
			t.Errorf("tap of %s has not seen all %d bytes, SYN %v and FIN %v, from %v to %v; it was from %v to %v",
				addr, size, e.syn, e.fin, target, l.Client, e.server, e.client)
		}
		mu.Unlock()
	}
	mu.Lock()
	defer mu.Unlock()
	if st, got := h.net.Stats(), ends[1].packets+ends[2].packets; uint64(got) != st.TunPacketsIn-st.Strays {
		t.Errorf("tap saw %d packets, the TUN %d with %d strays", got, st.TunPacketsIn, st.Strays)
	}
}

// Close while connections are in every state.
func TestCloseResets(t *testing.T) {
	h := open(t, Config{Shards: 2})
	failed := make(chan error, 100)
	target := h.serve(t, "10.9.0.1:0", func(c *net.TCPConn) {
		_, err := io.Copy(io.Discard, c)
		failed <- err
	})
	var all []*Conn
	for i := range cap(failed) {
		all = append(all, h.dial(t, client(i), target, 0))
	}
	h.await(t, "handshakes", func() bool {
		for _, c := range all {
			if c.State() != Established {
				return false
			}
		}
		return true
	})
	_, _ = all[0].Write(make([]byte, 1<<20))
	h.dial(t, client(1000), netip.MustParseAddrPort("10.99.0.1:80"), 0)
	if err := h.net.Close(); err != nil {
		t.Fatal(err)
	}
	for range cap(failed) {
		if err := <-failed; err == nil {
			t.Error("the target saw an orderly end, want a reset")
		}
	}
}
