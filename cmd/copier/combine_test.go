package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Flags that say nothing together are refused: whoever gave them expects something
// that would not happen.
func TestFlagsThatDoNotGoTogether(t *testing.T) {
	file := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	const (
		copied   = "-s INVITE "
		replayed = "-s INVITE -i FILE "
		dry      = "-i FILE --dry-run "
		alone    = "--record DIR "
	)
	tests := []struct{ args, err string }{
		{replayed + "--netns 1", "--netns: is for live packets"},
		{replayed + "--decap gre", "--decap: is for live packets"},
		{replayed + "--inject-loss 0.1", ""},
		{replayed + "--start 10s --stop 5s", "--stop: is not behind --start"},
		{replayed + "--start 10s --stop 10s", "--stop: is not behind --start"},
		{replayed + "--start 2026-11-23 --stop 2026-11-22", "--stop: is not behind --start"},
		{replayed + "--start 2026-11-23 --stop 5s", ""},
		{replayed + "--start 5s --stop 10s", ""},
		{dry + "--report x", "--report: a dry run has no ledger"},
		{dry + "--record-headers x", "--record-headers: a dry run has no answers"},
		{dry + "--rate-bytes 5", "--rate-bytes: the responder keeps it"},
		{dry + "--control x", "--control: a dry run"},
		{dry + "-d", "-d, --daemon: a dry run prints"},
		{copied + "-i - -d", "-d, --daemon: has no standard input"},
		{copied + "-i -", ""},
		{dry + "-n 3 -a 10 --loop 4 -r 50", ""},
		{dry + "-s one -s two --split", ""},
		{dry + "-s one -s two -x 81-1.2.3.4:81", "-x: a dry run"},
		{alone + "-n 2", "-n, --copies: nothing is copied"},
		{alone + "--jitter 2s", "--jitter: nothing is copied"},
		{alone + "--rate-connections 2", "--rate-connections: nothing is copied"},
		{alone + "--connections 2", "--connections: nothing is copied"},
		{alone + "--record-headers x", "--record-headers: nothing is copied"},
		{alone + "--http-host a", "--http-host: nothing is copied"},
		{alone + "--http-set-header a:b", "--http-set-header: nothing is copied"},
		{alone + "-r 50 --ramp 1m --report x --control y --midstream skip --shards 2 --drain 1s", ""},
		{copied + alone + "-n 2 --http-host a", ""},
		{copied + "--jitter 2s", "--jitter: there are no copies to spread"},
		{copied + "--jitter 2s --control x", ""},
		{copied + "--jitter 2s -n 1.5", ""},
		{copied + "--ramp 1m", ""},
		{copied + "--rate-connections 5 -n 3", ""},
		{replayed + "--rate-bytes 5k --loop 3", ""},
		{replayed + "--ramp 1m --pace=target", "--ramp: a recording at the target's pace"},
		{replayed + "--ramp 1m --pace=target --loop forever", ""},
		{replayed + "--ramp 1m", ""},
		{dry + "--ramp 1m --pace=target", ""},
		{dry + "--loop forever", ""},
		{copied + "--shards 2 --decap gre", "--shards: mirrored packets"},
		{copied + "--connections 2 --decap gre", "--connections: mirrored packets"},
	}
	for _, tt := range tests {
		args := []string{"-x", "10.0.0.1:80-1.2.3.4:80"}
		for arg := range strings.FieldsSeq(tt.args) {
			switch arg {
			case "FILE":
				arg = file
			case "DIR":
				arg = t.TempDir()
			case "INVITE":
				arg = testInvite().String()
			}
			args = append(args, arg)
		}
		_, err := parseFlags(args, noEnv, names())
		switch {
		case tt.err == "" && err != nil:
			t.Errorf("%s: %v", tt.args, err)
		case tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)):
			t.Errorf("%s: error %v, want %q", tt.args, err, tt.err)
		}
	}
}
