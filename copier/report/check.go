package report

import (
	"fmt"
)

// Check returns each sum that does not add up, in words; nothing when the books
// balance.
func (l *Ledger) Check() []string {
	var wrong []string
	same := func(what string, got, want uint64) {
		if got != want {
			wrong = append(wrong, fmt.Sprintf("%s: %d, but their parts add up to %d", what, got, want))
		}
	}
	counts := func(what string, got, want Count) {
		same(what+" (segments)", got.Segments, want.Segments)
		same(what+" (bytes)", got.Bytes, want.Bytes)
	}
	p, f, c, s := &l.Packets, &l.Flows, &l.Client, &l.Sessions
	same("packets captured", p.Captured, p.ToServer+p.ToClient+p.Refused+p.Late+p.NoFlow+p.Unmapped+
		p.NotTCP+p.Fragment+p.Truncated+p.Malformed+p.BadChecksum+p.Injected)
	if n := l.Recorded + l.RecordDropped + l.RecordLeft; n > 0 {
		same("packets of followed flows", p.ToServer+p.ToClient, n)
	}
	same("flows seen", f.Seen, f.Pending+f.Observed+f.Waiting+f.Admitted+total(f.Refused[:]))
	same("flows admitted, and resumed", f.Admitted+total(f.Resumed[:]), f.Live+total(f.Ended[:])+total(f.GivenUp[:]))

	parts := c.Sent
	parts.Plus(c.Retransmitted)
	parts.Plus(c.Duplicate)
	parts.Plus(c.Stored)
	parts.Plus(totalCount(c.Dropped[:]))
	parts.Plus(c.Rewritten.Removed)
	captured := c.Captured
	captured.Plus(c.Rewritten.Added)
	counts("captured of clients, and added", captured, parts)

	parts = l.Sent.Delivered
	parts.Plus(totalCount(l.Sent.Dropped[:]))
	parts.Plus(l.Sent.Gap)
	parts.Plus(l.Sent.AfterClose)
	parts.Plus(l.Sent.TunnelLost)
	parts.Plus(l.Sent.InFlight)
	parts.Plus(l.Sent.AccountMissing)
	parts.Bytes += l.Sent.Arrived
	sent := c.Sent
	sent.Plus(c.Prologue)
	counts("sent to the target", sent, parts)

	same("sessions opened", s.Opened, s.Open+s.Lost+s.AccountMissing+total(s.Closed[:]))
	same("sessions opened, one for each flow admitted or resumed", s.Opened, f.Admitted+total(f.Resumed[:]))
	l.Copies.check(same, counts)
	wrong = append(wrong, l.checkAnswers()...)
	return wrong
}

// checkAnswers returns which connections are said to be compared with ones at the
// target that were not.
func (l *Ledger) checkAnswers() (wrong []string) {
	most := func(what string, n, most uint64) {
		if n > most {
			wrong = append(wrong, fmt.Sprintf("%s: %d, but at most %d can be", what, n, most))
		}
	}
	a, c := &l.Answers, &l.Sessions.Closed
	most("connections compared by length", a.Same+a.Different, total(c[:]))
	most("connections answered online, and at the target or not", a.Answered+a.Unanswered, total(c[:]))
	return wrong
}

func total(parts []uint64) (sum uint64) {
	for _, n := range parts {
		sum += n
	}
	return sum
}

func totalCount(parts []Count) (sum Count) {
	for _, n := range parts {
		sum.Plus(n)
	}
	return sum
}
