package main

import (
	"testing"

	"flowtwin/internal/cli/clitest"
)

func TestHelpIsReadable(t *testing.T) {
	clitest.ReadableHelp(t, usage(), "What to copy where:", "Which connections:", "HTTP/1", "Replay", "Record:", "Run:")
}
