package report

import (
	"os"
	"path/filepath"
	"testing"
)

// A report that cannot be written must be said before the copy, not after a night.
func TestCheckFile(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, good := range map[string]bool{
		"": true, file: true, filepath.Join(dir, "new"): true, "/dev/null": true,
		dir: false, filepath.Join(dir, "none", "x"): false, filepath.Join(file, "x"): false, "/proc/x": false,
	} {
		if err := CheckFile(name); (err == nil) != good {
			t.Errorf("%q: %v", name, err)
		}
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("the check left %v", left)
	}
}
