// Package clitest checks what all commands have in common.
package clitest

import (
	"strings"
	"testing"
	"unicode/utf8"
)

// ReadableHelp checks that --help can be read on terminals: grouped under headings, no
// line longer than 100 characters, and each value named by what it is.
func ReadableHelp(t *testing.T, help string, headings ...string) {
	t.Helper()
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
	for _, heading := range headings {
		if !strings.Contains(help, "\n"+heading) {
			t.Errorf("no heading %q", heading)
		}
	}
}
