package responder

import (
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// silentFirst sessions of a target running without an answer to any SYN are a reason
// to look at the host.
const silentFirst = 10

// A watch says what becomes of a target: whether packets from the device reach it,
// and whether it takes connections.
type watch struct {
	all    *watches
	target netip.AddrPort

	silent   atomic.Int32 // sessions running that timed out in the handshake
	answered atomic.Bool  // one was answered
	mute     bool         // it was said that none is, and none was since; guarded by mu
	muteTold time.Time    // when that was said; guarded by mu

	accepted atomic.Uint64 // connections

	down atomic.Bool // it was said that it refuses connections, and none was accepted since
	mu   sync.Mutex
	told time.Time // when that was said

	gating gating
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
	w.shook(answered)
}

// shook notes how a session's handshake ended. It costs nothing where all are
// answered.
func (w *watch) shook(answered bool) {
	if !answered {
		if w.silent.Add(1)%silentFirst == 0 {
			w.fallsSilent()
		}
		return
	}
	if w.silent.Load() == 0 && w.answered.Load() {
		return
	}
	w.silent.Store(0)
	w.answered.Store(true)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.mute {
		w.mute = false
		w.all.log.Info("target answers connections again", "target", w.target.String(), "after", time.Since(w.muteTold).Round(time.Millisecond))
	}
}

// fallsSilent says that no session comes about, unless one did meanwhile, on another
// shard: nobody would say then that the target answers again.
func (w *watch) fallsSilent() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.silent.Load() == 0 || w.mute || !w.muteTold.IsZero() && time.Since(w.muteTold) < downEvery {
		return
	}
	w.muteTold = time.Now()
	w.mute = true
	log := w.all.log.With("target", w.target.String(), "iface", w.all.iface, "sessions", silentFirst)
	if w.answered.Load() {
		log.Warn("target answers no connections any more: is its queue full, or does something drop what comes in on the device?")
		return
	}
	log.Warn("no session of the target comes about: is a firewall dropping what comes in on the device?")
}

// downEvery is how often at most it is said that a target begins to refuse
// connections, or to answer none: one may do so now and then.
const downEvery = time.Minute

// reached notes whether a connection was accepted. It costs next to nothing where
// that is as it was.
func (w *watch) reached(accepted bool) {
	if accepted {
		w.accepted.Add(1)
	}
	if accepted != w.down.Load() {
		return
	}
	if !accepted {
		if w.refuses() {
			w.all.log.Warn("target refuses connections; its sessions are tried all the same", "target", w.target.String())
		}
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.down.Swap(false) {
		w.all.log.Info("target accepts connections again", "target", w.target.String(), "after", time.Since(w.told).Round(time.Millisecond))
	}
}

// refuses notes that the target takes no connections, and reports whether that is to
// be said.
func (w *watch) refuses() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.down.Load() || !w.told.IsZero() && time.Since(w.told) < downEvery {
		return false
	}
	w.told = time.Now()
	w.down.Store(true)
	return true
}
