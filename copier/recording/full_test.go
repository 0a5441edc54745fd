package recording

import (
	"errors"
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"flowtwin/internal/testnet"
)

// A disk that is full ends the recording, not the copying; what is on it can be read
// to its end, and all packets are counted.
func TestFullDisk(t *testing.T) {
	cfg := config(t)
	testnet.SmallDisk(t, cfg.Dir, "256k")
	r := open(t, cfg)
	s := r.Sink()
	const n = 1000
	for i := range n {
		for !s.Add(packet(7, fmt.Sprintf("%04d", i), 1000)) {
			r.Sync()
		}
	}
	s.Flush()
	r.Sync()
	st := r.Stats()
	if err := r.Close(); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("closed with %v, want that the disk is full", err)
	}
	_, contents := files(t, cfg.Dir)
	read := packets(t, contents[0])
	if len(contents) != 1 || len(read) == 0 || uint64(len(read)) != st.Packets || st.Packets+st.Lost != n {
		t.Errorf("%d files, %d packets read, %+v", len(contents), len(read), st)
	}
}
