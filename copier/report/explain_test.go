package report

import (
	"os"
	"strings"
	"testing"

	"flowtwin/tunnel/frame"
)

// Nobody must have to guess what a name in a ledger means: each has its explanation
// beside it, and those of the first line in README.
func TestEveryNameIsExplained(t *testing.T) {
	b, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	readme := string(b)
	var l Ledger
	seen := map[string]string{}
	explained := func(name, meaning string) {
		t.Helper()
		if meaning == "" {
			t.Errorf("%s has no explanation", name)
		}
		if other := seen[meaning]; other != "" {
			t.Errorf("%s is explained as %s is", name, other)
		}
		seen[meaning] = name
	}
	for r := Reason(1); r < NumReasons; r++ {
		explained(r.String(), r.Meaning())
		l.Client.Dropped[r].Add(1)
		l.Flows.Refused[r], l.Flows.GivenUp[r] = 1, 1
	}
	clear(seen)
	for h := range NumHows {
		explained(lossName(h), howMeaning(h))
		l.Sent.Dropped[h].Add(1)
		l.Sessions.Closed[h], l.Copies.Closed[h] = 1, 1
	}
	l.Sent.Gap.Add(1)
	l.Sent.AfterClose.Add(1)
	l.Sent.TunnelLost.Add(1)
	l.Sent.AccountMissing.Add(1)
	l.Copies.Asked = 1
	for _, loss := range l.Losses() {
		if loss.Label != "target_unknown" && !strings.Contains(readme, "`"+loss.Label+"`") {
			t.Errorf("README does not explain %s", loss.Label)
		}
	}
	text := string((&Summary{Ledger: l}).AppendText(nil))
	for line := range strings.Lines(text) {
		name, rest, ok := strings.Cut(line, ": ")
		if !ok || !strings.HasPrefix(name, "  ") || strings.HasPrefix(name, "    otherwise") {
			continue
		}
		if fields := strings.Fields(rest); len(fields) < 3 || fields[2] == "segments," && !strings.Contains(rest, "; ") {
			t.Errorf("no explanation in the line %q", line)
		}
	}
}

// What the log says of a target that is away must name both ways to be away, also
// the one that has not come about: that there is none of it says something, too.
func TestFailures(t *testing.T) {
	var closed [NumHows]uint64
	closed[frame.ClosedTimeout] = 1234
	if got, want := Failures(&closed), "target_timeout 1,234, target_refused 0"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	closed[frame.ClosedTargetReset] = 5
	if got, want := Failures(&closed), "target_timeout 1,234, target_refused 0, target_reset 5"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
