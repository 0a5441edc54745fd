package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A log line must stand above the bar, whole, and nothing be left of a longer bar.
func TestBar(t *testing.T) {
	var out strings.Builder
	b := &Bar{w: &out, width: 10}
	if _, err := b.Write([]byte("first\n")); err != nil {
		t.Fatal(err)
	}
	b.Draw("12 %")
	b.Draw("12 %") // nothing new
	if _, err := b.Write([]byte("second\n")); err != nil {
		t.Fatal(err)
	}
	b.Draw("longer than the terminal")
	b.Draw("")
	want := "first\n" + clearLine + "12 %" + clearLine + "second\n12 %" + clearLine + "longer th" + clearLine
	if out.String() != want {
		t.Errorf("the terminal gets %q, want %q", out.String(), want)
	}
}

func TestBarNeedsATerminal(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if TerminalBar(f) != nil {
		t.Error("a file is taken for a terminal")
	}
}
