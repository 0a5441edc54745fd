package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"flowtwin/tunnel"
)

// parseMaps reads the arguments of -x. Each is a list of maps; a name as local
// address stands for all its addresses, one as target for its first.
func parseMaps(ctx context.Context, args []string, names resolver) ([]tunnel.Map, error) {
	var maps []tunnel.Map
	for _, arg := range args {
		for text := range strings.SplitSeq(arg, ",") {
			text = strings.TrimSpace(text)
			m, err := parseMap(ctx, text, names)
			if err != nil {
				return nil, fmt.Errorf("-x %q: %w", text, err)
			}
			maps = append(maps, m...)
		}
	}
	for i, m := range maps {
		for _, before := range maps[:i] {
			if m.Server == before.Server && m.Port == before.Port {
				return nil, fmt.Errorf("-x: %s is given twice, to %s and to %s", local(m), before.Target, m.Target)
			}
		}
	}
	if len(maps) > tunnel.MaxMaps {
		return nil, fmt.Errorf("-x: %d maps, at most %d are possible", len(maps), tunnel.MaxMaps)
	}
	return maps, nil
}

// local names the local side of a map.
func local(m tunnel.Map) string {
	if m.Server.IsValid() {
		return netip.AddrPortFrom(m.Server, m.Port).String()
	}
	return "port " + strconv.Itoa(int(m.Port)) + " of any local address"
}

// parseMap reads one map. Names may hold hyphens, so each is tried as the border.
func parseMap(ctx context.Context, text string, names resolver) ([]tunnel.Map, error) {
	if text == "" {
		return nil, errors.New("empty map")
	}
	var reason error
	for i := range len(text) {
		if text[i] != '-' {
			continue
		}
		server, serverErr := splitEnd(text[:i])
		target, targetErr := splitEnd(text[i+1:])
		switch {
		case serverErr != nil:
			if reason == nil {
				reason = fmt.Errorf("local side %q: %w", text[:i], serverErr)
			}
		case targetErr != nil:
			reason = fmt.Errorf("target %q: %w", text[i+1:], targetErr)
		case target.host == "":
			reason = fmt.Errorf("target %q: address or port is missing", text[i+1:])
		default:
			return resolve(ctx, server, target, names)
		}
	}
	if reason == nil {
		reason = errors.New("no hyphen between the local side and the target, as in 80-192.168.44.137:80")
	}
	return nil, reason
}

// An end is one side of a map.
type end struct {
	host string // without brackets, "" none
	port uint16
}

// splitEnd reads [host:]port.
func splitEnd(text string) (end, error) {
	host, port := "", text
	if strings.Contains(text, ":") {
		var err error
		if host, port, err = net.SplitHostPort(text); err != nil {
			if strings.Count(text, ":") > 1 && !strings.Contains(text, "[") {
				return end{}, errors.New("an IPv6 address needs brackets, as in [2001:db8::1]:80")
			}
			var addr *net.AddrError
			if errors.As(err, &addr) {
				return end{}, errors.New(addr.Err)
			}
			return end{}, err
		}
		if host == "" {
			return end{}, errors.New("nothing before the colon")
		}
	}
	n, err := strconv.ParseUint(port, 10, 16)
	switch {
	case port == "":
		return end{}, errors.New("no port")
	case err != nil || n == 0:
		if _, e := netip.ParseAddr(strings.Trim(text, "[]")); e == nil {
			return end{}, errors.New("no port")
		}
		return end{}, fmt.Errorf("%q is not a port, 1 to 65535", port)
	}
	return end{host, uint16(n)}, nil
}

// resolve makes maps of the two ends.
func resolve(ctx context.Context, server, target end, names resolver) ([]tunnel.Map, error) {
	to, err := lookup(ctx, target.host, names)
	if err != nil {
		return nil, fmt.Errorf("target %q: %w", target.host, err)
	}
	if to[0].IsUnspecified() || to[0].IsMulticast() {
		return nil, fmt.Errorf("target %q: is no address of a host", target.host)
	}
	m := tunnel.Map{Port: server.port, Target: netip.AddrPortFrom(to[0], target.port)}
	if server.host == "" || server.host == "*" {
		return []tunnel.Map{m}, nil
	}
	from, err := lookup(ctx, server.host, names)
	if err != nil {
		return nil, fmt.Errorf("local side %q: %w", server.host, err)
	}
	var maps []tunnel.Map
	for _, a := range from {
		if !a.IsUnspecified() {
			m.Server = a
		}
		maps = append(maps, m)
	}
	return maps, nil
}

// lookup returns the addresses of a name, IPv4 first, or the address itself.
func lookup(ctx context.Context, host string, names resolver) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		if a.Zone() != "" {
			return nil, fmt.Errorf("zones like %%%s cannot be mapped", a.Zone())
		}
		return []netip.Addr{a.Unmap()}, nil
	}
	if strings.Trim(host, "0123456789.") == "" {
		return nil, errors.New("not an IPv4 address")
	}
	addrs, err := names.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	var v4, v6 []netip.Addr
	for _, a := range addrs {
		if a = a.Unmap().WithZone(""); a.Is4() {
			v4 = append(v4, a)
		} else {
			v6 = append(v6, a)
		}
	}
	if len(v4)+len(v6) == 0 {
		return nil, errors.New("has no address")
	}
	return append(v4, v6...), nil
}
