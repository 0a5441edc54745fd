package cli

import (
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// IsHostPort reports whether s can be a host, or a host and a port: a name or an
// address, IPv6 in brackets where a port follows. Names are not looked up.
func IsHostPort(s string) bool {
	host, port, err := net.SplitHostPort(s)
	if err != nil { // no port: a name, or an address
		host, port = strings.Trim(s, "[]"), "1"
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return false
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return true
	}
	return host != "" && host[0] != '-' && !strings.ContainsAny(host, ":/[] \t\n")
}
