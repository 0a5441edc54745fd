package copier

import (
	"net/netip"
	"slices"
	"sync/atomic"

	"flowtwin/internal/packet"
	"flowtwin/tunnel"
)

// A mapping tells which map a server's address falls under. A map with an
// address goes before one for any local address. Shards read it; refresh, notes of
// secrets and changes are safe beside them.
type mapping struct {
	every bool // of a recording: any address may have been the server's
	list  atomic.Pointer[mapList]
	local atomic.Pointer[map[packet.Addr]bool]
	known atomic.Bool // local is the host's
}

// A mapList is all maps that there are, or were: flows know them by their index, so
// that one that is removed keeps its place. It is replaced as a whole, never changed.
type mapList struct {
	maps  []tunnel.Map
	addrs []packet.Addr // of maps; zero for any
	gone  []bool        // no flow begins there

	secrets []*atomic.Uint32 // what clients were seen to depend on
}

// newMapping returns a mapping; as long as refresh has not been called only
// loopback addresses are local.
func newMapping(maps []tunnel.Map) *mapping {
	m := &mapping{}
	m.list.Store((&mapList{}).with(maps))
	m.local.Store(&map[packet.Addr]bool{})
	return m
}

// with returns a list that has further maps.
func (l *mapList) with(maps []tunnel.Map) *mapList {
	n := &mapList{slices.Clone(l.maps), slices.Clone(l.addrs), slices.Clone(l.gone), slices.Clone(l.secrets)}
	for _, x := range maps {
		var addr packet.Addr
		if x.Server.IsValid() {
			addr = packet.AddrFrom(x.Server)
		}
		n.maps, n.addrs = append(n.maps, x), append(n.addrs, addr)
		n.gone, n.secrets = append(n.gone, false), append(n.secrets, new(atomic.Uint32))
	}
	return n
}

// marked returns a list in which map i is removed, or there again.
func (l *mapList) marked(i int, gone bool) *mapList {
	n := l.with(nil)
	n.gone[i] = gone
	return n
}

// like returns a list in which the maps of before are as they were there, and all
// others removed: the responder knows them by their places.
func (l *mapList) like(before *mapList) *mapList {
	n := l.with(nil)
	for i := range n.gone {
		n.gone[i] = i >= len(before.gone) || before.gone[i]
	}
	return n
}

// present returns the maps that are not removed.
func (l *mapList) present() (out []tunnel.Map) {
	for i, m := range l.maps {
		if !l.gone[i] {
			out = append(out, m)
		}
	}
	return out
}

// refresh takes over the host's addresses.
func (m *mapping) refresh(addrs []netip.Addr) {
	local := make(map[packet.Addr]bool, len(addrs))
	for _, a := range addrs {
		local[packet.AddrFrom(a)] = true
	}
	m.local.Store(&local)
	m.known.Store(true)
}

// afar reports whether the packets of the server of map i may have been captured away
// from it: it is known to be none of this host's addresses, or they are recorded.
func (m *mapping) afar(i int) bool {
	addr := m.list.Load().addrs[i]
	return m.every || addr != packet.Addr{} && m.known.Load() && !m.isLocal(addr)
}

// find returns the index of the map for a server's address. The filter lets the
// packets of a map for any address pass by port alone, those of connections that
// this host opens to others included: only local addresses are servers here.
func (m *mapping) find(addr packet.Addr, port uint16) (int, bool) {
	anywhere := -1
	l := m.list.Load()
	for i := range l.maps {
		if l.maps[i].Port != port || l.gone[i] {
			continue
		}
		if l.addrs[i] == addr {
			return i, true
		}
		if l.addrs[i] == (packet.Addr{}) && anywhere < 0 {
			anywhere = i
		}
	}
	return anywhere, anywhere >= 0 && (m.every || m.isLocal(addr))
}

func (m *mapping) isLocal(addr packet.Addr) bool {
	return (*m.local.Load())[addr] || addr.Netip().IsLoopback()
}
