package report

import (
	"fmt"
	"strings"
	"time"
)

// A Summary is a ledger with what stands around it.
type Summary struct {
	Version string
	Started time.Time
	Ended   time.Time // of a status: now
	Final   bool
	Target  string        // which of several, or ""
	Split   string        // which part of the clients goes there, as 1/3; "" all
	State   string        // what it was told to do: copying, paused, draining
	Sample  float64       // percent of the connections that are copied
	Rates   Rates         // that the responder is to keep
	Stalled time.Duration // nothing has been delivered for so long of what is sent; 0: it is
	Kernel  Kernel
	Tunnel  Tunnel
	Ledger  Ledger

	Recording *Recording // that is replayed, or nil
	Recorded  *Recorded  // what was captured, or nil
	Headers   *Headers   // the file of them, or nil
}

// Rates are what is taken of connections in a second, 0: no limit.
type Rates struct {
	Connections float64
	Bytes       float64
}

// Headers says what became of the targets' headers that were to be recorded.
type Headers struct {
	Recorded uint64 `json:"recorded"`
	Dropped  uint64 `json:"dropped"` // the disk was slow or full, or the file at its end
}

// Kernel is what the rings' kernel side has counted.
type Kernel struct {
	Packets uint64 // that passed the filter, dropped ones included
	Dropped uint64 // for which a ring had no room
}

// Tunnel is the state of the tunnel.
type Tunnel struct {
	Up            bool
	Remote        string
	Connects      uint64
	RTT           time.Duration
	BytesSent     uint64
	BytesReturned uint64
}

// A Loss is a share of clients' bytes (or flows) that was not copied.
type Loss struct {
	Label string // of the reason
	Bytes uint64
	Flows uint64
}

// Check returns what does not add up, as the ledger's, and of a final one what
// has been left without a name.
func (s *Summary) Check() []string {
	wrong := s.Ledger.Check()
	if s.Recording != nil && s.Final {
		wrong = append(wrong, s.Recording.check(&s.Ledger)...)
	}
	if h := s.Headers; h != nil && s.Final && h.Recorded+h.Dropped != s.Ledger.Answers.Headers {
		wrong = append(wrong, fmt.Sprintf("headers returned: %d, but %d recorded + %d dropped", s.Ledger.Answers.Headers, h.Recorded, h.Dropped))
	}
	if n := s.Ledger.Sent.InFlight; s.Final && n != (Count{}) {
		wrong = append(wrong, fmt.Sprintf("in flight at the end: %d segments, %d bytes", n.Segments, n.Bytes))
	}
	if n := s.Ledger.Sessions.Open; s.Final && n > 0 {
		wrong = append(wrong, fmt.Sprintf("sessions open at the end: %d", n))
	}
	return wrong
}

// Losses returns what was not copied, the largest first, by reason, and how many
// flows were not copied to their end for it; reasons of the responder begin with
// "target_".
func (l *Ledger) Losses() []Loss {
	var out []Loss
	for r := Reason(1); r < NumReasons; r++ {
		if r == NeverEstablished || r == SampledOut || r == HTTPUnselected {
			continue // the online server did not get it either, or it was not wanted
		}
		b, f := l.Client.Dropped[r].Bytes, l.Flows.Refused[r]+l.Flows.GivenUp[r]
		if r == CaptureHole {
			b += l.Client.Missing
		}
		if b+f > 0 {
			out = append(out, Loss{r.String(), b, f})
		}
	}
	for h, c := range l.Sent.Dropped {
		if c.Bytes > 0 {
			out = append(out, Loss{Label: lossName(h), Bytes: c.Bytes})
		}
	}
	if b := l.Sent.Gap.Bytes; b > 0 {
		out = append(out, Loss{Label: lossReconnect, Bytes: b})
	}
	if b := l.Sent.AfterClose.Bytes; b > 0 {
		out = append(out, Loss{Label: lossSessionOver, Bytes: b})
	}
	if b := l.Sent.TunnelLost.Bytes; b > 0 {
		out = append(out, Loss{Label: lossTunnel, Bytes: b})
	}
	if b, f := l.Sent.AccountMissing.Bytes, l.Sessions.AccountMissing; b+f > 0 {
		out = append(out, Loss{lossAccount, b, f})
	}
	for i := 1; i < len(out); i++ { // few: insertion keeps their order stable
		for j := i; j > 0 && (out[j].Bytes > out[j-1].Bytes); j-- {
			out[j], out[j-1] = out[j-1], out[j]
		}
	}
	return out
}

// Copied returns which part of what clients sent (each byte once, those that the
// capture is known to have missed too) is known to have been delivered to the target;
// what is under way counts neither as copied nor as lost, and what the online server never
// accepted, or nobody wanted, not at all. ok is false as long as there is nothing to speak of.
func (l *Ledger) Copied() (delivered, of uint64, ok bool) {
	c := &l.Client
	of = c.Captured.Bytes + c.Prologue.Bytes + c.Missing - c.Retransmitted.Bytes - c.Duplicate.Bytes - c.Stored.Bytes - l.UnderWay() -
		c.Dropped[NeverEstablished].Bytes - c.Dropped[SampledOut].Bytes - c.Dropped[HTTPUnselected].Bytes +
		c.Rewritten.Added.Bytes - c.Rewritten.Removed.Bytes
	return l.Sent.Delivered.Bytes + l.Sent.Arrived + l.told(), of, of > 0
}

