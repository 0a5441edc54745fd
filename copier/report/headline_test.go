package report

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"flowtwin/tunnel/frame"
)

func TestHeadline(t *testing.T) {
	tests := []struct {
		name   string
		change func(l *Ledger)
		want   string
	}{
		{"all", func(l *Ledger) {
			l.Client.Captured.Bytes, l.Sent.Delivered.Bytes = 1000, 1000
		}, "copied 100.00 %"},
		{"one byte in a million is not all", func(l *Ledger) {
			l.Client.Captured.Bytes, l.Sent.Delivered.Bytes, l.Client.Dropped[Overload].Bytes = 1e6, 1e6-1, 1
		}, "copied 99.99 %, 0.01 % overload"},
		{"what is under way counts as nothing", func(l *Ledger) {
			l.Client.Captured.Bytes, l.Sent.Delivered.Bytes, l.Sent.InFlight.Bytes = 1000, 500, 500
		}, "copied 100.00 %, 500 B under way"},
		{"all of it under way", func(l *Ledger) {
			l.Client.Captured.Bytes, l.Sent.InFlight.Bytes = 1000, 1000
		}, "nothing delivered yet, 1.0 kB under way"},
		{"what a session that lives on has delivered", func(l *Ledger) {
			l.Client.Captured.Bytes, l.Sent.InFlight.Bytes = 1000, 1000
			l.Progress(&frame.Moved{Bytes: 900})
		}, "copied 100.00 %, 100 B under way"},
		{"an account tells again what was told", func(l *Ledger) {
			l.Client.Captured.Bytes, l.Sent.InFlight.Bytes = 1000, 1000
			l.Sessions.Open = 2
			l.Progress(&frame.Moved{Bytes: 600})
			l.Settle(&frame.Closed{How: frame.ClosedTimeout, DeliveredBytes: 300, DroppedBytes: 200}, Count{Bytes: 500})
		}, "copied 66.66 %, 33.34 % target_timeout, 400 B under way"},
		{"what a lost session had delivered", func(l *Ledger) {
			l.Client.Captured.Bytes, l.Sent.InFlight.Bytes = 1000, 1000
			l.Sessions.Open = 2
			l.Progress(&frame.Moved{Bytes: 600})
			l.Lose(Count{Bytes: 500})
			l.Lose(Count{Bytes: 500})
			l.Broke()
		}, "copied 60.00 %, 40.00 % tunnel_lost_fate_unknown"},
		{"what the next connection tells after a lost one", func(l *Ledger) {
			l.Client.Captured.Bytes, l.Sent.InFlight.Bytes = 1000, 500
			l.Sessions.Open = 1
			l.Settle(&frame.Closed{DeliveredBytes: 500}, Count{Bytes: 500}) // its Moved is lost
			l.Broke()
			l.Sent.InFlight.Bytes = 500
			l.Progress(&frame.Moved{Bytes: 500})
		}, "copied 100.00 %"},
		{"accounts that do not come", func(l *Ledger) {
			l.Client.Captured.Bytes, l.Sent.InFlight.Bytes = 1000, 1000
			l.Sessions.Open = 1
			l.Progress(&frame.Moved{Bytes: 600})
			l.Close()
		}, "copied 60.00 %, 40.00 % account_missing (1 flow)"},
		{"known bytes are no loss", func(l *Ledger) {
			l.Client.Captured.Bytes, l.Sent.Delivered.Bytes, l.Client.Retransmitted.Bytes = 1000, 800, 200
		}, "copied 100.00 %"},
		{"flows without bytes", func(l *Ledger) {
			l.Client.Captured.Bytes, l.Sent.Delivered.Bytes, l.Flows.Refused[TableFull] = 10, 10, 3
		}, "copied 100.00 %, 3 flows table_full"},
		{"a target that takes all and answers little", func(l *Ledger) {
			l.Client.Captured.Bytes, l.Sent.Delivered.Bytes, l.Sent.Dropped[frame.ClosedTargetReset].Bytes = 10000, 9906, 94
			l.Answers.Answered, l.Answers.Unanswered = 909, 2063
		}, "copied 99.06 %, but 69 % of the connections got no answer from the target, 0.94 % target_reset"},
		{"one that answers nine of ten", func(l *Ledger) {
			l.Client.Captured.Bytes, l.Sent.Delivered.Bytes = 1000, 1000
			l.Answers.Answered, l.Answers.Unanswered = 9, 1
		}, "copied 100.00 %"},
		{"largest loss first", func(l *Ledger) {
			l.Client.Captured.Bytes, l.Sent.Delivered.Bytes = 1000, 900
			l.Client.Dropped[Midstream].Bytes, l.Sent.Dropped[frame.ClosedRefused].Bytes = 40, 60
		}, "copied 90.00 %, 6.00 % target_refused, 4.00 % midstream"},
		{
			"a SYN that nobody answered is no loss", func(l *Ledger) { l.Flows.Refused[NeverEstablished] = 5 },
			"nothing to copy yet: 5 handshakes without an answer, or not completed",
		},
		{
			"an online server that is down", func(l *Ledger) { l.Flows.Refused[NeverEstablished], l.Flows.Declined = 1200, 1200 },
			"nothing to copy yet: the online server refused 1,200 handshakes",
		},
		{
			"one that goes down while clients come", func(l *Ledger) { l.Flows.Refused[NeverEstablished], l.Flows.Declined = 3, 2 },
			"nothing to copy yet: the online server refused 2 handshakes, 1 handshake without an answer, or not completed",
		},
		{"one that was down", func(l *Ledger) {
			l.Client.Captured.Bytes, l.Sent.Delivered.Bytes = 10, 10
			l.Flows.Refused[NeverEstablished], l.Flows.Declined = 2, 2
		}, "copied 100.00 %"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var l Ledger
			tt.change(&l)
			if got := l.Headline(); got != tt.want {
				t.Errorf("%q, want %q", got, tt.want)
			}
		})
	}
}

