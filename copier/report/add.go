package report

// Add adds o to l.
func (l *Ledger) Add(o *Ledger) {
	l.Packets.add(&o.Packets)
	l.Flows.add(&o.Flows)
	l.Client.add(&o.Client)
	l.Sent.add(&o.Sent)
	l.Sessions.add(&o.Sessions)
	l.Copies.add(&o.Copies)
	l.Answers.add(&o.Answers)
	l.HTTP.Selected += o.HTTP.Selected
	l.HTTP.LeftOut += o.HTTP.LeftOut
	l.HTTP.Unparsed += o.HTTP.Unparsed
	l.Lag.add(&o.Lag)
	l.Recorded += o.Recorded
	l.RecordDropped += o.RecordDropped
	l.RecordLeft += o.RecordLeft
	l.Moved.Plus(o.Moved)
	l.early += o.early
	l.Schedule.add(&o.Schedule)
	l.Stuck += o.Stuck
	l.BadReturns += o.BadReturns
}

func (p *Packets) add(o *Packets) {
	p.Captured += o.Captured
	p.ToServer += o.ToServer
	p.ToClient += o.ToClient
	p.Refused += o.Refused
	p.Late += o.Late
	p.NoFlow += o.NoFlow
	p.Unmapped += o.Unmapped
	p.NotTCP += o.NotTCP
	p.Fragment += o.Fragment
	p.Truncated += o.Truncated
	p.Malformed += o.Malformed
	p.BadChecksum += o.BadChecksum
	p.Injected += o.Injected
}

func (f *Flows) add(o *Flows) {
	f.Seen += o.Seen
	f.Pending += o.Pending
	f.Observed += o.Observed
	f.Admitted += o.Admitted
	f.Adopted += o.Adopted
	f.Live += o.Live
	f.Waiting += o.Waiting
	f.Late += o.Late
	f.Suspended += o.Suspended
	f.PrologueFull += o.PrologueFull
	f.Hurried += o.Hurried
	f.Declined += o.Declined
	for i := range f.Refused {
		f.Resumed[i] += o.Resumed[i]
		f.Refused[i] += o.Refused[i]
		f.GivenUp[i] += o.GivenUp[i]
	}
	for i := range f.Ended {
		f.Ended[i] += o.Ended[i]
	}
}

func (c *Client) add(o *Client) {
	c.Captured.Plus(o.Captured)
	c.Sent.Plus(o.Sent)
	c.Prologue.Plus(o.Prologue)
	c.Injected.Plus(o.Injected)
	c.Retransmitted.Plus(o.Retransmitted)
	c.Duplicate.Plus(o.Duplicate)
	c.Stored.Plus(o.Stored)
	c.Rewritten.Added.Plus(o.Rewritten.Added)
	c.Rewritten.Removed.Plus(o.Rewritten.Removed)
	for i := range c.Dropped {
		c.Dropped[i].Plus(o.Dropped[i])
	}
	c.Conflicts += o.Conflicts
	c.Urgent += o.Urgent
	c.Missing += o.Missing
}

func (s *Sent) add(o *Sent) {
	s.Delivered.Plus(o.Delivered)
	for i := range s.Dropped {
		s.Dropped[i].Plus(o.Dropped[i])
	}
	s.Gap.Plus(o.Gap)
	s.AfterClose.Plus(o.AfterClose)
	s.TunnelLost.Plus(o.TunnelLost)
	s.InFlight.Plus(o.InFlight)
	s.Arrived += o.Arrived
	s.AccountMissing.Plus(o.AccountMissing)
}

func (s *Sessions) add(o *Sessions) {
	s.Opened += o.Opened
	s.Established += o.Established
	s.Open += o.Open
	for i := range s.Closed {
		s.Closed[i] += o.Closed[i]
	}
	s.Lost += o.Lost
	s.Reconnects += o.Reconnects
	s.Resent += o.Resent
	s.AccountMissing += o.AccountMissing
}

func (a *Answers) add(o *Answers) {
	a.Online.Plus(o.Online)
	a.Target.Plus(o.Target)
	a.Absorbed += o.Absorbed
	a.Same += o.Same
	a.Different += o.Different
	a.Answered += o.Answered
	a.Unanswered += o.Unanswered
	a.Turns += o.Turns
	a.HeldMax += o.HeldMax
	a.HeadersDropped += o.HeadersDropped
	a.Headers += o.Headers
}
