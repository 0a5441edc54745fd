package cli

import (
	"strings"
	"testing"
)

// Flags must be found under their heading, in lines that a terminal shows whole.
func TestHelp(t *testing.T) {
	f := NewFlags("x")
	f.Group("What")
	f.StringP("map", "x", "", "copy `MAP`")
	f.Bool("split", false, "to one of them only, by a hash that is the same on every server and after every restart")
	f.Group("How")
	f.String("gate", "turn", "`turn|off`: whether a request waits")
	f.String("inject", "", "for tests")
	if err := f.MarkHidden("inject"); err != nil {
		t.Fatal(err)
	}
	f.StringSlice("a-name-that-is-too-long", nil, "`ADDRESS[,...]`: to take")
	if got := strings.Join(f.Below("What"), " "); got != "map split" {
		t.Errorf("below What there are %s", got)
	}
	want := `
What:
  -x, --map MAP                 copy MAP
      --split                   to one of them only, by a hash that is the same on every server and
                                after every restart

How:
      --gate turn|off           whether a request waits (default turn)
      --a-name-that-is-too-long ADDRESS[,...]
                                to take
`
	if got := f.Help(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
