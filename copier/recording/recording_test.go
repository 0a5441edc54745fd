package recording

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"flowtwin/copier/capture"
	"flowtwin/internal/pcap"
)

func config(t *testing.T) Config {
	t.Helper()
	return Config{
		Dir: t.TempDir(), Size: 1 << 20, Cap: 4 << 20, Sinks: 2,
		Name: func(i int) string { return fmt.Sprintf("eth%d", i) },
		Log:  slog.New(slog.DiscardHandler),
	}
}

func open(t *testing.T, cfg Config) *Recorder {
	t.Helper()
	r, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// files returns the names and contents of what was recorded, the oldest first.
func files(t *testing.T, dir string) (names []string, contents [][]byte) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, prefix+"*"+suffix))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		contents = append(contents, b)
	}
	return names, contents
}

// packets returns the first bytes of the packets in a file, with their interfaces'
// numbers.
func packets(t *testing.T, b []byte) (out []string) {
	t.Helper()
	described := uint32(0)
	for len(b) > 0 {
		n := binary.LittleEndian.Uint32(b[4:])
		if n < 12 || int(n) > len(b) || binary.LittleEndian.Uint32(b[n-4:]) != n {
			t.Fatalf("a block of %d bytes", n)
		}
		switch binary.LittleEndian.Uint32(b) {
		case 1:
			described++
		case 6:
			id := binary.LittleEndian.Uint32(b[8:])
			if id >= described {
				t.Fatalf("a packet of interface %d, of %d", id, described)
			}
			out = append(out, fmt.Sprintf("%d:%s", id, bytes.TrimRight(b[28:32], "\x00")))
		}
		b = b[n:]
	}
	return out
}

func packet(iface int32, text string, n int) *capture.Packet {
	return &capture.Packet{Data: append([]byte(text), make([]byte, n)...), WireLen: n + 100, Time: 1, Iface: iface}
}

// Each file stands for itself: others may have been removed.
func TestFilesAreCompleteAndRotated(t *testing.T) {
	r := open(t, config(t))
	a, b := r.Sink(), r.Sink()
	const n = 3000
	for i := range n {
		for !a.Add(packet(7, fmt.Sprintf("%04d", i), 1000)) {
			r.Sync() // as a shard would not: here nothing may be dropped
		}
	}
	b.Add(packet(9, "last", 0))
	a.Flush()
	b.Flush()
	r.Sync()
	st := r.Stats()
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	names, contents := files(t, r.cfg.Dir)
	var all []string
	for i, c := range contents {
		comment, _, _ := bytes.Cut(c[28:], []byte{0}) // the first option of the section
		if p, ok := pcap.ParsePart(string(comment)); !ok || p.Recording != r.name || p.Number != uint64(i+1) {
			t.Errorf("%s is %+v of %s", names[i], p, r.name)
		}
		if len(c) > 1<<20+1000 {
			t.Errorf("%s has %d bytes", names[i], len(c))
		}
		all = append(all, packets(t, c)...)
	}
	if st.Packets != n+1 || len(all) != n+1 || len(names) < 3 || st.Files != uint64(len(names)) {
		t.Errorf("%d packets in %d files, %+v", len(all), len(names), st)
	}
	for i, p := range all[:len(all)-1] {
		if p != fmt.Sprintf("0:%04d", i) {
			t.Fatalf("packet %d is %s", i, p)
		}
	}
	if last := all[len(all)-1]; last != "1:last" {
		t.Errorf("the other interface's packet is %s", last)
	}
}

// The cap holds for files of earlier runs too, and for nobody else's.
func TestCap(t *testing.T) {
	cfg := config(t)
	cfg.Cap = 3 << 20
	other := filepath.Join(cfg.Dir, "mine.pcapng")
	if err := os.WriteFile(other, make([]byte, 5<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	for run := range 3 {
		r := open(t, cfg)
		s := r.Sink()
		for i := range 3000 {
			for !s.Add(packet(1, fmt.Sprintf("%d%03d", run, i%1000), 1000)) {
				r.Sync()
			}
		}
		s.Flush()
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		var sum int
		names, contents := files(t, cfg.Dir)
		for _, c := range contents {
			sum += len(c)
		}
		if sum > 3<<20+2000 {
			t.Errorf("run %d: %d bytes in %d files", run, sum, len(names))
		}
	}
	_, contents := files(t, cfg.Dir)
	last := packets(t, contents[len(contents)-1])
	if got := last[len(last)-1]; got != "0:2999" {
		t.Errorf("the newest packet is %s", got)
	}
	if _, err := os.Stat(other); err != nil {
		t.Error(err)
	}
}

func TestRotationByTime(t *testing.T) {
	cfg := config(t)
	cfg.Every = time.Minute
	r := open(t, cfg)
	defer func() { _ = r.Close() }()
	chunk := func() []byte { return pcap.AppendEnhanced(nil, 1, 1, []byte("abcd"), 4) }
	r.Sync() // the goroutine is idle: what it owns is ours
	began := r.opened
	for _, after := range []time.Duration{1, 59, 61, 62, 120, 122} { // new ones at 61 and 122
		if err := r.write(chunk(), began.Add(after*time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	if names, _ := files(t, cfg.Dir); len(names) != 3 {
		t.Errorf("%d files, want 3", len(names))
	}
}

// A disk that is slow or full must never hold a shard up.
func TestSlowDiskCostsPacketsOnly(t *testing.T) {
	full := make(chan batch, chunks)
	s := newSink(full)
	added := 0
	for range 100_000 {
		if s.Add(packet(1, "abcd", 1000)) {
			added++
		}
	}
	if want := chunks * handOver / 1100; added < want || added > 3*chunks*chunkBytes/1000 {
		t.Errorf("%d packets wait for the disk", added)
	}
	b := <-full
	b.free <- b.data
	if !s.Add(packet(1, "abcd", 1000)) {
		t.Error("there is room again, and the packet is refused")
	}
}

func TestFailingDisk(t *testing.T) {
	r := open(t, config(t))
	s := r.Sink()
	if err := r.file.Close(); err != nil { // what writes it now fails
		t.Fatal(err)
	}
	for range 100 {
		s.Add(packet(1, "abcd", 1000))
	}
	s.Flush()
	r.Sync()
	if st := r.Stats(); st.Lost != 100 || st.Packets != 0 {
		t.Errorf("%+v", st)
	}
	if err := r.Close(); err == nil {
		t.Error("nobody hears of it")
	}
}

func TestAddDoesNotAllocate(t *testing.T) {
	full := make(chan batch, chunks)
	s := newSink(full)
	p := packet(1, "abcd", 1000)
	for range 2000 { // each chunk has its memory
		s.Add(p)
		select {
		case b := <-full:
			b.free <- b.data
		default:
		}
	}
	if n := testing.AllocsPerRun(1000, func() {
		s.Add(p)
		select {
		case b := <-full:
			b.free <- b.data
		default:
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