// Headline says in one line how much was copied of what has been decided, what was
// not, and why, and how much is under way.
func (l *Ledger) Headline() string {
	var b strings.Builder
	delivered, of, ok := l.Copied()
	switch {
	case ok:
		fmt.Fprintf(&b, "copied %s", percent(delivered, of))
	case l.UnderWay() > 0:
		b.WriteString("nothing delivered yet")
	default:
		b.WriteString(nothingYet)
		l.unestablished(&b)
	}
	if a := &l.Answers; ok && Deaf(a.Answered, a.Unanswered) {
		fmt.Fprintf(&b, ", but %d %% of the connections got no answer from the target", a.Unanswered*100/(a.Answered+a.Unanswered))
	}
	for _, x := range l.Losses() {
		switch {
		case x.Flows == 0:
			fmt.Fprintf(&b, ", %s %s", percentUp(x.Bytes, of), x.Label)
		case x.Bytes == 0:
			fmt.Fprintf(&b, ", %s %s", flows(x.Flows), x.Label)
		default:
			fmt.Fprintf(&b, ", %s %s (%s)", percentUp(x.Bytes, of), x.Label, flows(x.Flows))
		}
	}
	if n := l.UnderWay(); n > 0 {
		fmt.Fprintf(&b, ", %s under way", size(n))
	}
	return b.String()
}

// Deaf reports whether so many connections got no answer from the target that it is
// worth a word: more than a tenth of those that were answered online. A few are cut by
// any target that is restarted.
func Deaf(answered, unanswered uint64) bool { return unanswered*10 > answered+unanswered }

const nothingYet = "nothing to copy yet"

// unestablished says why there is nothing to copy although clients came.
func (l *Ledger) unestablished(b *strings.Builder) {
	refused := l.Flows.Declined
	if refused > 0 {
		fmt.Fprintf(b, ": the online server refused %s", handshakes(refused))
	}
	if n := l.Flows.Refused[NeverEstablished]; n > refused {
		sep := ":"
		if refused > 0 {
			sep = ","
		}
		fmt.Fprintf(b, "%s %s without an answer, or not completed", sep, handshakes(n-refused))
	}
}

// handshakes formats a number of handshakes.
func handshakes(n uint64) string {
	if n == 1 {
		return "1 handshake"
	}
	return thousands(n) + " handshakes"
}

// flows formats a number of flows.
func flows(n uint64) string {
	if n == 1 {
		return "1 flow"
	}
	return thousands(n) + " flows"
}

// percent formats part of whole, rounded down: 100 % is said only of all.
func percent(part, whole uint64) string {
	if whole == 0 {
		return "-"
	}
	hundredths := uint64(float64(part) / float64(whole) * 10000)
	if part < whole {
		hundredths = min(hundredths, 9999)
	}
	return fmt.Sprintf("%d.%02d %%", hundredths/100, hundredths%100)
}

// percentUp formats part of whole, rounded up: a loss is never said to be none.
func percentUp(part, whole uint64) string {
	if whole == 0 {
		return "-"
	}
	f := float64(part) / float64(whole) * 10000
	hundredths := uint64(f)
	if float64(hundredths) < f {
		hundredths++
	}
	return fmt.Sprintf("%d.%02d %%", hundredths/100, hundredths%100)
}

// Attrs returns the status as key-value pairs for a logger.
func (s *Summary) Attrs() []any {
	l := &s.Ledger
	attrs := []any{
		"copied", s.headline(),
		"state", s.State,
		"sample_percent", s.Sample,
		"packets", l.Packets.Captured,
		"kernel_dropped", s.Kernel.Dropped,
		"flows_live", l.Flows.Live,
		"flows_admitted", l.Flows.Admitted,
		"flows_refused", total(l.Flows.Refused[:]) - l.Flows.Refused[NeverEstablished],
		"sent_bytes", l.Client.Sent.Bytes,
		"under_way_bytes", l.UnderWay(),
		"sessions_open", l.Sessions.Open,
		"sessions_established", l.Sessions.Established,
		"answer_bytes", l.Answers.Target.Bytes,
		"tunnel_up", s.Tunnel.Up,
		"rtt", s.Tunnel.RTT.Round(time.Microsecond),
	}
	if s.Stalled > 0 {
		attrs = append(attrs, "stalled", s.Stalled)
	}
	if r := s.Rates; r != (Rates{}) {
		attrs = append(attrs, "rate_connections", r.Connections, "rate_bytes", r.Bytes)
	}
	if l.Copies.Asked > 0 {
		attrs = append(attrs, "copies", l.Copies.Asked, "copies_open", l.Copies.Open, "amplified", l.factor())
	}
	if s.Recording != nil {
		attrs = append(attrs, s.Recording.attrs(l)...)
	}
	if p50, ok := l.Lag.Quantile(0.5); ok {
		p99, _ := l.Lag.Quantile(0.99)
		attrs = append(attrs, "lag_p50", short(p50), "lag_p99", short(p99))
	}
	return attrs
}

// short rounds d to three digits or so.
func short(d time.Duration) time.Duration {
	unit := time.Nanosecond
	for d/unit >= 1000 {
		unit *= 10
	}
	return d.Round(unit)
}