// What was lost must be in the first line, also where nothing captured tells it:
// bytes that were missed, flows given up with nothing stored, and what no account
// came for.
func TestHeadlineNamesEveryLoss(t *testing.T) {
	l := Ledger{}
	l.Client.Captured, l.Client.Sent = Count{9, 900}, Count{9, 900}
	l.Sent.Delivered = Count{9, 900}
	tests := []struct {
		name   string
		change func(l *Ledger)
		want   string
	}{
		{"nothing", func(*Ledger) {}, "copied 100.00 %"},
		{"missed with nothing behind it", func(l *Ledger) {
			l.Client.Missing, l.Flows.GivenUp[CaptureHole] = 100, 1
		}, "copied 90.00 %, 10.00 % capture_hole (1 flow)"},
		{"given up", func(l *Ledger) { l.Flows.GivenUp[Idle] = 1200 }, "copied 100.00 %, 1,200 flows idle"},
		{"accounts did not come", func(l *Ledger) {
			l.Sent.Delivered, l.Sent.InFlight, l.Sessions.Open = Count{6, 600}, Count{3, 300}, 2
			l.Close()
		}, "copied 66.66 %, 33.34 % account_missing (2 flows)"},
		{"data that the online server did not accept either", func(l *Ledger) {
			l.Client.Captured.Add(100)
			l.Client.Dropped[NeverEstablished].Add(100)
		}, "copied 100.00 %"},
	}
	for _, tt := range tests {
		l := l
		tt.change(&l)
		if got := l.Headline(); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

// A stall must not hide behind a percentage of what came before it.
func TestStallIsSaid(t *testing.T) {
	s := full()
	s.Stalled = 14 * time.Second
	const want = "stalled: nothing delivered for 14s; before that copied 99.95 %"
	if got := string(s.AppendText(nil)); !strings.HasPrefix(got, want) {
		t.Errorf("text begins %.100q, want %q", got, want)
	}
	attrs := s.Attrs()
	if i := slices.Index(attrs, any("stalled")); i < 0 || attrs[i+1] != s.Stalled {
		t.Errorf("attributes %v", attrs)
	}
	b, err := json.Marshal(s)
	if err != nil || !strings.Contains(string(b), `"stalled_ns":14000000000,`) {
		t.Errorf("%v: %s", err, b)
	}
	if s.Stalled = 0; slices.Contains(s.Attrs(), any("stalled")) {
		t.Error("a copy that goes on is called stalled")
	}
}

// Two figures for the same thing in one line must agree: bytes that the target is
// known to have are not under way, though their session has no account yet.
func TestStatusAgreesOnWhatIsUnderWay(t *testing.T) {
	s := &Summary{Sample: 100}
	l := &s.Ledger
	l.Client.Captured, l.Client.Sent, l.Sent.InFlight = Count{9, 900}, Count{9, 900}, Count{9, 900}
	l.Progress(&frame.Moved{Bytes: 850})
	attrs := s.Attrs()
	if i := slices.Index(attrs, any("under_way_bytes")); i < 0 || attrs[i+1] != uint64(50) {
		t.Errorf("attributes %v, want 50 bytes under way", attrs)
	}
	if got, want := attrs[1], "copied 100.00 %, 50 B under way"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// What is there at the end is not there yet.
func TestFinalNothing(t *testing.T) {
	s := &Summary{Sample: 100, Final: true}
	s.Ledger.Flows.Seen, s.Ledger.Flows.Refused[NeverEstablished], s.Ledger.Flows.Declined = 7, 7, 7
	got := string(s.AppendText(nil))
	if want := "nothing to copy: the online server refused 7 handshakes\n"; !strings.HasPrefix(got, want) || !strings.HasSuffix(got, "sums: ok\n") {
		t.Errorf("%s\nwant it to begin with %q", got, want)
	}
}
