package tunnel

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/net/ipv4"
)

func udpOn(t *testing.T, network, addr string) *net.UDPConn {
	t.Helper()
	ua, err := net.ResolveUDPAddr(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.ListenUDP(network, ua)
	if err != nil {
		t.Skipf("no %s here: %v", network, err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func quiet(t *testing.T, network, addr string) *quietConn {
	t.Helper()
	q, err := newQuietConn(udpOn(t, network, addr))
	if err != nil {
		t.Fatal(err)
	}
	return q
}

// patient returns a connection whose reader is not woken by each packet.
func patient(t *testing.T, network, addr string) (*quietConn, *patientSocket) {
	t.Helper()
	s, err := takeOver(udpOn(t, network, addr))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	q, err := newQuietConn(s)
	if err != nil {
		t.Fatal(err)
	}
	q.wrote = s.wrote
	s.setPatient(true)
	return q, s
}

func messages(n int) []ipv4.Message {
	ms := make([]ipv4.Message, n)
	for i := range ms {
		ms[i].Buffers = [][]byte{make([]byte, 2000)}
		ms[i].OOB = make([]byte, 128)
	}
	return ms
}

// Packets arrive whole, in order, with the address of their sender, in each
// pairing of families that a socket can see.
func TestQuietConn(t *testing.T) {
	for _, tt := range []struct{ name, network, listen, fromNet, from string }{
		{"IPv4", "udp4", "127.0.0.1:0", "udp4", "127.0.0.1:0"},
		{"IPv6", "udp6", "[::1]:0", "udp6", "[::1]:0"},
		{"IPv4 at a socket for both", "udp", "[::]:0", "udp4", "127.0.0.1:0"},
		{"IPv6 at a socket for both", "udp", "[::]:0", "udp6", "[::1]:0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			server, client := quiet(t, tt.network, tt.listen), quiet(t, tt.fromNet, tt.from)
			me := client.LocalAddr().(*net.UDPAddr)
			port := server.LocalAddr().(*net.UDPAddr).Port
			to := &net.UDPAddr{IP: me.IP, Port: port}
			const packets = 20
			for i := range packets {
				if _, _, err := client.WriteMsgUDP(bytes.Repeat([]byte{byte(i)}, 1+60*i), nil, to); err != nil {
					t.Fatal(err)
				}
			}
			ms := messages(receiveMost)
			for got := 0; got < packets; {
				n, err := server.ReadBatch(ms, 0)
				if err != nil {
					t.Fatal(err)
				}
				for _, m := range ms[:n] {
					want := bytes.Repeat([]byte{byte(got)}, 1+60*got)
					if !bytes.Equal(m.Buffers[0][:m.N], want) {
						t.Fatalf("packet %d has %d bytes, want %d", got, m.N, len(want))
					}
					from := m.Addr.(*net.UDPAddr)
					if from.Port != me.Port || !from.IP.Equal(me.IP) {
						t.Fatalf("packet %d is from %v, want %v", got, from, me)
					}
					got++
				}
			}
			// And back, to the address that it came from.
			if _, _, err := server.WriteMsgUDP([]byte("back"), nil, ms[0].Addr.(*net.UDPAddr)); err != nil {
				t.Fatal(err)
			}
			if n, err := client.ReadBatch(ms, 0); err != nil || n != 1 || string(ms[0].Buffers[0][:ms[0].N]) != "back" {
				t.Errorf("read %d packets, %v", n, err)
			}
		})
	}
}

// The address is taken over from the last packet only when it is the same one.
func TestQuietConnTellsSendersApart(t *testing.T) {
	server := quiet(t, "udp4", "127.0.0.1:0")
	to := server.LocalAddr().(*net.UDPAddr)
	ms := messages(receiveMost)
	for range 3 {
		for _, ip := range []string{"127.0.0.2:0", "127.0.0.3:0"} {
			c := quiet(t, "udp4", ip)
			if _, _, err := c.WriteMsgUDP([]byte("x"), nil, to); err != nil {
				t.Fatal(err)
			}
			if _, err := server.ReadBatch(ms, 0); err != nil {
				t.Fatal(err)
			}
			got := ms[0].Addr.(*net.UDPAddr).AddrPort()
			want := c.LocalAddr().(*net.UDPAddr).AddrPort()
			if netip.AddrPortFrom(got.Addr().Unmap(), got.Port()) != netip.AddrPortFrom(want.Addr().Unmap(), want.Port()) {
				t.Errorf("sender %v, want %v", got, want)
			}
		}
	}
}

func TestQuietConnErrors(t *testing.T) {
	c := quiet(t, "udp4", "127.0.0.1:0")
	if _, _, err := c.WriteMsgUDP(make([]byte, 70_000), nil, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 9}); err == nil {
		t.Error("a packet of 70,000 bytes was sent")
	}
	done := make(chan error, 1)
	go func() {
		_, err := c.ReadBatch(messages(1), 0)
		done <- err
	}()
	_ = c.Close()
	if err := <-done; !errors.Is(err, net.ErrClosed) {
		t.Errorf("read on a closed socket: %v, want net.ErrClosed", err)
	}
	if _, _, err := c.WriteMsgUDP([]byte("x"), nil, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 9}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("write on a closed socket: %v, want net.ErrClosed", err)
	}
}

func TestQuietConnDoesNotAllocate(t *testing.T) {
	a, b := quiet(t, "udp4", "127.0.0.1:0"), quiet(t, "udp4", "127.0.0.1:0")
	to, ms, p := b.LocalAddr().(*net.UDPAddr), messages(receiveMost), make([]byte, 1200)
	if n := testing.AllocsPerRun(200, func() {
		if _, _, err := a.WriteMsgUDP(p, nil, to); err != nil {
			t.Error(err)
		}
		if _, err := b.ReadBatch(ms, 0); err != nil {
			t.Error(err)
		}
	}); n != 0 {
		t.Errorf("a packet allocates %v times, want 0", n)
	}
}
