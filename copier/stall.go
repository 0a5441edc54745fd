package copier

import (
	"log/slog"
	"sync"
	"time"

	"flowtwin/copier/report"
)

const (
	// silentAfter is for how long nothing at all comes from a responder that is
	// called silent; it speaks once a second. A tunnel is given up after 10 s.
	silentAfter = 4 * time.Second
	// stuckAfter is for how long a responder that speaks may tell nothing of what is
	// under way while there is more and more of it: a session may wait for its
	// target's answer, and one that is over for its client's end.
	stuckAfter = statusEvery
)

// A stall watches whether anything comes back of what is under way: shares of what
// has come back tell nothing of that.
type stall struct {
	log *slog.Logger

	mu    sync.Mutex
	last  tidings
	since time.Time // when the last of these came, or nothing was under way
	said  bool

	heard, sent     uint64 // bytes from the responder, and those of clients to it
	heardAt, sentAt time.Time
}

// tidings are what tells that the responder and the target do something.
type tidings struct {
	moved                        report.Count
	headers, established, closed uint64
	copies                       report.Count
}

// look returns for how long nothing has come back, 0 if it does, and says once when
// that begins and when it is over.
func (s *stall) look(sum *report.Summary) time.Duration {
	l, now := &sum.Ledger, sum.Ended
	got := tidings{l.Moved, l.Answers.Headers, l.Sessions.Established, l.Sessions.Opened - l.Sessions.Open - l.Sessions.Lost, l.Copies.Delivered}
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := sum.Tunnel.BytesReturned; n != s.heard || s.heardAt.IsZero() {
		s.heard, s.heardAt = n, now
	}
	if n := l.Client.Sent.Bytes; n != s.sent || s.sentAt.IsZero() {
		s.sent, s.sentAt = n, now
	}
	under, lasts := l.UnderWay(), now.Sub(s.since)
	if under == 0 || got != s.last || s.since.IsZero() {
		if s.said && got != s.last {
			s.log.Info("what is under way moves again", "stalled", lasts.Round(time.Second))
		}
		s.last, s.since, s.said = got, now, false
		return 0
	}
	silent := lasts >= silentAfter && now.Sub(s.heardAt) >= silentAfter
	more := s.sentAt.Sub(s.since) >= stuckAfter/2 && now.Sub(s.sentAt) < stuckAfter
	if !silent && (lasts < stuckAfter || !more) {
		return 0
	}
	lasts = lasts.Round(time.Second)
	if !s.said {
		s.said = true
		log := s.log.With("stalled", lasts, "under_way_bytes", under, "responder", sum.Tunnel.Remote)
		if silent {
			log.Warn("nothing comes back from the responder: is it running, and does UDP pass both ways?")
		} else {
			log.Warn("the responder is there, but the target takes nothing of what is under way: look at the target, and at the responder's log")
		}
	}
	return lasts
}
