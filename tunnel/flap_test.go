package tunnel

import (
	"fmt"
	"net"
	"syscall"
	"testing"

	"golang.org/x/net/ipv4"
)

// What the kernel refuses for a moment must not end the tunnel; what tells something
// about the path or the socket must be told.
func TestRefusalsThatPass(t *testing.T) {
	for errno, want := range map[syscall.Errno]bool{
		syscall.ENETUNREACH: true, syscall.EHOSTUNREACH: true, syscall.ENETDOWN: true, syscall.EPERM: true, syscall.ENOBUFS: true,
		syscall.EMSGSIZE: false, syscall.EIO: false, syscall.EBADF: false, syscall.EINVAL: false,
	} {
		q := &quietConn{udpSocket: &net.UDPConn{}}
		if got := passes(q.failed("write", "sendmsg", errno)); got != want {
			t.Errorf("%v passes: %t", errno, got)
		}
	}
	if passes(fmt.Errorf("closed: %w", net.ErrClosed)) {
		t.Error("a closed socket passes")
	}
}

// Before anything was heard a refusal is an answer: the next address is tried at once.
// Then the interface may be back in a moment.
func TestRefusalBeforeAndAfterSomethingWasHeard(t *testing.T) {
	f := &flapConn{quietConn: quiet(t, "udp4", "127.0.0.1:0")}
	f.out.call = func(uintptr) bool { f.out.errno = syscall.ENETUNREACH; return true }
	refused := func() bool {
		_, _, err := f.WriteMsgUDP([]byte("x"), nil, f.LocalAddr().(*net.UDPAddr))
		return err != nil
	}
	if !refused() {
		t.Error("a refusal was not told")
	}
	other := quiet(t, "udp4", "127.0.0.1:0")
	if _, _, err := other.WriteMsgUDP([]byte("x"), nil, f.LocalAddr().(*net.UDPAddr)); err != nil {
		t.Fatal(err)
	}
	ms := []ipv4.Message{{Buffers: [][]byte{make([]byte, 10)}, OOB: make([]byte, 128)}}
	if n, err := f.ReadBatch(ms, 0); n != 1 || err != nil {
		t.Fatalf("read %d: %v", n, err)
	}
	if refused() {
		t.Error("a refusal ends a tunnel that is up")
	}
}
