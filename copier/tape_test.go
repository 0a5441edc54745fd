package copier

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"flowtwin/tunnel"
)

// A start that fails must not leave a recording of nothing, nor remove an old one to
// make room for it.
func TestStartThatFailsRecordsNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "recorded")
	err := Run(t.Context(), Config{
		Target:     Target{Maps: []tunnel.Map{{Port: 80, Target: netip.MustParseAddrPort("192.0.2.1:80")}}},
		Interfaces: []string{"no-such-iface"},
		Record:     &Record{Dir: dir, Size: 1e6, Cap: 2e6, Alone: true},
	})
	if err == nil {
		t.Fatal("started without its interface")
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the folder is there: %v", err)
	}
}
