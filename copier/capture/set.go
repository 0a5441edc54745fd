package capture

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"golang.org/x/net/bpf"
)

// A Set is the rings of one capture.
type Set struct {
	cfg   Config // filled
	rings []*Ring
	watch *watcher
	sink  sink
	done  sync.WaitGroup // of the goroutine that follows the interfaces

	mu     sync.Mutex
	at     place // mu
	closed bool  // mu
}

// Open opens and starts all rings, in cfg.NetNS or else the network namespace of
// the calling thread. Errors name the field, interface or capability that is the
// reason.
func Open(cfg Config) (*Set, error) {
	cfg, err := cfg.filled()
	if err != nil {
		return nil, err
	}
	s := &Set{cfg: cfg}
	if err := inNetNS(cfg.NetNS, s.open); err != nil {
		return nil, err
	}
	s.done.Go(s.follow)
	return s, nil
}

func (s *Set) open() (err error) {
	if s.watch, err = openWatcher(); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			s.watch.close()
		}
	}()
	links, err := s.watch.list()
	if err != nil {
		return err
	}
	if err := missing(s.cfg.Interfaces, links); err != nil {
		return err
	}
	addrs, err := s.watch.addrs()
	if err != nil {
		return err
	}
	s.at = s.cfg.place(choose(s.cfg.Interfaces, links), addrs)
	if s.cfg.Block == 0 {
		s.cfg.Block = blockFor(largestMerge(links), s.cfg.RingBytes)
	}
	if err := s.tellMirror(); err != nil {
		return err
	}
	if s.sink, err = openSink(s.cfg.Decap); err != nil {
		return err
	}
	socks, err := s.openSockets()
	if err != nil {
		return errors.Join(err, s.sink.close())
	}
	for _, sock := range socks {
		s.rings = append(s.rings, newRing(sock, &s.cfg, s.selection()))
	}
	s.tellForeign(nil)
	return nil
}

// bound reports whether the ring is bound to one interface. Otherwise the rings
// receive from all, and the filter picks the interfaces: members of a fanout
// group cannot be bound anew when an interface is removed and made again.
func (s *Set) bound() bool { return len(s.cfg.Interfaces) == 1 && s.cfg.Rings == 1 }

// openSockets opens a socket for each ring, receiving from the interfaces s.at.ifs.
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
		ifindex = s.at.ifs[0].index
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
	return socks, socks[0].promiscuous(nil, s.at.promisc)
}

// deaf is a filter that takes nothing.
func deaf() []bpf.RawInstruction {
	return []bpf.RawInstruction{{Op: 0x06}} // ret #0
}

// filter returns the program for the interfaces and servers of s.at.
func (s *Set) filter() ([]bpf.RawInstruction, error) {
	spec := filterSpec{
		matches: s.cfg.Matches, foreign: s.at.foreign, choice: s.cfg.Choice, decap: s.cfg.Decap,
		untagged: len(s.cfg.Interfaces) == 0,
	}
	if s.cfg.Decap != 0 {
		spec.choice = nil // it is for the reader
	}
	if !s.bound() {
		spec.ifaces = indexes(s.at.ifs)
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

// Ring returns ring i.
func (s *Set) Ring(i int) *Ring { return s.rings[i] }

// Interfaces returns the names of the interfaces that are captured now.
func (s *Set) Interfaces() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return ifaceNames(s.at.ifs)
}

// Addrs returns the addresses of the host, or of the namespace, that is captured.
func (s *Set) Addrs() []netip.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.at.addrs
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
	return errors.Join(err, s.sink.close())
}

func closeSockets(socks []*socket) error {
	var err error
	for _, s := range socks {
		err = errors.Join(err, s.close())
	}
	return err
}
