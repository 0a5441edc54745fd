package report

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"flowtwin/tunnel/frame"
)

// howName returns the label of index i of arrays by CloseHow.
func howName(i int) string { return frame.CloseHow(i).String() }

// A page collects lines of a label and right-aligned figures.
type page struct{ b []byte }

func (p *page) title(s string) { p.b = append(append(p.b, s...), '\n') }

func (p *page) line(label, value, note string) {
	s := fmt.Sprintf("  %-34s %16s  %s", label, value, note)
	p.b = append(append(p.b, strings.TrimRight(s, " ")...), '\n')
}

func (p *page) number(label string, n uint64, note string) { p.line(label, thousands(n), note) }

// some adds the line unless n is 0.
func (p *page) some(label string, n uint64, note string) {
	if n > 0 {
		p.number(label, n, note)
	}
}

func (p *page) count(label string, c Count) {
	p.line(label, thousands(c.Segments), "segments, "+size(c.Bytes))
}

func (p *page) someCount(label string, c Count) { p.someCountNote(label, c, "") }

// someCountNote adds the line, with what it means, unless c is 0.
func (p *page) someCountNote(label string, c Count, note string) {
	if c == (Count{}) {
		return
	}
	if note != "" {
		note = "; " + note
	}
	p.line(label, thousands(c.Segments), "segments, "+size(c.Bytes)+note)
}

// AppendText appends the ledger for people to b.
func (s *Summary) AppendText(b []byte) []byte {
	p := &page{b: b}
	l := &s.Ledger
	p.title(s.headline())
	alone := s.Recorded != nil && s.Recorded.Alone
	took := s.Ended.Sub(s.Started).Round(100 * time.Millisecond)
	if alone {
		p.b = fmt.Appendf(p.b, "in %v\n\n", took)
	} else {
		p.b = fmt.Appendf(p.b, "in %v, %s of the requests' bytes delivered to the target\n\n", took, size(l.Sent.Delivered.Bytes+l.Sent.Arrived))
	}
	if s.Split != "" {
		p.b = fmt.Appendf(p.b, "split: part %s of the clients\n\n", s.Split)
	}
	switch {
	case s.Sample >= 100:
	case s.Recording != nil:
		p.b = fmt.Appendf(p.b, "sampled: %s of the connections\n\n", sampled(s.Sample))
	default:
		p.b = fmt.Appendf(p.b, "sampled: %s of the connections; of the others, which the kernel's filter refuses, nothing is known\n\n", sampled(s.Sample))
	}
	if s.Rates != (Rates{}) {
		p.b = fmt.Appendf(p.b, "limited: at most %s; the rest is refused as rate\n\n", s.Rates)
	}
	if s.Recording != nil {
		s.Recording.text(p, l)
	}
	s.packets(p)
	l.flows(p)
	if !alone {
		l.client(p)
		l.http(p)
		l.sessions(p)
		l.ends(p)
		l.copies(p)
		s.answers(p)
	}
	if s.Recorded != nil {
		s.Recorded.text(p, l)
	}
	if wrong := s.Check(); len(wrong) > 0 {
		p.title("sums: DO NOT ADD UP")
		for _, w := range wrong {
			p.title("  " + w)
		}
	} else {
		p.title("sums: ok")
	}
	return p.b
}

// String says what may be taken.
func (r Rates) String() string {
	var parts []string
	for _, x := range []struct {
		per  float64
		what string
	}{{r.Connections, "connections"}, {r.Bytes, "bytes"}} {
		if x.per > 0 {
			parts = append(parts, strconv.FormatFloat(x.per, 'f', -1, 64)+" "+x.what)
		}
	}
	return strings.Join(parts, " and ") + " a second"
}

// sampled formats a percentage, 6 digits at most.
func sampled(percent float64) string { return strconv.FormatFloat(percent, 'g', 6, 64) + " %" }

func (s *Summary) packets(p *page) {
	c := &s.Ledger.Packets
	p.title("packets")
	p.number("captured", c.Captured, "")
	p.number("dropped by the kernel", s.Kernel.Dropped, "the rings were full")
	p.number("  to server", c.ToServer, "")
	p.number("  to client", c.ToClient, "headers only")
	p.some("  of refused flows", c.Refused, "")
	p.some("  late", c.Late, "after the end of their flow")
	p.some("  of no known flow", c.NoFlow, "without data")
	p.some("  of no map", c.Unmapped, "")
	p.some("  not TCP", c.NotTCP, "")
	p.some("  IP fragments", c.Fragment, "")
	p.some("  cut short", c.Truncated, "")
	p.some("  malformed", c.Malformed, "")
	p.some("  injected loss", c.Injected, "thrown away on purpose")
	p.some("  bad_checksum", c.BadChecksum, "the online server drops them too")
}

