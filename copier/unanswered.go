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
}

// look says when much of what has come to its end since the last status, or since
// there was enough to tell, had no answer.
func (u *unanswered) look(a *report.Answers, now time.Time) {
	if u.since.IsZero() {
		u.since = now
	}
	yes, no := a.Answered-u.answered, a.Unanswered-u.unanswered
	if now.Sub(u.since) < statusEvery || yes+no < unansweredLeast {
		return
	}
	u.answered, u.unanswered, u.since = a.Answered, a.Unanswered, now
	if !report.Deaf(yes, no) || !u.said.IsZero() && now.Sub(u.said) < unansweredEvery {
		return
	}
	u.said = now
	u.log.Warn("the target takes connections and ends them without a byte of an answer, where the online server answers: "+
		"look at its error log, and at closed: target_reset and others in the ledger", "unanswered", no, "of", yes+no)
}
