package report

import (
	"fmt"
	"strings"
)

// Recorded says what has been recorded of the packets of followed flows.
type Recorded struct {
	Dir     string
	Alone   bool // nothing is copied
	Files   uint64
	Removed uint64 // files, for the cap
	Bytes   uint64
	Lost    uint64 // packets that could not be written: the disk failed
}

// text adds the recording to a page.
func (r *Recorded) text(p *page, l *Ledger) {
	p.title("recorded, in " + r.Dir)
	p.number("packets", l.Recorded-min(r.Lost, l.Recorded), size(r.Bytes)+" in "+thousands(r.Files)+" files, "+thousands(r.Removed)+" removed for --record-cap")
	p.some("  record_dropped", l.RecordDropped, "the disk was too slow")
	p.some("  record_lost", r.Lost, "the disk failed, or is full")
}

// headline says in one line what the run has done.
func (s *Summary) headline() string {
	if s.Recorded == nil || !s.Recorded.Alone {
		line := s.Ledger.Headline()
		if rest, ok := strings.CutPrefix(line, nothingYet); ok && s.Final {
			line = strings.TrimSuffix(nothingYet, " yet") + rest
		}
		if s.Stalled > 0 {
			line = fmt.Sprintf("stalled: nothing delivered for %v; before that %s", s.Stalled, line)
		}
		return line
	}
	l := &s.Ledger
	lost := l.RecordDropped + s.Recorded.Lost
	return fmt.Sprintf("recorded %s of %s connections", percent(l.Recorded+l.RecordDropped-lost, l.Recorded+l.RecordDropped), thousands(l.Flows.Admitted))
}

// recordedJSON is how Recorded is written.
type recordedJSON struct {
	Alone   bool   `json:"alone"`
	Packets uint64 `json:"packets"`
	Dropped uint64 `json:"record_dropped"`
	Lost    uint64 `json:"record_lost"`
	Bytes   uint64 `json:"file_bytes"`
	Files   uint64 `json:"files"`
	Removed uint64 `json:"files_removed"`
}

func (r *Recorded) json(l *Ledger) *recordedJSON {
	if r == nil {
		return nil
	}
	return &recordedJSON{r.Alone, l.Recorded - min(r.Lost, l.Recorded), l.RecordDropped, r.Lost, r.Bytes, r.Files, r.Removed}
}
