package responder

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"flowtwin/netstack"
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
	if there, err := netstack.Listening(t); err == nil && there {
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
