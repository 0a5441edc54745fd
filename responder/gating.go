package responder

import (
	"sync"
	"sync/atomic"
	"time"

	"flowtwin/responder/replay"
)

const (
	// A target most of whose sessions are not of turns, of at least so many, gets its
	// new ones without the gate.
	ungateFrom = 16
	// But one of so many begins with it all the same: the target may only have been
	// slow for a while, or is another one by now.
	sampleEvery = 8
	// If so many of them, one after the other, are answered, all get it again.
	regateFrom = 3
)

// A gating says whether the new sessions of a target begin with their gate on.
type gating struct {
	off   atomic.Bool
	begun atomic.Uint64 // since the gate is off

	mu       sync.Mutex
	turns    int // sessions that have had some turns
	late     int // those of them whose turns are not answered
	answered int // sessions whose turns are, since the gate is off and one was not
	told     time.Time
	mute     bool // that it is off was not said again
	said     [replay.NumGateNews]bool
}

// begins reports whether the session that begins now does so with its gate on.
func (g *gating) begins() bool { return !g.off.Load() || g.begun.Add(1)%sampleEvery == 0 }

// gateNews counts what a session tells of its gate. That it went off is said once for
// a target and reason.
func (w *watch) gateNews(news replay.GateNews) {
	g, log := &w.gating, w.all.log.With("target", w.target.String())
	g.mu.Lock()
	defer g.mu.Unlock()
	switch news {
	case replay.GateWorks:
		g.turns++
		return
	case replay.GateAnswers:
		if g.answers() && !g.mute {
			log.Info("sessions' turns are answered again: new ones begin with the gate on")
		}
		return
	case replay.GateLate:
		if g.lates() && !g.mute {
			log.Info("most sessions' turns are not answered: new ones begin with the gate off", "of", g.turns, "late", g.late)
		}
	case replay.GateHTTP2, replay.GateUpgraded:
	}
	if g.said[news] {
		return
	}
	g.said[news] = true
	switch news {
	case replay.GateLate:
		log.Info("gate off for a session: its turns are released by --max-hold only")
	case replay.GateHTTP2:
		log.Info("gate off for HTTP/2, but for pings")
	case replay.GateUpgraded:
		log.Info("gate off for what connections are upgraded to")
	case replay.GateWorks, replay.GateAnswers:
	}
}

// lates counts a session whose turns are not answered, and reports whether new ones
// get no gate from now on. A target of both kinds may go to and fro: it is said once
// a minute at most. The lock is held.
func (g *gating) lates() bool {
	g.late++
	g.answered = 0
	if g.off.Load() || g.turns < ungateFrom || 2*g.late <= g.turns {
		return false
	}
	g.off.Store(true)
	if g.mute = !g.told.IsZero() && time.Since(g.told) < downEvery; !g.mute {
		g.told = time.Now()
	}
	return true
}

// answers counts a session whose turns are answered, and reports whether new ones get
// their gate from now on. The lock is held.
func (g *gating) answers() bool {
	if !g.off.Load() {
		return false
	}
	if g.answered++; g.answered < regateFrom {
		return false
	}
	g.turns, g.late, g.answered = 0, 0, 0
	g.off.Store(false)
	return true
}
