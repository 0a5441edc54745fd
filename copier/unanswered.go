package copier

import (
	"log/slog"
	"time"

	"flowtwin/copier/report"
)

const (
	// unansweredLeast is how many connections tell whether a target answers.
	unansweredLeast = 10
	// unansweredEvery is how often it is said at most that it does not.
	unansweredEvery = time.Minute
)

// An unanswered watches whether the target answers what the online server does: what
// its kernel has taken is delivered, whatever becomes of it. One goroutine looks.
type unanswered struct {
	log                  *slog.Logger
	answered, unanswered uint64    // so many at since
	since, said          time.Time // 0: never

	// Of connections that are still open: what there was when the target's latest byte
	// came, and since when it has got more, and the online server has answered more.
	last  answering
	waits time.Time // 0: there is nothing that it owes
}

// answering is what tells that a target has answered, or is asked and does not.
type answering struct {
	target, dropped   uint64 // bytes of its answers, and headers that might have told of some
	online, delivered uint64
}

func newAnswering(l *report.Ledger) answering {
	delivered, _, _ := l.Copied()
	a := &l.Answers
	return answering{a.Target.Bytes, a.HeadersDropped, a.Online.Bytes, delivered}
}

// look says when much of what has come to its end since the last status, or since
// there was enough to tell, had no answer; or when nothing at all has one for so long.
func (u *unanswered) look(l *report.Ledger, now time.Time) {
	a := &l.Answers
	hangs := u.hangs(newAnswering(l), now)
	if u.since.IsZero() {
		u.since = now
	}
	yes, no := a.Answered-u.answered, a.Unanswered-u.unanswered
	enough := now.Sub(u.since) >= statusEvery && yes+no >= unansweredLeast
	if enough {
		u.answered, u.unanswered, u.since = a.Answered, a.Unanswered, now
	}
	deaf := enough && report.Deaf(yes, no)
	switch {
	case !deaf && !hangs, !u.said.IsZero() && now.Sub(u.said) < unansweredEvery:
	case deaf:
		u.said = now
		u.log.Warn("the target takes connections and sends no byte of an answer until they end, where the online server answers: "+
			"look at its error log, and at closed: target_reset and others in the ledger", "unanswered", no, "of", yes+no)
	default:
		u.said = now
		u.log.Warn("the target takes requests and answers none, where the online server does: does it hang?",
			"silent", now.Sub(u.waits).Round(time.Second))
	}
}

// hangs reports whether the target has been asked for a while and has answered nothing.
func (u *unanswered) hangs(is answering, now time.Time) bool {
	switch {
	case is.target != u.last.target || is.dropped != u.last.dropped:
		u.last, u.waits = is, time.Time{}
	case is.online == u.last.online || is.delivered == u.last.delivered:
	case u.waits.IsZero():
		u.waits = now
	}
	return !u.waits.IsZero() && now.Sub(u.waits) >= statusEvery
}
