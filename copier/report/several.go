package report

import (
	"encoding/json"
	"fmt"
	"time"
)

// AppendText appends the ledgers of several targets to b: one line each, and then
// one behind the other.
func AppendText(b []byte, sums []*Summary) []byte {
	for _, s := range sums {
		b = fmt.Appendf(b, "%s: %s\n", s.Target, s.headline())
	}
	for _, s := range sums {
		b = fmt.Appendf(b, "\n==== target %s ====\n", s.Target)
		b = s.AppendText(b)
	}
	return b
}

// Several returns what --report writes of several targets, for JSON.
func Several(sums []*Summary) any { return gather(sums) }

// several is what --report writes of several targets: what is true of all of them,
// and the ledger of each.
type several struct {
	Version string     `json:"version"`
	Started time.Time  `json:"started"`
	Ended   time.Time  `json:"ended"`
	Final   bool       `json:"final"`
	Targets []*Summary `json:"targets"`
}

func gather(sums []*Summary) *several {
	all := several{Final: true, Targets: sums}
	for i, s := range sums {
		all.Version = s.Version
		all.Final = all.Final && s.Final
		if i == 0 || s.Started.Before(all.Started) {
			all.Started = s.Started.UTC()
		}
		if s.Ended.After(all.Ended) {
			all.Ended = s.Ended.UTC()
		}
	}
	return &all
}

// WriteFile writes the ledgers of several targets to file as JSON, as
// [Summary.WriteFile] does one.
func WriteFile(file string, sums []*Summary) error {
	b, err := json.MarshalIndent(gather(sums), "", "  ")
	if err != nil {
		return fmt.Errorf("report: %w", err)
	}
	return writeFile(file, b)
}
