package tunnel

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestIdentityIsKept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state", "responder")
	first, err := LoadIdentity(dir)
	if err != nil {
		t.Fatal(err)
	}
	second, err := LoadIdentity(dir)
	if err != nil {
		t.Fatal(err)
	}
	a, b := first.Invite(nil, time.Time{}), second.Invite(nil, time.Time{})
	if a.String() != b.String() || a.Secret == [32]byte{} || a.Fingerprint == [32]byte{} {
		t.Error("the identity changed, or is empty")
	}
	for path, want := range map[string]os.FileMode{dir: 0o700, filepath.Join(dir, identityFile): 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: mode %v (%v), want %v", path, info.Mode().Perm(), err, want)
		}
	}
	if files, _ := os.ReadDir(dir); len(files) != 1 {
		t.Errorf("%d files in the state directory, want 1", len(files))
	}
}

// Two responders started at once must not end up with different keys.
func TestIdentityMadeOnce(t *testing.T) {
	dir := t.TempDir()
	var wg sync.WaitGroup
	invites := make([]string, 8)
	for i := range invites {
		wg.Go(func() {
			id, err := LoadIdentity(dir)
			if err != nil {
				t.Error(err)
			}
			invites[i] = id.Invite(nil, time.Time{}).String()
		})
	}
	wg.Wait()
	for _, s := range invites {
		if s != invites[0] {
			t.Fatal("identities differ")
		}
	}
}

func TestIdentityRefused(t *testing.T) {
	tests := []struct {
		name string
		mode os.FileMode
		text string
		says string
	}{
		{"readable by others", 0o644, "", "mode 0644"},
		{"damaged", 0o600, "-----BEGIN NOTHING-----", "damaged"},
		{"empty", 0o600, "", "damaged"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, identityFile)
			if err := os.WriteFile(path, []byte(tt.text), tt.mode); err != nil {
				t.Fatal(err)
			}
			if _, err := LoadIdentity(dir); err == nil || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("err = %v, want it to say %q", err, tt.says)
			}
		})
	}
}
