package copier

import (
	"errors"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"flowtwin/internal/testnet"
)

// Of a full disk the file's reader must find whole packets, and whoever started the
// copier an error at the end.
func TestHeadersOnAFullDisk(t *testing.T) {
	dir := t.TempDir()
	testnet.SmallDisk(t, dir, "64k")
	h, err := newHeaderFile(filepath.Join(dir, "headers.pcap"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	s := h.newHeaders()
	const packets = 2000
	for i := range packets {
		add(s, time.Now().UnixNano(), uint32(i), 100, 0)
		if i == packets/4 {
			s.flush()
			for end := time.Now().Add(10 * time.Second); h.stats().Recorded == 0 && time.Now().Before(end); {
				<-time.After(time.Millisecond) // some are there before it is full
			}
		}
	}
	s.flush()
	if err := h.close(); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("closed with %v", err)
	}
	st, read := h.stats(), readHeaders(t, h.file.Name())
	if st.Recorded+st.Dropped != packets || uint64(len(read)) != st.Recorded || st.Recorded == 0 {
		t.Errorf("%d in the file, %+v", len(read), st)
	}
}
