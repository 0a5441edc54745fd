//go:build netns

package e2e

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"flowtwin/internal/e2e/rig"
	"flowtwin/internal/e2e/traffic"
)

// rewritten writes a pcap file with each packet changed: what is left of its bytes.
func rewritten(t *testing.T, from, to string, change func(packet []byte) []byte) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	out := append([]byte(nil), b[:24]...)
	for b = b[24:]; len(b) > 0; {
		size := 16 + int(binary.LittleEndian.Uint32(b[8:]))
		p := change(append([]byte(nil), b[16:size]...))
		head := append([]byte(nil), b[:16]...)
		binary.LittleEndian.PutUint32(head[8:], uint32(len(p)))
		out = append(append(out, head...), p...)
		b = b[size:]
	}
	if err := os.WriteFile(to, out, 0o644); err != nil {
		t.Fatal(err)
	}
}

// faultyRecordings replays recordings that are not whole. None of what is cut may
// reach the target, and what is wrong must be named.
func (s *scene) faultyRecordings(t *testing.T, file string, target *traffic.Server, live traffic.Log) *traffic.Server {
	t.Helper()
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	snapped := filepath.Join(s.Dir, "snapped.pcap")
	rewritten(t, file, snapped, func(p []byte) []byte { return p[:min(len(p), 120)] })
	short := filepath.Join(s.Dir, "short.pcap")
	if err := os.WriteFile(short, whole[:len(whole)/2], 0o644); err != nil {
		t.Fatal(err)
	}
	damaged := filepath.Join(s.Dir, "damaged.pcap")
	rewritten(t, file, damaged, func(p []byte) []byte { return p })
	b, err := os.ReadFile(damaged)
	if err != nil {
		t.Fatal(err)
	}
	at := 24 // of packet 1000
	for range 999 {
		at += 16 + int(binary.LittleEndian.Uint32(b[at+8:]))
	}
	binary.LittleEndian.PutUint32(b[at+8:], 1<<30)
	if err := os.WriteFile(damaged, b, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, file, says string
		code             int
	}{
		{"snapped", snapped, "is cut at 120 of", 0},
		{"cut off", short, "the file ends inside it", 0},
		{"damaged", damaged, fmt.Sprintf("packet 1000 of %s: damaged: it claims %d of", damaged, 1<<30), 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			target = s.fresh(target)
			// Reading a file needs no privileges.
			p := s.keep(rig.Start(s.Lab.Online, tt.name, powerless(s.Copier("-x", httpMap, "--invite-file", s.InviteFile(), "-i", tt.file, "--pace=target"))...))
			code, err := p.Wait(s.within())
			if err != nil || code != tt.code || !strings.Contains(p.Output(), tt.says) {
				t.Errorf("it ends with %d, %v, and does not say %q", code, err, tt.says)
			}
			if !strings.Contains(p.Stdout(), "sums: ok") {
				t.Error("the ledger does not add up")
			}
			if !rig.Until(s.within(), func() bool { _, _, open := target.Counts(); return open == 0 }) {
				t.Error("connections at the target stay open")
			}
			whole := map[traffic.Request]bool{}
			for _, c := range live {
				for _, r := range c {
					whole[r] = true
				}
			}
			got := target.Log()
			for _, c := range got {
				for _, r := range c {
					if !whole[r] {
						t.Errorf("the target got %v, which nobody asked", r)
					}
				}
			}
			if got.Requests() == 0 || got.Requests() >= live.Requests() {
				t.Errorf("the target got %d requests of %d", got.Requests(), live.Requests())
			}
		})
	}
	t.Run("ended before its time", func(t *testing.T) {
		target = s.fresh(target)
		p := s.keep(rig.Start(s.Lab.Online, "replay", s.Copier("-x", httpMap, "--invite-file", s.InviteFile(), "-i", file, "--loop", "forever", "-a", "0.1")...))
		if !rig.Until(s.within(), func() bool { _, requests, _ := target.Counts(); return requests > 5 }) {
			t.Error("nothing is replayed")
		}
		if err := p.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if code, err := p.Wait(s.within()); err != nil || code != 0 || !strings.Contains(p.Stdout(), "sums: ok") || !strings.Contains(p.Stdout(), "not played") {
			t.Errorf("it ends with %d, %v", code, err)
		}
	})
	return target
}

// powerless returns the command without any capability.
func powerless(argv []string) []string {
	return append([]string{"setpriv", "--no-new-privs", "--bounding-set", "-all", "--inh-caps", "-all", "--"}, argv...)
}

// dryRun has a recording described, without privileges and responder.
func (s *scene) dryRun(t *testing.T, file string, live traffic.Log) {
	t.Helper()
	t.Run("dry run", func(t *testing.T) {
		p := s.keep(rig.Start(s.Lab.Online, "dry-run", powerless(s.Copier("-x", httpMap, "-i", file, "--dry-run", "--filter", "not port 9"))...))
		code, err := p.Wait(s.within())
		want := fmt.Sprintf("\n%d connections, %d requests of HTTP/1, ", len(live), live.Requests())
		if err != nil || code != 0 || !strings.Contains(p.Stdout(), want) || strings.Contains(p.Stdout(), "do not add up") {
			t.Errorf("it ends with %d, %v, and does not say %q:\n%s", code, err, want, tail(p.Stdout(), 5))
		}
		if n := strings.Count(p.Stdout(), " > 10.71.2.2:80  "); n != len(live) {
			t.Errorf("it names %d connections, want %d", n, len(live))
		}
	})
}
