package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"flowtwin/copier"
)

// What goes with what, when several responders are named: a mistake would send one
// version's traffic to the other.
func TestSeveralTargets(t *testing.T) {
	dir := t.TempDir()
	file := func(name string, secret byte) string {
		invite := testInvite()
		invite.Secret[0] = secret
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(invite.String()), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	a, b := file("a", 11), file("b", 12)
	tests := []struct {
		args, want, err string
	}{
		{args: "-x 80-1.2.3.4:80 --invite-file A", want: "|11|1.2.3.4:80"},
		{args: "-x 80-1.2.3.4:80 -x 81-1.2.3.4:81 --invite-file A", want: "|11|1.2.3.4:80,1.2.3.4:81"},
		{args: "-x 80-127.0.0.1:80 --invite-file A --invite-file B -s one -s two:9", want: "one|11|127.0.0.1:80 two:9|12|127.0.0.1:80"},
		{args: "-x 80-1.2.3.4:80,81-1.2.3.4:81 -x 80-5.6.7.8:80 --invite-file A --invite-file B --split", want: "|11|1.2.3.4:80,1.2.3.4:81 |12|5.6.7.8:80"},
		{args: "-x 80-1.2.3.4:80 --invite-file A --invite-file B -s one", err: "-s: given 1 times, but --invite-file 2 times"},
		{args: "-x 80-1.2.3.4:80 --invite-file A -s one -s two", err: "--invite-file: given 1 times, but -s 2 times"},
		{args: "-x 80-1.2.3.4:80 -x 81-1.2.3.4:81 -x 82-1.2.3.4:82 --invite-file A --invite-file B", err: "-x: given 3 times for 2 responders"},
		{args: "-x 80-1.2.3.4:80 --invite-file A --split", err: "--split: there is only one responder"},
		{args: "-x 80-1.2.3.4:80 --invite-file A --invite-file A", err: "responders 1 and 2 are the same one"},
	}
	for _, tt := range tests {
		args := strings.Fields(tt.args)
		for i := range args {
			switch args[i] {
			case "A":
				args[i] = a
			case "B":
				args[i] = b
			}
		}
		o, err := parseFlags(args, noEnv, names())
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%s: error %v, want %q", tt.args, err, tt.err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", tt.args, err)
			continue
		}
		var got []string
		for _, target := range slices.Concat([]copier.Target{o.config.Target}, o.config.More) {
			var maps []string
			for _, m := range target.Maps {
				maps = append(maps, m.Target.String())
			}
			got = append(got, fmt.Sprintf("%s|%d|%s", target.Server, target.Invite.Secret[0], strings.Join(maps, ",")))
		}
		if s := strings.Join(got, " "); s != tt.want {
			t.Errorf("%s: %s, want %s", tt.args, s, tt.want)
		}
		if o.config.Split != strings.Contains(tt.args, "--split") {
			t.Errorf("%s: split is %v", tt.args, o.config.Split)
		}
	}
}
