package capture

import (
	"errors"
	"net/netip"
	"os"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"flowtwin/internal/flow"
)

// A place is what is captured, and where.
type place struct {
	ifs     []iface
	addrs   []netip.Addr // of this host
	foreign []Match      // of servers elsewhere
	promisc []iface      // those of ifs that take others' frames, too
}

// same reports whether packets are captured as they are at o.
func (p place) same(o place) bool {
	return slices.Equal(p.ifs, o.ifs) && slices.Equal(p.foreign, o.foreign)
}

// place returns what is captured where there are interfaces and addresses.
func (c *Config) place(ifs []iface, addrs []netip.Addr) place {
	p := place{ifs: ifs, addrs: addrs}
	if c.Decap != 0 {
		return p // mirrored packets are directed to this host, whosever is inside
	}
	p.foreign = elsewhere(c.Matches, addrs)
	if len(c.Interfaces) > 0 && len(p.foreign) > 0 {
		p.promisc = ifs
	}
	return p
}

// follow keeps the rings on the right interfaces until the set is closed.
func (s *Set) follow() {
	for {
		lost := s.watch.wait()
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			return
		}
		err := s.refreshLocked()
		s.mu.Unlock()
		if err != nil {
			// The interfaces captured so far stay so.
			s.cfg.Log.Warn("interfaces changed and capture could not follow", "err", err)
		}
		if lost != nil {
			s.cfg.Log.Error("capture follows changes of interfaces no longer", "err", lost)
			return
		}
	}
}

// refreshLocked moves the rings to the interfaces and addresses as they are now.
func (s *Set) refreshLocked() error {
	links, err := s.watch.list()
	if err != nil {
		return err
	}
	addrs, err := s.watch.addrs()
	if err != nil {
		return err
	}
	before, now := s.at, s.cfg.place(choose(s.cfg.Interfaces, links), addrs)
	if before.same(now) {
		s.at = now
		return nil
	}
	if err := s.moveLocked(now); err != nil {
		return err
	}
	s.logChanges(before.ifs, now.ifs, links)
	return nil
}

// moveLocked makes the rings take what s.cfg selects at now, or leaves all as it was.
func (s *Set) moveLocked(now place) (err error) {
	before := s.at
	s.at = now
	if s.bound() && len(now.ifs) == 1 {
		// Another interface may have come by that name. Binding to the present one
		// changes nothing.
		err = s.rings[0].bind(now.ifs[0].index)
	}
	if err == nil {
		err = s.refilterLocked()
	}
	if err == nil {
		err = s.rings[0].promiscuous(before.promisc, now.promisc)
	}
	if err != nil {
		s.at = before
		return err
	}
	for _, r := range s.rings {
		r.match.by.Store(s.selection())
	}
	s.tellForeign(before.foreign)
	return nil
}

// selection returns what the reader selects by at s.at.
func (s *Set) selection() *selection {
	return &selection{s.cfg.Matches, s.cfg.Choice, len(s.at.foreign) > 0 || s.cfg.Decap != 0}
}

func (s *Set) refilterLocked() error {
	raw, err := s.filter()
	if err != nil {
		return err
	}
	for _, r := range s.rings {
		err = errors.Join(err, r.setFilter(raw))
	}
	return err
}

// Select makes the rings take other packets, from now on: what is in the rings
// already was taken by the selection before.
func (s *Set) Select(matches []Match, choice flow.Choice) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return os.ErrClosed
	}
	before := s.cfg
	s.cfg.Matches, s.cfg.Choice = matches, choice
	cfg, err := s.cfg.filled()
	if err != nil {
		s.cfg = before
		return err
	}
	s.cfg = cfg
	if err := s.moveLocked(s.cfg.place(s.at.ifs, s.at.addrs)); err != nil {
		s.cfg = before
		return errors.Join(err, s.refilterLocked())
	}
	return nil
}

// logChanges says where capture has begun and ended, and why: links are all there are.
func (s *Set) logChanges(before, now []iface, links []netlink.Link) {
	capturing := func(ifs []iface) map[string]bool {
		m := map[string]bool{}
		for _, f := range ifs {
			m[f.name] = f.up
		}
		return m
	}
	was, is, log := capturing(before), capturing(now), s.cfg.Log
	for _, f := range now {
		if f.up && !was[f.name] {
			log.Info("capturing on interface", "iface", f.name)
		}
	}
	for _, f := range before {
		if !f.up || is[f.name] {
			continue
		}
		i := slices.IndexFunc(links, func(l netlink.Link) bool { return l.Attrs().Name == f.name })
		switch {
		case i < 0 && len(s.cfg.Interfaces) == 0: // a container has ended, most likely
			log.Info("interface is gone", "iface", f.name)
		case i < 0:
			log.Warn("interface is gone, capture on it waits", "iface", f.name)
		case links[i].Attrs().RawFlags&unix.IFF_UP == 0:
			log.Warn("interface is down, capture on it waits", "iface", f.name)
		default:
			log.Info("interface is part of another one now, and captured there", "iface", f.name)
		}
	}
}

// tellForeign names the servers that are not on this host, but were before.
func (s *Set) tellForeign(before []Match) {
	for _, m := range s.at.foreign {
		if !slices.Contains(before, m) {
			s.cfg.Log.Info("server is not on this host: its packets are captured where they pass", "server", netip.AddrPortFrom(m.Addr, m.Port))
		}
	}
}
