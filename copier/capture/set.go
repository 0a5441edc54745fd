package capture

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"

	"golang.org/x/net/bpf"

	"flowtwin/internal/flow"
)

// A Set is the rings of one capture.
type Set struct {
	cfg   Config // filled
	rings []*Ring
	watch *watcher
	done  sync.WaitGroup // of the goroutine that follows the interfaces

	mu     sync.Mutex
	ifs    []iface // mu; captured
	closed bool    // mu
}

// Open opens and starts all rings, in the network namespace of the calling
// thread. Errors name the field, interface or capability that is the reason.
func Open(cfg Config) (*Set, error) {
	cfg, err := cfg.filled()
	if err != nil {
		return nil, err
	}
	s := &Set{cfg: cfg}
	if s.watch, err = openWatcher(); err != nil {
		return nil, err
	}
	if err := s.open(); err != nil {
		s.watch.close()
		return nil, err
	}
	s.done.Go(s.follow)
	return s, nil
}

func (s *Set) open() error {
	links, err := s.watch.list()
	if err != nil {
		return err
	}
	if err := missing(s.cfg.Interfaces, links); err != nil {
		return err
	}
	s.ifs = choose(s.cfg.Interfaces, links)
	if s.cfg.Block == 0 {
		s.cfg.Block = blockFor(largestMerge(links), s.cfg.RingBytes)
	}
	socks, err := s.openSockets()
	if err != nil {
		return err
	}
	for _, sock := range socks {
		s.rings = append(s.rings, newRing(sock, &selection{s.cfg.Matches, s.cfg.Choice}))
	}
	return nil
}

// bound reports whether the ring is bound to one interface. Otherwise the rings
// receive from all, and the filter picks the interfaces: members of a fanout
// group cannot be bound anew when an interface is removed and made again.
func (s *Set) bound() bool { return len(s.cfg.Interfaces) == 1 && s.cfg.Rings == 1 }

// openSockets opens a socket for each ring, receiving from the interfaces s.ifs.
func (s *Set) openSockets() (socks []*socket, err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, closeSockets(socks))
			socks = nil
		}
	}()
	raw, err := s.filter()
	if err != nil {
		return nil, err
	}
	ifindex := 0
	if s.bound() {
		ifindex = s.ifs[0].index
	}
	group := 0 // also a valid one
	for i := range s.cfg.Rings {
		sock, err := openSocket(s.cfg)
		if err != nil {
			return socks, err
		}
		socks = append(socks, sock)
		// The group can be joined only after bind. Until all are in it, all are
		// deaf: otherwise the first would receive others' packets.
		if err := sock.setFilter(deaf()); err != nil {
			return socks, err
		}
		if err := sock.bind(ifindex); err != nil {
			return socks, fmt.Errorf("capture: bind to %v: %w", s.cfg.Interfaces, err)
		}
		switch {
		case s.cfg.Rings == 1:
		case i == 0:
			group, err = sock.found()
		default:
			err = sock.join(group)
		}
		if err != nil {
			return socks, err
		}
	}
	for _, sock := range socks {
		if err := sock.setFilter(raw); err != nil {
			return socks, err
		}
	}
	return socks, nil
}

// deaf is a filter that takes nothing.
func deaf() []bpf.RawInstruction {
	return []bpf.RawInstruction{{Op: 0x06}} // ret #0
}

// filter returns the program for the interfaces s.ifs.
func (s *Set) filter() ([]bpf.RawInstruction, error) {
	spec := filterSpec{matches: s.cfg.Matches, choice: s.cfg.Choice, untagged: len(s.cfg.Interfaces) == 0}
	if !s.bound() {
		spec.ifaces = indexes(s.ifs)
	}
	ins, err := spec.build()
	if err != nil {
		return nil, err
	}
	raw, err := bpf.Assemble(ins)
	if err != nil {
		return nil, fmt.Errorf("capture: filter: %w", err)
	}
	return raw, nil
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

// refreshLocked moves the rings to the interfaces as they are now.
func (s *Set) refreshLocked() error {
	links, err := s.watch.list()
	if err != nil {
		return err
	}
	before, now := s.ifs, choose(s.cfg.Interfaces, links)
	if slices.Equal(before, now) {
		return nil
	}
	s.ifs = now
	switch {
	case !s.bound():
		err = s.refilterLocked()
	case len(now) == 1:
		// Another interface may have come by that name. Binding to the present one
		// changes nothing.
		err = s.rings[0].bind(now[0].index)
	}
	if err != nil {
		s.ifs = before
		return err
	}
	s.logChanges(before, now)
	return nil
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
	if err := s.refilterLocked(); err != nil {
		s.cfg = before
		return errors.Join(err, s.refilterLocked())
	}
	for _, r := range s.rings {
		r.match.by.Store(&selection{matches, choice})
	}
	return nil
}

func (s *Set) logChanges(before, now []iface) {
	capturing := func(ifs []iface) map[string]bool {
		m := map[string]bool{}
		for _, f := range ifs {
			m[f.name] = f.up
		}
		return m
	}
	was, is := capturing(before), capturing(now)
	for _, f := range now {
		if f.up && !was[f.name] {
			s.cfg.Log.Info("capturing on interface", "iface", f.name)
		}
	}
	for _, f := range before {
		if f.up && !is[f.name] {
			s.cfg.Log.Warn("interface is down, capture on it waits", "iface", f.name)
		}
	}
}

// Ring returns ring i.
func (s *Set) Ring(i int) *Ring { return s.rings[i] }

// Interfaces returns the names of the interfaces that are captured now.
func (s *Set) Interfaces() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return ifaceNames(s.ifs)
}

// Close wakes all readers, waits until each has returned from Next and given its
// block back, and frees the rings. It may be called more than once.
func (s *Set) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	s.mu.Unlock()

	s.watch.stop()
	s.done.Wait()
	s.watch.close()
	for _, r := range s.rings {
		r.shut()
	}
	var err error
	for _, r := range s.rings {
		err = errors.Join(err, r.free())
	}
	return err
}

func closeSockets(socks []*socket) error {
	var err error
	for _, s := range socks {
		err = errors.Join(err, s.close())
	}
	return err
}
