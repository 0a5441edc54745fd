package responder

import (
	"fmt"
	"net/netip"
	"time"

	"flowtwin/internal/flow"
	"flowtwin/netstack"
	"flowtwin/responder/replay"
	"flowtwin/tunnel/frame"
)

// admit makes the session of a flow, and those of its copies. One that cannot be
// admitted is made all the same, since its bytes must be counted: its worker will
// not dial.
func (l *lane) admit(number uint32, body []byte) (*session, error) {
	o, ok := frame.ParseOpen(body)
	switch {
	case !ok:
		return nil, fmt.Errorf("%w: malformed open", errProtocol)
	case number >= maxFlows:
		return nil, fmt.Errorf("%w: flow %d is over the limit of %d", errProtocol, number, maxFlows)
	case int(o.Map) >= l.targets.len():
		return nil, fmt.Errorf("%w: flow of map %d, there are %d", errProtocol, o.Map, l.targets.len())
	case o.Copies > frame.MaxCopies:
		return nil, fmt.Errorf("%w: flow of %d copies, at most %d are possible", errProtocol, o.Copies, frame.MaxCopies)
	case l.find(number) != nil:
		return nil, fmt.Errorf("%w: flow %d is open", errProtocol, number)
	}
	to := l.targets.at(o.Map)
	s := &session{flow: number, target: to.addr, watch: to.watch, place: to.watch, baseSeen: o.BaseSeen}
	l.begin(s, &o)
	s.strand = l.strands[s.lease.Shard]
	for int(number) >= len(l.flows) {
		l.flows = append(l.flows, nil)
	}
	l.flows[number] = s
	l.sessions.Add(1)
	return s, nil
}

// begin finds outward addresses for s and its copies, or says why it gets none. A
// flow is refused as a whole, but a copy for which no address is left.
func (l *lane) begin(s *session, o *frame.Open) {
	copies := max(int(o.Copies), 1)
	s.refused = l.refuses(copies)
	if s.refused == 0 {
		l.lease(s, o, 0)
	}
	if s.refused != 0 {
		s.lease = netstack.Lease{Shard: int(s.flow) % len(l.host.workers)}
		s.forgone = copies - 1
		return
	}
	s.sessions = 1
	jitter := time.Duration(o.Jitter) * time.Millisecond
	for n := 1; n < copies; n++ {
		c := &session{flow: s.flow, number: n, target: s.target, place: s.place, baseSeen: s.baseSeen}
		if l.lease(c, o, n); c.refused != 0 {
			s.forgone++
			continue
		}
		s.sessions++
		c.late = flow.Late(&o.Key.Client, o.Key.ClientPort, n, jitter)
		l.fan(s, c.lease.Shard).add(c)
	}
}

// refuses says why no flow of so many sessions is taken now, 0 if it is.
func (l *lane) refuses(sessions int) frame.CloseHow {
	switch h := l.host; {
	case h.draining.Load():
		return frame.ClosedDrain
	case h.paused.Load():
		return frame.ClosedPaused
	case h.open.Load()+int64(sessions) > h.most: // other lanes' readers may pass it by a flow each
		return frame.ClosedRejected
	}
	now := time.Now()
	if !l.limits.open(sessions, now) {
		return frame.ClosedRate
	}
	if !l.host.limits.open(sessions, now) {
		l.limits.connections.back(float64(sessions))
		return frame.ClosedRate
	}
	return 0
}

// lease finds the outward address of a copy, 0 being the flow's own session.
func (l *lane) lease(s *session, o *frame.Open, number int) {
	client := netip.AddrPortFrom(o.Key.Client.Netip(), o.Key.ClientPort)
	lease, err := l.host.net.AcquireCopy(client, number, s.target.Addr().Is6())
	if err != nil {
		s.refused = frame.ClosedNoTuple
		return
	}
	if l.host.clientRTT {
		lease.RTT = min(time.Duration(o.RTT)*time.Microsecond, netstack.MaxRTT)
	}
	s.lease = lease
	s.admitted = true
	l.host.open.Add(1)
}

// A fan is the copies of a flow on one shard. The lane's reader makes it and puts
// the sessions in; from Open on it is the worker's.
type fan struct {
	strand   *strand
	shard    int
	sessions []*session
	copies   *replay.Copies // nil before Open
}

func (f *fan) add(s *session) {
	s.strand = f.strand
	f.sessions = append(f.sessions, s)
}

// fan returns the fan of a flow's copies on a shard.
func (l *lane) fan(s *session, shard int) *fan {
	for _, f := range s.fans {
		if f.shard == shard {
			return f
		}
	}
	f := &fan{strand: l.strands[shard], shard: shard}
	s.fans = append(s.fans, f)
	return f
}
