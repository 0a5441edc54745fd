package capture

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// ownPrefix begins the names of FlowTwin's TUN devices. What the responder
// replays through them must not be captured and copied again.
const ownPrefix = "flowtwin"

// An iface is an interface that is captured, or would be.
type iface struct {
	name  string
	index int
	up    bool
}

// choose returns those of links that are captured: the named ones, or all that
// are fit when there are no names.
func choose(names []string, links []netlink.Link) []iface {
	kinds := map[int]string{}
	for _, l := range links {
		kinds[l.Attrs().Index] = l.Type()
	}
	var chosen []iface
	for _, l := range links {
		a := l.Attrs()
		up := a.RawFlags&unix.IFF_UP != 0
		if len(names) > 0 {
			if slices.Contains(names, a.Name) {
				chosen = append(chosen, iface{a.Name, a.Index, up})
			}
			continue
		}
		// What a port of a bridge or bond receives is seen again at its master. A
		// VRF's interfaces keep their own packets.
		port := a.MasterIndex != 0 && kinds[a.MasterIndex] != "vrf"
		if up && !port && !strings.HasPrefix(a.Name, ownPrefix) {
			chosen = append(chosen, iface{a.Name, a.Index, up})
		}
	}
	return chosen
}

// missing returns an error when one of names is not among links.
func missing(names []string, links []netlink.Link) error {
	all := make([]string, len(links))
	for i, l := range links {
		all[i] = l.Attrs().Name
	}
	for _, name := range names {
		if !slices.Contains(all, name) {
			return fmt.Errorf("capture: no interface %q; there are %s", name, strings.Join(all, ", "))
		}
	}
	return nil
}

// largestMerge returns how large packets may get that any of links merges (GRO),
// or that this host hands to it in one piece (GSO).
func largestMerge(links []netlink.Link) int {
	var n uint32
	for _, l := range links {
		a := l.Attrs()
		n = max(n, a.GROMaxSize, a.GROIPv4MaxSize, a.GSOMaxSize, a.GSOIPv4MaxSize)
	}
	return int(n)
}

func indexes(ifs []iface) []uint32 {
	out := make([]uint32, len(ifs))
	for i, f := range ifs {
		out[i] = uint32(f.index)
	}
	return out
}

func ifaceNames(ifs []iface) []string {
	out := make([]string, len(ifs))
	for i, f := range ifs {
		out[i] = f.name
	}
	return out
}

// A watcher lists the interfaces of the network namespace that it was opened in, and
// their addresses, and tells when they change.
type watcher struct {
	handle *netlink.Handle
	events *nl.NetlinkSocket
}

func openWatcher() (*watcher, error) {
	events, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR)
	if err != nil {
		return nil, fmt.Errorf("capture: watch interfaces: %w", err)
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		events.Close()
		return nil, fmt.Errorf("capture: list interfaces: %w", err)
	}
	return &watcher{handle: h, events: events}, nil
}

func (w *watcher) list() ([]netlink.Link, error) {
	links, err := whole(w.handle.LinkList)
	if err != nil {
		return nil, fmt.Errorf("capture: list interfaces: %w", err)
	}
	return links, nil
}

// dumps is how often a list is asked for before it is given up.
const dumps = 20

// whole returns what list does when nothing has changed meanwhile: where containers
// come and go, the kernel says of many a list that it may lack something.
func whole[T any](list func() ([]T, error)) (all []T, err error) {
	for range dumps {
		all, err = list()
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return all, err
}

// wait returns when an interface or address has changed, or with an error when w is closed.
func (w *watcher) wait() error {
	_, _, err := w.events.Receive()
	if errors.Is(err, unix.ENOBUFS) {
		return nil // more changes than fit: which ones they were does not matter
	}
	return err
}

// stop makes wait return.
func (w *watcher) stop() { w.events.Close() }

// close frees what the watcher has, when nobody uses it any more.
func (w *watcher) close() {
	w.events.Close()
	w.handle.Close()
}