func (l *Ledger) flows(p *page) {
	f := &l.Flows
	p.title("flows: the clients' connections")
	p.number("seen", f.Seen, "")
	p.number("  admitted", f.Admitted, "")
	p.some("    of these adopted", f.Adopted, "they began before the copier")
	p.some("    of these late", f.Late, "they had to wait for the tunnel")
	for r := range Reason(NumReasons) {
		p.some("  refused: "+r.String(), f.Refused[r], r.Meaning())
		if r == NeverEstablished {
			p.some("    of these by the server", f.Declined, "it answered with a reset")
		}
	}
	p.some("  in their handshake", f.Pending, "")
	p.some("  observed", f.Observed, "they began before the copier, and wait for a turn")
	p.some("  waiting", f.Waiting, "without a session now")
	for e := range Ending(NumEndings) {
		p.some("    ended online: "+e.String(), f.Ended[e], "")
	}
	for r := range Reason(NumReasons) {
		p.some("    given up: "+r.String(), f.GivenUp[r], r.Meaning())
	}
	p.some("    live", f.Live, "")
	for r := range Reason(NumReasons) {
		p.some("  resumed after "+r.String(), f.Resumed[r], "sessions for flows that had been given up")
	}
	p.some("  suspended", f.Suspended, "given up, and wait for a turn to go on at")
	p.some("  hurried", f.Hurried, "sessions that were ended early: the table was full of flows that were over")
	p.some("  prologue_full", f.PrologueFull, "flows whose beginnings were not kept")
}

func (l *Ledger) client(p *page) {
	c, s := &l.Client, &l.Sent
	p.title("what clients sent")
	p.count("captured", c.Captured)
	p.count("  sent to the responder", c.Sent)
	p.someCount("    prologues beside that", c.Prologue)
	p.count("    delivered to the target", s.Delivered)
	if s.Arrived > 0 {
		p.line("    and by its last word", size(s.Arrived), "of sessions whose account did not come; segments below")
	}
	for h, n := range s.Dropped {
		p.someCountNote("    dropped there: "+howName(h), n, howMeaning(h))
	}
	p.someCountNote("    target_reconnect", s.Gap, "lost between two connections to the target")
	p.someCountNote("    session_was_over", s.AfterClose, "on their way when the connection to the target ended")
	p.someCount("    tunnel_lost, fate unknown", s.TunnelLost)
	p.someCount("    in flight", s.InFlight)
	p.someCount("    account_missing, fate unknown", s.AccountMissing)
	p.someCount("  retransmitted", c.Retransmitted)
	p.someCount("  captured twice", c.Duplicate)
	p.someCount("  early, waiting", c.Stored)
	for r := range Reason(NumReasons) {
		p.someCountNote("  dropped: "+r.String(), c.Dropped[r], r.Meaning())
	}
	p.someCount("  removed by rewriting", c.Rewritten.Removed)
	p.someCount("  added by rewriting", c.Rewritten.Added)
	p.some("never captured", c.Missing, "bytes, at least")
	p.someCount("  of packets lost on purpose", c.Injected)
	p.some("urgent", c.Urgent, "segments; the target gets it as ordinary bytes")
	p.some("sent again with other bytes", c.Conflicts, "segments; the first ones were copied")
}

func (l *Ledger) http(p *page) {
	h := &l.HTTP
	if *h == (HTTP{}) {
		return
	}
	p.title("HTTP requests")
	p.number("selected", h.Selected, "")
	p.number("left out", h.LeftOut, "")
	p.some("no HTTP/1", h.Unparsed, "flows")
}

func (l *Ledger) sessions(p *page) {
	s := &l.Sessions
	p.title("sessions: the connections to the target")
	p.number("opened", s.Opened, "")
	p.number("established", s.Established, "")
	for h, n := range s.Closed {
		p.some("  closed: "+howName(h), n, howMeaning(h))
	}
	p.some("  lost with the tunnel", s.Lost, "")
	p.some("reconnected", s.Reconnects, "the target had closed, the client had not; "+thousands(s.Resent)+" turns were written twice")
	p.some("  open", s.Open, "no account yet")
	p.some("  account_missing", s.AccountMissing, "the copier ended before it came")
}

func (s *Summary) answers(p *page) {
	a := &s.Ledger.Answers
	p.title("answers")
	p.count("online server's", a.Online)
	p.count("target's", a.Target)
	p.line("absorbed", size(a.Absorbed), "")
	p.number("as long as online", a.Same, "of "+thousands(a.Same+a.Different)+" connections that both sides closed online")
	p.some("no answer at all", a.Unanswered, "of "+thousands(a.Answered+a.Unanswered)+" that reached the target and were answered online")
	p.number("turns", a.Turns, thousands(a.HeldMax)+" released by --max-hold")
	p.number("headers returned", a.Headers, thousands(a.HeadersDropped)+" dropped")
	if h := s.Headers; h != nil {
		p.number("headers recorded", h.Recorded, thousands(h.Dropped)+" not: no room, or the disk")
	}
	p.title("tunnel")
	p.line("round trip", short(s.Tunnel.RTT).String(), "")
	p.line("bytes", size(s.Tunnel.BytesSent), "out, "+size(s.Tunnel.BytesReturned)+" back")
	p.number("connected", s.Tunnel.Connects, "times")
	p.some("returns without sense", s.Ledger.BadReturns, "frames: the responder is of another version, or broken")
	if p50, ok := s.Ledger.Lag.Quantile(0.5); ok {
		p99, _ := s.Ledger.Lag.Quantile(0.99)
		p.line("lag p50 / p99", short(p50).String()+" / "+short(p99).String(), "online capture to the target, at most")
	}
}

// thousands formats n with commas.
func thousands(n uint64) string {
	s := strconv.FormatUint(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// size formats n bytes.
func size(n uint64) string {
	const units = "kMGTPE"
	if n < 1000 {
		return fmt.Sprintf("%d B", n)
	}
	f, i := float64(n)/1000, 0
	for f >= 999.95 && i < len(units)-1 {
		f, i = f/1000, i+1
	}
	return fmt.Sprintf("%.1f %cB", f, units[i])
}
