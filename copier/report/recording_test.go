package report

import (
	"strings"
	"testing"
	"time"
)

func recording() *Summary {
	s := &Summary{
		Final: true, Sample: 100,
		Started: time.Date(2026, 11, 23, 13, 0, 0, 0, time.UTC), Ended: time.Date(2026, 11, 23, 13, 1, 0, 0, time.UTC),
		Recording: &Recording{Read: 3_000_000, Total: 4_000_000, Times: 1, Played: 90 * time.Second, Packets: 15, NotIP: 1, NotTCP: 2, Unmapped: 3, Filtered: 4, Outside: 5},
	}
	s.Ledger.Schedule.Add(time.Millisecond)
	return s
}

// Of a recording all connections are known, also those that are not in the sample.
func TestRecordingSampled(t *testing.T) {
	s := recording()
	s.Sample = 40
	if text := string(s.AppendText(nil)); !strings.Contains(text, "sampled: 40 % of the connections\n") {
		t.Error(text)
	}
}

func TestProgress(t *testing.T) {
	s := recording()
	s.Ledger.Flows.Seen, s.Ledger.Flows.Live = 1234, 5
	if got, want := s.Progress(), "[##################......]  75 %  3.0 MB  1,234 flows, 5 live  ETA 20s  lag p99 1ms"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	s.Recording.Packets, s.Ledger.Packets.Captured = 60, 15 // of them the rest is read ahead
	if got, want := s.Progress(), "[#########...............]  38 %"; !strings.HasPrefix(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	s.Recording.Endless, s.Recording.Loops = true, 2
	if got, want := s.Progress(), "3.0 MB  1,234 flows, 5 live  loop 3  lag p99 1ms"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// Each packet of a recording must be accounted for.
func TestRecordingAddsUp(t *testing.T) {
	s := recording()
	if wrong := s.Check(); len(wrong) > 0 {
		t.Errorf("%v", wrong)
	}
	text := string(s.AppendText(nil))
	for _, want := range []string{"left out by --filter", "of no map", "1m30s", "schedule lag p50 / p99"} {
		if !strings.Contains(text, want) {
			t.Errorf("the ledger says nothing of %q", want)
		}
	}
	for _, n := range []*uint64{&s.Recording.Packets, &s.Recording.NotIP, &s.Recording.Unplayed} {
		*n++
		if len(s.Check()) == 0 {
			t.Error("a packet too many is not found")
		}
		*n--
	}
	recorded := &Summary{Recorded: &Recorded{Alone: true, Lost: 1}, Ledger: Ledger{Packets: Packets{Captured: 100, ToServer: 100}, Recorded: 90, RecordDropped: 10}}
	if got, want := recorded.headline(), "recorded 89.00 % of 0 connections"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if wrong := recorded.Check(); len(wrong) > 0 {
		t.Errorf("%v", wrong)
	}
}
