package offline

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestExpand(t *testing.T) {
	dir := t.TempDir()
	odd, link, pipe := filepath.Join(dir, "a[1].pcap"), filepath.Join(dir, "b.pcap"), filepath.Join(dir, "pipe")
	if err := os.WriteFile(odd, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(odd, link); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if names, err := Expand([]string{odd}); err != nil || len(names) != 1 {
		t.Errorf("a name with brackets: %v, %v", names, err)
	}
	// Read twice, each connection would be there twice, with the same numbers: silently
	// dropped as retransmitted.
	if names, err := Expand([]string{odd, filepath.Join(dir, ".", "sub", "..", "a[1].pcap"), link}); err != nil || len(names) != 1 {
		t.Errorf("one file by three names: %v, %v", names, err)
	}
	for _, tt := range []struct {
		patterns []string
		err      string
	}{
		{[]string{filepath.Join(dir, "x*")}, "no such file"},
		{[]string{filepath.Join(dir, "[")}, "syntax error"},
		{[]string{Stdin, odd}, "standard input stands for itself"},
		{[]string{dir}, "is a directory"},
		// It would be opened twice: first to see when it begins.
		{[]string{pipe}, "-i - <"},
	} {
		if names, err := Expand(tt.patterns); err == nil || !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%v: %v, %v, want %q", tt.patterns, names, err, tt.err)
		}
	}
}

// Of a rotated recording the newest file is empty until its buffer is written.
func TestEmptyFileBesideOthers(t *testing.T) {
	dir := t.TempDir()
	empty, full := filepath.Join(dir, "a2"), filepath.Join(dir, "a1")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(full, sections(), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := Open(Config{Files: []string{full, empty}})
	if err != nil || len(f.files) != 1 {
		t.Errorf("files %v, %v", f, err)
	}
	if _, err := Open(Config{Files: []string{empty}}); err == nil || !strings.Contains(err.Error(), "empty") {
		t.Errorf("nothing but an empty file: %v", err)
	}
}
