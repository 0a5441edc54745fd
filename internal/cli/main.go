package cli

import (
	"fmt"
	"io"
	"strings"
)

// Main runs a command, in the background if daemon is set, and returns its exit
// code. start must call ready with nil when the command is up; an error of it ends
// in one line on stderr, and in the terminal of the one who started a daemon.
func Main(name string, daemon bool, logFile string, stderr io.Writer, start func(ready func(error)) error) int {
	ready := func(error) {}
	if daemon {
		parent, tell, err := Daemonize(logFile)
		if parent || err != nil {
			return exitCode(name, stderr, err)
		}
		ready = tell
	}
	err := start(ready)
	ready(err) // it may have been ready before; then this says nothing
	return exitCode(name, stderr, err)
}

func exitCode(name string, stderr io.Writer, err error) int {
	if err == nil {
		return 0
	}
	// One line: errors joined at the end of a run stand below each other.
	fmt.Fprintf(stderr, "%s: %s\n", name, strings.ReplaceAll(err.Error(), "\n", "; "))
	return 1
}
