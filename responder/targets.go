package responder

import (
	"errors"
	"net/netip"
	"slices"
	"sync/atomic"

	"flowtwin/tunnel"
)

// targets are where the maps of a copier lead, by their index. There may come more;
// flows under way know them by their index, so none is ever changed. One goroutine
// changes them, lanes read.
type targets struct {
	watches *watches
	maps    []tunnel.Map // of the goroutine that changes them
	list    atomic.Pointer[[]place]
}

// A place is one target.
type place struct {
	addr  netip.AddrPort
	watch *watch
}

func (t *targets) len() int { return len(*t.list.Load()) }

// at returns the target of map i, which there must be.
func (t *targets) at(i uint16) place { return (*t.list.Load())[i] }

// from returns the targets of the maps from i on, each once.
func (t *targets) from(i int) (out []netip.AddrPort) {
	for _, p := range (*t.list.Load())[i:] {
		if !slices.Contains(out, p.addr) {
			out = append(out, p.addr)
		}
	}
	return out
}

// extend takes further maps, which stand behind those there are.
func (t *targets) extend(maps []tunnel.Map) error {
	if len(maps) < len(t.maps) || !slices.Equal(maps[:len(t.maps)], t.maps) {
		return errors.New("the maps there are must stay")
	}
	t.grow(maps)
	return nil
}

func (t *targets) grow(maps []tunnel.Map) {
	list := make([]place, len(maps))
	for i, m := range maps {
		list[i] = place{m.Target, t.watches.of(m.Target)}
	}
	t.maps = maps
	t.list.Store(&list)
}
