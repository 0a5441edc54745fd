package replay

import (
	"strings"
	"testing"
)

// The whole protocol, cell by cell: a row per state, a column per event in the
// order of their declaration. "." is: stay and do nothing.
const wantTransitions = `
state        connected    failed             answered      writable          target FIN        finished           lost               data              end               reset             held           released     FIN due        reset due        turn due          tick             overrun          cut
Connecting   Sending/pump Discarding/release .             .                 .                 .                  Parted/part        .                 .                 .                 .              .            .              .                .                 .                Discarding/abort Discarding/abort
Sending      .            Discarding/release .             Sending/pump      TargetClosed/rest .                  Parted/part        Sending/pump      Sending/pump      Sending/pump      Holding/hold   .            Ending/finish  Discarding/abort .                 Discarding/abort Discarding/abort Discarding/abort
Holding      .            Discarding/release Holding/check .                 TargetClosed/rest .                  Parted/part        .                 Holding/check     Holding/check     .              Sending/pump .              .                .                 Holding/check    Discarding/abort Discarding/abort
Ending       .            Discarding/release .             .                 LastAck           Discarding/release Discarding/release .                 .                 Discarding/abort  .              .            .              .                .                 Discarding/abort Discarding/abort Discarding/abort
TargetClosed .            Discarding/release .             TargetClosed/rest .                 .                  Parted/part        TargetClosed/rest TargetClosed/rest TargetClosed/rest LastAck/finish .            LastAck/finish Discarding/abort .                 LastAck/finish   Discarding/abort Discarding/abort
LastAck      .            Discarding/release .             .                 .                 Discarding/release Parted/part        .                 .                 .                 .              .            .              .                .                 Discarding/abort Discarding/abort Discarding/abort
Parted       .            .                  .             .                 .                 .                  .                  Connecting/redial Over/account      Over/account      .              .            .              .                Connecting/redial .                .                Over/account
Discarding   .            .                  .             .                 .                 .                  .                  .                 Over/account      Over/account      .              .            .              .                .                 .                .                Over/account
Over         .            .                  .             .                 .                 .                  .                  .                 .                 .                 .              .            .              .                .                 .                .                .
`

func TestTransition(t *testing.T) {
	actions := map[action]string{
		none: "", pump: "/pump", rest: "/rest", hold: "/hold", check: "/check",
		finish: "/finish", abort: "/abort", part: "/part", redial: "/redial", release: "/release", account: "/account",
	}
	rows := strings.Split(strings.TrimSpace(wantTransitions), "\n")[1:]
	if len(rows) != states {
		t.Fatalf("table has %d rows, want %d", len(rows), states)
	}
	for i, row := range rows {
		cells := strings.Fields(row)
		s := state(i)
		if cells[0] != s.String() || len(cells) != events {
			t.Fatalf("row %d is of %s with %d cells, want %s with %d", i, cells[0], len(cells), s, events)
		}
		for e := evNone + 1; e < events; e++ {
			next, a := transition(s, e)
			got := next.String() + actions[a]
			if next == s && a == none {
				got = "."
			}
			if want := cells[e]; got != want {
				t.Errorf("%s × %s = %s, want %s", s, e, got, want)
			}
		}
		if next, a := transition(s, evNone); next != s || a != none {
			t.Errorf("%s × none = %s", s, next)
		}
	}
}
