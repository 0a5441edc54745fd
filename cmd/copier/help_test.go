package main

import (
	"strings"
	"testing"
	"unicode/utf8"
)

// --help is read on terminals: grouped, no line longer than 100 characters, and each
// value named by what it is.
func TestHelpIsReadable(t *testing.T) {
	help := usage()
	for line := range strings.SplitSeq(help, "\n") {
		if n := utf8.RuneCountInString(line); n > 100 {
			t.Errorf("%d characters: %s", n, line)
		}
		for _, bad := range []string{"true|false", " string ", " duration ", " strings ", " float ", " int "} {
			if strings.Contains(line, bad) && strings.Contains(line, "--") {
				t.Errorf("%q in: %s", bad, line)
			}
		}
	}
	for _, heading := range []string{"What to copy where:", "Which connections:", "HTTP/1", "Replay", "Record:", "Run:"} {
		if !strings.Contains(help, "\n"+heading) {
			t.Errorf("no heading %q", heading)
		}
	}
}
