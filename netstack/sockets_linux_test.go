package netstack

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// A socket of IPv6 on ::ffff:0.0.0.0, as .NET opens them, takes IPv4 alone.
func TestListeningOnMappedAddress(t *testing.T) {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Skip("no IPv6:", err)
	}
	defer func() { _ = unix.Close(fd) }()
	any4 := &unix.SockaddrInet6{Addr: netip.MustParseAddr("::ffff:0.0.0.0").As16()}
	if err := unix.Bind(fd, any4); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 1); err != nil {
		t.Fatal(err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	port := uint16(name.(*unix.SockaddrInet6).Port)
	for addr, want := range map[string]bool{"127.0.0.1": true, "::1": false} {
		if got, err := Listening(netip.AddrPortFrom(netip.MustParseAddr(addr), port)); got != want || err != nil {
			t.Errorf("listens at %s: %v, %v", addr, got, err)
		}
	}
}
