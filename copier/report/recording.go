package report

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// A Recording says how far the replaying of files is, and what became of their
// packets: those that are not counted here as left out are in [Packets.Captured].
type Recording struct {
	Read, Total uint64 // bytes of the files; Total of one loop, 0 unknown
	Loops       uint64 // complete ones
	Times       uint64 // loops that are wanted
	Endless     bool
	Played      time.Duration // of the recorded time

	Packets  uint64
	NotIP    uint64
	NotTCP   uint64
	Unmapped uint64
	Filtered uint64
	Outside  uint64 // of --start and --stop
	Unplayed uint64 // read ahead when the replay was ended
}

// left returns how many packets were left out.
func (r *Recording) left() uint64 {
	return r.NotIP + r.NotTCP + r.Unmapped + r.Filtered + r.Outside + r.Unplayed
}

// part returns how much of the files has been played, from 0 to 1; !ok: nobody knows. What
// is read ahead may be all of a recording of hours.
func (r *Recording) part(l *Ledger) (part float64, ok bool) {
	if r.Total == 0 || r.Endless {
		return 0, false
	}
	part = float64(r.Read) / (float64(r.Total) * float64(max(r.Times, 1)))
	if r.Packets > 0 {
		part *= float64(l.Packets.Captured+r.left()) / float64(r.Packets)
	}
	return min(part, 1), true
}

// attrs returns the status.
func (r *Recording) attrs(l *Ledger) []any {
	a := []any{"recorded_packets", r.Packets, "left_out", r.left(), "played", r.Played.Round(time.Millisecond)}
	if part, ok := r.part(l); ok {
		a = append(a, "done", fmt.Sprintf("%.1f %%", part*100))
	}
	if r.Times > 1 || r.Endless {
		a = append(a, "loops", r.Loops)
	}
	if p99, ok := l.Schedule.Quantile(0.99); ok {
		a = append(a, "schedule_lag_p99", short(p99))
	}
	return a
}

// text adds the recording to a page.
func (r *Recording) text(p *page, l *Ledger) {
	p.title("recording")
	p.number("packets", r.Packets, size(r.Read)+" of files, "+thousands(r.Loops)+" loops")
	p.some("  not IP", r.NotIP, "or of a link type that is not known")
	p.some("  not TCP", r.NotTCP, "")
	p.some("  of no map", r.Unmapped, "")
	p.some("  left out by --filter", r.Filtered, "")
	p.some("  before --start, behind --stop", r.Outside, "")
	p.some("  not played", r.Unplayed, "read ahead when the replay was ended")
	p.line("played", r.Played.Round(time.Millisecond).String(), "of the recorded time")
	if p50, ok := l.Schedule.Quantile(0.5); ok {
		p99, _ := l.Schedule.Quantile(0.99)
		p.line("schedule lag p50 / p99", short(p50).String()+" / "+short(p99).String(), "max "+short(l.Schedule.Max).String())
	}
	p.some("went on without the target", l.Stuck, "times: it moved nothing for 10 s")
}

// check returns what does not add up.
func (r *Recording) check(l *Ledger) []string {
	if got, want := r.Packets, l.Packets.Captured+r.left(); got != want {
		return []string{fmt.Sprintf("packets of the recording: %d, but their parts add up to %d", got, want)}
	}
	return nil
}

// recordingJSON is how a Recording is written.
type recordingJSON struct {
	Files    uint64            `json:"file_bytes"`
	Loops    uint64            `json:"loops"`
	Packets  uint64            `json:"packets"`
	LeftOut  map[string]uint64 `json:"left_out"`
	PlayedNs int64             `json:"played_ns"`
	LagNs    map[string]uint64 `json:"schedule_lag_ns,omitempty"` // not where the target sets the pace
	Stuck    uint64            `json:"went_on_without_target"`
}

func (r *Recording) json(l *Ledger) *recordingJSON {
	if r == nil {
		return nil
	}
	out := &recordingJSON{
		Files: r.Read, Loops: r.Loops, Packets: r.Packets, PlayedNs: int64(r.Played), Stuck: l.Stuck,
		LeftOut: map[string]uint64{
			"not_ip": r.NotIP, "not_tcp": r.NotTCP, "unmapped": r.Unmapped, "filtered": r.Filtered, "outside": r.Outside, "unplayed": r.Unplayed,
		},
	}
	if p50, ok := l.Schedule.Quantile(0.5); ok {
		p99, _ := l.Schedule.Quantile(0.99)
		out.LagNs = map[string]uint64{"p50": uint64(p50), "p99": uint64(p99), "max": uint64(l.Schedule.Max)}
	}
	return out
}

// WriteSkipped says in lines what of a recording would not be replayed.
func (s *Summary) WriteSkipped(w io.Writer) {
	r, l := s.Recording, &s.Ledger
	left := func(n uint64, what string) {
		if n > 0 {
			fmt.Fprintf(w, "left out: %s %s\n", thousands(n), what)
		}
	}
	left(r.NotIP, "packets that are not IP, or of a link type that is not known")
	left(r.NotTCP, "packets that are not TCP")
	left(r.Unmapped, "packets of no map")
	left(r.Filtered, "packets by --filter")
	left(r.Outside, "packets before --start or behind --stop")
	p := &l.Packets
	left(p.Fragment, "IP fragments")
	left(p.Truncated, "packets cut within their headers")
	left(p.Malformed, "malformed packets")
	left(p.BadChecksum, "packets with a wrong checksum")
	for i := range Reason(NumReasons) {
		left(l.Flows.Refused[i], "connections: "+i.String())
		left(l.Flows.GivenUp[i], "connections from some point on: "+i.String())
		left(l.Client.Dropped[i].Bytes, "bytes: "+i.String())
	}
	left(l.Client.Missing, "bytes that were never recorded, at least")
	for _, wrong := range s.Check() {
		fmt.Fprintf(w, "sums do not add up: %s\n", wrong)
	}
}

// barWidth is how many characters a progress bar has.
const barWidth = 24

// Progress says in one line how far a replay is.
func (s *Summary) Progress() string {
	r, l := s.Recording, &s.Ledger
	var b strings.Builder
	if part, ok := r.part(l); ok {
		n := int(part * barWidth)
		fmt.Fprintf(&b, "[%s%s] %3.0f %%  ", strings.Repeat("#", n), strings.Repeat(".", barWidth-n), part*100)
	}
	fmt.Fprintf(&b, "%s  %s flows, %s live", size(r.Read), thousands(l.Flows.Seen), thousands(l.Flows.Live))
	if r.Times > 1 || r.Endless {
		loop := r.Loops + 1
		if !r.Endless {
			loop = min(loop, r.Times) // all are read
		}
		fmt.Fprintf(&b, "  loop %s", thousands(loop))
	}
	if part, ok := r.part(l); ok && part > 0 {
		took := s.Ended.Sub(s.Started)
		fmt.Fprintf(&b, "  ETA %v", time.Duration(float64(took)*(1-part)/part).Round(time.Second))
	}
	if p99, ok := l.Schedule.Quantile(0.99); ok {
		fmt.Fprintf(&b, "  lag p99 %v", short(p99))
	}
	if s.Stalled > 0 {
		fmt.Fprintf(&b, "  nothing delivered for %v", s.Stalled)
	}
	return b.String()
}
