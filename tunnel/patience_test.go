package tunnel

import (
	"errors"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func send(t *testing.T, q *quietConn, n int, to net.Addr) {
	t.Helper()
	if _, _, err := q.WriteMsgUDP(make([]byte, n), nil, to.(*net.UDPAddr)); err != nil {
		t.Fatal(err)
	}
}

func receive(t *testing.T, q *quietConn) {
	t.Helper()
	if n, err := q.ReadBatch(messages(1), 0); n != 1 || err != nil {
		t.Fatalf("read %d packets, %v; want one", n, err)
	}
}

// woken reports whether a packet would wake the reader now.
func (s *patientSocket) woken() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.waiter.Watching()
}

// Packets wake the reader but while little is written, and nobody waits for one.
func TestPatience(t *testing.T) {
	other := quiet(t, "udp4", "127.0.0.1:0")
	q, s := patient(t, "udp4", "127.0.0.1:0")
	state := func(when string, want bool) {
		t.Helper()
		if got := s.woken(); got != want {
			t.Errorf("%s: a packet wakes the reader: %v, want %v", when, got, want)
		}
	}
	send(t, q, 100, other.LocalAddr())
	state("after a write", false)
	send(t, q, patientBytes, other.LocalAddr())
	state("after many bytes", true)
	send(t, other, 100, q.LocalAddr())
	receive(t, q)
	send(t, q, 100, other.LocalAddr())
	state("once a packet has been read", false)
	s.expect(1)
	state("while an answer is waited for", true)
	send(t, q, 100, other.LocalAddr())
	state("and after a write", true)
	s.expect(-1)
	state("when it has come", false)
	s.setPatient(false)
	state("when told not to be patient", true)
	send(t, q, 100, other.LocalAddr())
	state("and after a write", true)
}

// An alarm that rang when nobody waited is seen by the next wait.
func TestPatienceEndsUnseen(t *testing.T) {
	other := quiet(t, "udp4", "127.0.0.1:0")
	q, s := patient(t, "udp4", "127.0.0.1:0")
	send(t, q, 100, other.LocalAddr())
	eventually(t, "the alarm rings", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.waiter.Rung()
	})
	got := make(chan error, 1)
	go func() {
		_, err := q.ReadBatch(messages(1), 0)
		got <- err
	}()
	eventually(t, "packets wake the reader", s.woken)
	send(t, other, 100, q.LocalAddr())
	if err := <-got; err != nil {
		t.Error(err)
	}
}

// What came while nobody waited for it is read when somebody does, though the kernel
// does not tell of it: it has told of a packet before.
func TestExpectLooks(t *testing.T) {
	other := quiet(t, "udp4", "127.0.0.1:0")
	_, s := patient(t, "udp4", "127.0.0.1:0")
	s.setPatient(false)
	receive := func() {
		t.Helper()
		waits, done := make(chan struct{}, 1), make(chan error, 1)
		go func() {
			done <- s.Read(func(fd uintptr) bool {
				if n, _ := unix.Read(int(fd), make([]byte, 200)); n > 0 {
					return true
				}
				select {
				case waits <- struct{}{}:
				default:
				}
				return false
			})
		}()
		<-waits
		send(t, other, 100, s.LocalAddr())
		s.expect(1)
		defer s.expect(-1)
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
		case <-time.After(deadline):
			t.Fatal("the packet was not read")
		}
	}
	receive()
	s.setPatient(true)
	s.mu.Lock()
	err := s.waiter.Alarm(time.Hour) // else it would be read by that
	s.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	receive()
}

// Over a long way nothing waits: QUIC would take that for a jam.
func TestPatienceIsForShortWays(t *testing.T) {
	_, socket := patient(t, "udp4", "127.0.0.1:0")
	s := newSession()
	s.links = []*link{{socket: socket}}
	for _, tt := range []struct {
		rtt  time.Duration
		want bool
	}{{nearby + 1, false}, {nearby, true}} {
		s.clock.add(0, 0, int64(tt.rtt))
		if s.attend(); socket.woken() == tt.want {
			t.Errorf("round trip of %v: patient: %v, want %v", tt.rtt, !tt.want, tt.want)
		}
	}
}

