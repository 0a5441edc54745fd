package responder

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const errReadOnly = unix.EROFS

// errPrivilege says what the responder needs and how to give it.
var errPrivilege = errors.New("CAP_NET_ADMIN is missing: run as root, or once: setcap cap_net_admin+ep responder")

// checkPrivilege reports errPrivilege when this process may not make a TUN device.
func checkPrivilege() error {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return fmt.Errorf("capabilities: %w", err)
	}
	if data[0].Effective&(1<<unix.CAP_NET_ADMIN) == 0 {
		return errPrivilege
	}
	return nil
}

// probeTimeout bounds the attempt to connect to a target.
const probeTimeout = time.Second

// probe says why nothing answers at the target, or nil. It looks at the kernel's
// table of listening sockets first: most often that says it all, and the target's
// application sees no connection that production did not have. One that is behind
// a translation of addresses is only found by connecting.
func probe(ctx context.Context, t netip.AddrPort) error {
	if listening(t) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	c, err := new(net.Dialer).DialContext(ctx, "tcp", t.String())
	if err != nil {
		return err
	}
	return c.Close()
}

func listening(t netip.AddrPort) bool {
	for _, name := range []string{"/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"} {
		f, err := os.Open(name)
		if err != nil {
			continue
		}
		addrs := listeners(f)
		f.Close()
		if slices.ContainsFunc(addrs, func(l netip.AddrPort) bool {
			return l.Port() == t.Port() && (l.Addr() == t.Addr() || l.Addr().IsUnspecified())
		}) {
			return true
		}
	}
	return false
}

// listeners reads the addresses of listening sockets from a table in the format
// of proc(5): addresses are hexadecimal 32-bit words in the order of the machine.
func listeners(r io.Reader) (addrs []netip.AddrPort) {
	const listen = "0A"
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) < 4 || f[3] != listen {
			continue
		}
		host, portText, ok := strings.Cut(f[1], ":")
		b, err := hex.DecodeString(host)
		port, portErr := strconv.ParseUint(portText, 16, 16)
		if !ok || err != nil || portErr != nil || len(b)%4 != 0 {
			continue
		}
		for w := b; len(w) > 0; w = w[4:] {
			slices.Reverse(w[:4]) // little endian: all machines that we build for
		}
		if a, ok := netip.AddrFromSlice(b); ok {
			addrs = append(addrs, netip.AddrPortFrom(a.Unmap(), uint16(port)))
		}
	}
	return addrs
}
