package main

import (
	"testing"

	"flowtwin/internal/cli/clitest"
)

func TestHelpIsReadable(t *testing.T) {
	clitest.ReadableHelp(t, usage(), "Who may copy what:", "How the target sees clients:", "When requests leave:", "Run:")
}