// A lane's writer that waits for the other side says so: what frees it must be read
// at once. Over a path of 1 ms with 1 % of loss it would cost two thirds of the
// throughput.
func TestWriterExpects(t *testing.T) {
	c, _ := pair(t, ClientConfig{}) // its lane is not read
	l := c.Lane(0)
	for l.Data(1, 1, 2, make([]byte, 1<<10)) {
		l.Flush()
	}
	l.mu.Lock()
	stream := l.out.stream
	l.mu.Unlock()
	var waits atomic.Int64
	done := make(chan error, 1)
	go func() { done <- l.write(stream, func(n int) { waits.Add(int64(n)) }) }() // beside the lane's own
	eventually(t, "it says that it waits", func() bool { return waits.Load() == 1 })
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if err := <-done; err != nil { // or it found the lane down
		t.Log(err)
	}
	if n := waits.Load(); n != 0 {
		t.Errorf("%d wait when nobody writes", n)
	}
}

// A packet that waits to be read is read at the next write, or when nothing has been
// written for a while.
func TestPatienceEnds(t *testing.T) {
	other := quiet(t, "udp4", "127.0.0.1:0")
	q, s := patient(t, "udp4", "127.0.0.1:0")
	got := make(chan error)
	go func() {
		ms := messages(1)
		for {
			_, err := q.ReadBatch(ms, 0)
			got <- err
			if err != nil {
				return
			}
		}
	}()
	for range 3 {
		send(t, q, 100, other.LocalAddr())
		send(t, other, 100, q.LocalAddr())
		if err := <-got; err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "packets wake the reader again", s.woken)
	for range 3 {
		send(t, other, 100, q.LocalAddr())
		if err := <-got; err != nil {
			t.Fatal(err)
		}
	}
	if err := s.SetReadDeadline(time.Now()); err != nil {
		t.Fatal(err)
	}
	if err := <-got; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%v, want that the deadline is exceeded", err)
	}
	if err := s.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	send(t, other, 100, q.LocalAddr())
	receive(t, q)
}

func TestPatientSocketIsClosed(t *testing.T) {
	before := descriptors(t)
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	s, err := takeOver(c)
	if err != nil {
		t.Fatal(err)
	}
	q, err := newQuietConn(s)
	if err != nil {
		t.Fatal(err)
	}
	q.wrote = s.wrote
	done := make(chan error)
	go func() {
		_, err := q.ReadBatch(messages(1), 0)
		done <- err
	}()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := <-done; !errors.Is(err, net.ErrClosed) {
		t.Errorf("read: %v, want net.ErrClosed", err)
	}
	if _, _, err := q.WriteMsgUDP([]byte("x"), nil, s.local.(*net.UDPAddr)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("write: %v, want net.ErrClosed", err)
	}
	s.wrote(1)
	s.expect(1)
	s.setPatient(true)
	if err := s.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("second Close: %v, want net.ErrClosed", err)
	}
	if n := descriptors(t); n != before {
		t.Errorf("%d descriptors are open, %d before", n, before)
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(fds)
}

func TestPatientSocketDoesNotAllocate(t *testing.T) {
	a, _ := patient(t, "udp4", "127.0.0.1:0")
	b := quiet(t, "udp4", "127.0.0.1:0")
	from, to, ms, p := a.LocalAddr().(*net.UDPAddr), b.LocalAddr().(*net.UDPAddr), messages(receiveMost), make([]byte, 1200)
	if n := testing.AllocsPerRun(200, func() {
		if _, _, err := a.WriteMsgUDP(p, nil, to); err != nil {
			t.Error(err)
		}
		if _, _, err := b.WriteMsgUDP(p, nil, from); err != nil {
			t.Error(err)
		}
		if _, err := a.ReadBatch(ms, 0); err != nil {
			t.Error(err)
		}
	}); n != 0 {
		t.Errorf("a packet allocates %v times, want 0", n)
	}
}

// A link-local address names its interface.
func TestSenderZones(t *testing.T) {
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		t.Skip(err)
	}
	var s sender
	for _, tt := range []struct {
		zone  string
		scope uint32
	}{{"lo", uint32(lo.Index)}, {"", 0}, {"7", 7}, {"lo", uint32(lo.Index)}} {
		if err := s.name(&net.UDPAddr{IP: net.ParseIP("fe80::1"), Port: 1, Zone: tt.zone}); err != nil || s.v6.Scope_id != tt.scope {
			t.Errorf("zone %q: scope %d, %v; want %d", tt.zone, s.v6.Scope_id, err, tt.scope)
		}
	}
	if err := s.name(&net.UDPAddr{IP: net.ParseIP("fe80::1"), Port: 1, Zone: "none0"}); err == nil {
		t.Error("no error for an interface that does not exist")
	}
}
