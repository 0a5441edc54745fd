package netstack

import (
	"bytes"
	"fmt"
	"testing"
)

// writer sends data as the send buffer takes it, then FIN.
type sender struct {
	data []byte
	fin  bool
	got  int
	eof  bool
}

func (s *sender) event(c *Conn) {
	if c.State() == Connecting {
		return
	}
	for len(s.data) > 0 {
		n, err := c.Write(s.data)
		if err != nil || n == 0 {
			break
		}
		s.data = s.data[n:]
	}
	if len(s.data) == 0 && s.fin {
		s.fin = false
		_ = c.CloseWrite()
	}
	n, eof, _ := c.Absorb()
	s.got += n
	s.eof = s.eof || eof
}

func TestEcho(t *testing.T) {
	for _, addr := range []string{"10.9.0.1:0", "[fd09::1]:0", "127.0.0.1:0"} {
		for _, mtu := range []int{65535, 1500} {
			for _, shards := range []int{1, 3} {
				for _, size := range []int{1, 600, 5 << 20} {
					t.Run(fmt.Sprintf("%s mtu %d shards %d size %d", addr, mtu, shards, size), func(t *testing.T) {
						h := open(t, Config{MTU: mtu, Shards: shards, Loopback: true})
						target := h.serve(t, addr, echo)
						s := &sender{data: bytes.Repeat([]byte("x"), size), fin: true}
						c := h.dial(t, client(1), target, 7)
						c.Session = s.event
						h.await(t, "all echoed", func() bool { return s.eof })
						if s.got != size {
							t.Errorf("absorbed %d bytes, want %d", s.got, size)
						}
						if got := c.State(); got != Finished {
							t.Errorf("state %v, want finished", got)
						}
						if got := c.Acked(); got != uint64(size) {
							t.Errorf("acked %d, want %d", got, size)
						}
						if c.Connect() <= 0 {
							t.Error("no connect time")
						}
						c.Release()
						h.awaitEmpty(t)
						if n := h.snmp(t, "Tcp", "InCsumErrors") + h.snmp(t, "Tcp", "InErrs"); n != 0 {
							t.Errorf("the target's kernel saw %d bad packets", n)
						}
						// Strays are not looked at: a kernel that was kept waiting sends its FIN again.
						if st := h.net.Stats(); st.TuplesWaiting != 1 || st.TuplesInUse != 0 {
							t.Errorf("stats %+v", st)
						}
					})
				}
			}
		}
	}
}
