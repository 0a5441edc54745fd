package copier

import (
	"net/netip"
	"sync/atomic"

	"flowtwin/internal/packet"
	"flowtwin/tunnel"
)

// A mapping tells which map a server's address falls under. A map with an
// address goes before one for any local address. Shards read it; refresh and the
// TLS marks are safe beside them.
type mapping struct {
	every bool // of a recording: any address may have been the server's
	maps  []tunnel.Map
	addrs []packet.Addr // of maps; zero for any
	tls   []atomic.Bool // a TLS ClientHello was seen on the map
	local atomic.Pointer[map[packet.Addr]bool]
}

// newMapping returns a mapping; as long as refresh has not been called only
// loopback addresses are local.
func newMapping(maps []tunnel.Map) *mapping {
	m := &mapping{maps: maps, addrs: make([]packet.Addr, len(maps)), tls: make([]atomic.Bool, len(maps))}
	for i, x := range maps {
		if x.Server.IsValid() {
			m.addrs[i] = packet.AddrFrom(x.Server)
		}
	}
	m.local.Store(&map[packet.Addr]bool{})
	return m
}

// refresh takes over the host's addresses.
func (m *mapping) refresh(addrs []netip.Addr) {
	local := make(map[packet.Addr]bool, len(addrs))
	for _, a := range addrs {
		local[packet.AddrFrom(a)] = true
	}
	m.local.Store(&local)
}

// find returns the index of the map for a server's address. The filter lets the
// packets of a map for any address pass by port alone, those of connections that
// this host opens to others included: only local addresses are servers here.
func (m *mapping) find(addr packet.Addr, port uint16) (int, bool) {
	anywhere := -1
	for i := range m.maps {
		if m.maps[i].Port != port {
			continue
		}
		if m.addrs[i] == addr {
			return i, true
		}
		if m.addrs[i] == (packet.Addr{}) && anywhere < 0 {
			anywhere = i
		}
	}
	return anywhere, anywhere >= 0 && (m.every || m.isLocal(addr))
}

func (m *mapping) isLocal(addr packet.Addr) bool {
	return (*m.local.Load())[addr] || addr.Netip().IsLoopback()
}

// look notes whether the first bytes of a flow on map i are a TLS ClientHello.
func (m *mapping) look(i int, b []byte) {
	if isClientHello(b) && !m.tls[i].Load() {
		m.tls[i].Store(true)
	}
}

// isClientHello reports whether b begins with a TLS handshake record that holds
// a ClientHello (RFC 8446, 4.1.2 and 5.1).
func isClientHello(b []byte) bool {
	return len(b) >= 6 && b[0] == 22 && b[1] == 3 && b[5] == 1
}
