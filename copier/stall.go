package copier

import (
	"log/slog"
	"sync"
	"time"

	"flowtwin/copier/report"
	"flowtwin/tunnel/frame"
)

const (
	// silentAfter is for how long nothing at all comes from a responder that is
	// called silent; it speaks once a second. A tunnel is given up after 10 s.
	silentAfter = 4 * time.Second
	// stuckAfter is for how long a responder that speaks may deliver nothing while
	// more and more is sent: a session may wait for its target's answer, and one that
	// is over for its client's end.
	stuckAfter = statusEvery
)

// A stall watches whether the target gets anything of what is sent: shares of what
// has been decided tell nothing of that while nothing is, and bytes that are given
// back by sessions that fail are no progress.
type stall struct {
	log *slog.Logger

	mu     sync.Mutex
	last   tidings
	since  time.Time              // when the last of these came, or there was nothing to deliver
	closed [report.NumHows]uint64 // sessions that had ended then
	said   bool

	heard, sent     uint64 // bytes from the responder, and those of clients to it
	heardAt, sentAt time.Time
}

// tidings are what tells that the target takes what is sent, or answers it: the most
// so far. Accounts and what is told before them do not come at once, and of two
// goroutines that look the one with the older figures may be the later one.
type tidings struct {
	delivered uint64
	ended     uint64 // sessions that both sides have closed
	answers   uint64 // bytes of the target
	copies    uint64 // bytes delivered of these
}

func (t *tidings) after(l *report.Ledger) tidings {
	delivered, _, _ := l.Copied()
	c := &l.Sessions.Closed
	return tidings{
		max(t.delivered, delivered),
		max(t.ended, c[frame.ClosedBoth]+c[frame.ClosedTargetFirst]),
		max(t.answers, l.Answers.Target.Bytes),
		max(t.copies, l.Copies.Delivered.Bytes),
	}
}

// look returns for how long nothing has been delivered of what is sent, 0 if it is,
// and says once when that begins and when it is over.
func (s *stall) look(sum *report.Summary) time.Duration {
	l, now := &sum.Ledger, sum.Ended
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := sum.Tunnel.BytesReturned; n != s.heard || s.heardAt.IsZero() {
		s.heard, s.heardAt = n, now
	}
	if n := l.Client.Sent.Bytes; n != s.sent || s.sentAt.IsZero() {
		s.sent, s.sentAt = n, now
	}
	got, under, lasts := s.last.after(l), l.UnderWay(), now.Sub(s.since)
	failed := s.failed(l)
	rests := under == 0 && (total(failed) == 0 || now.Sub(s.sentAt) >= stuckAfter || !sum.Tunnel.Up) // that it is down is said elsewhere
	if rests || got != s.last || s.since.IsZero() {
		if s.said && got != s.last {
			s.log.Info("what is under way moves again", "stalled", lasts.Round(time.Second))
		}
		s.last, s.since, s.closed, s.said = got, now, l.Sessions.Closed, false
		return 0
	}
	silent := under > 0 && lasts >= silentAfter && now.Sub(s.heardAt) >= silentAfter
	sends := s.sentAt.Sub(s.since) >= stuckAfter/2 && now.Sub(s.sentAt) < stuckAfter // more and more
	if !silent && (lasts < stuckAfter || !sends) {
		return 0
	}
	lasts = lasts.Round(time.Second)
	if !s.said {
		s.said = true
		s.tell(sum, lasts, silent, &failed)
	}
	return lasts
}

// tell says that a stall has begun, and whose it is.
func (s *stall) tell(sum *report.Summary, lasts time.Duration, silent bool, failed *[report.NumHows]uint64) {
	log := s.log.With("stalled", lasts, "under_way_bytes", sum.Ledger.UnderWay(), "responder", sum.Tunnel.Remote)
	switch {
	case silent:
		log.Warn("nothing comes back from the responder: is it running, and does UDP pass both ways?")
	case refuses(failed):
		log.Warn("nothing delivered: the responder refuses these connections, look at its log", "failed", report.Failures(failed))
	default:
		log.Warn("nothing delivered: look at the target, and at the responder's log", "failed", report.Failures(failed))
	}
}

// failed returns how many sessions have ended since the last tidings that tell of no
// delivery.
func (s *stall) failed(l *report.Ledger) (n [report.NumHows]uint64) {
	for how := range n {
		switch frame.CloseHow(how) {
		case frame.ClosedBoth, frame.ClosedTargetFirst, frame.ClosedClientReset, frame.ClosedAborted:
		default:
			n[how] = l.Sessions.Closed[how] - min(s.closed[how], l.Sessions.Closed[how])
		}
	}
	return n
}

// refuses reports whether the target has nothing to do with these failures.
func refuses(failed *[report.NumHows]uint64) bool {
	own := failed[frame.ClosedPaused] + failed[frame.ClosedDrain] + failed[frame.ClosedRejected] + failed[frame.ClosedRate] + failed[frame.ClosedNoTuple]
	return own > 0 && own == total(*failed)
}

func total(parts [report.NumHows]uint64) (sum uint64) {
	for _, n := range parts {
		sum += n
	}
	return sum
}
