package responder

import (
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
)

// silentFirst sessions of a target without an answer to any SYN are a reason to
// look at the host.
const silentFirst = 10

// A watch waits for the first sign that packets from the device reach a target:
// nothing else tells a firewall that drops them from a target that is busy.
type watch struct {
	all    *watches
	target netip.AddrPort
	silent atomic.Int32 // sessions that timed out in the handshake
	over   atomic.Bool  // the target has answered, or it was said that it does not
}

// watches are those of all targets.
type watches struct {
	log   *slog.Logger
	iface string

	mu       sync.Mutex
	byTarget map[netip.AddrPort]*watch
}

// of returns the watch of a target.
func (ws *watches) of(target netip.AddrPort) *watch {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	w := ws.byTarget[target]
	if w == nil {
		w = &watch{all: ws, target: target}
		if ws.byTarget == nil {
			ws.byTarget = make(map[netip.AddrPort]*watch)
		}
		ws.byTarget[target] = w
	}
	return w
}

// look tells the session's watch how its handshake ended, once that is known.
func (s *session) look() {
	w := s.watch
	if w == nil {
		return
	}
	answered, known := s.Answered()
	if !known {
		return
	}
	s.watch = nil
	switch {
	case w.over.Load():
	case answered:
		w.over.Store(true)
	case w.silent.Add(1) == silentFirst && !w.over.Swap(true):
		w.all.log.Warn("no session of the target comes about: is a firewall dropping what comes in on the device?",
			"target", w.target.String(), "iface", w.all.iface, "sessions", silentFirst)
	}
}
