package copier

import (
	"encoding/binary"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"flowtwin/internal/packet"
	"flowtwin/internal/pcap"
	"flowtwin/tunnel/frame"
)

// targetPacket returns the headers of a packet of the target with a payload of n
// bytes, its checksum left to the network card.
func targetPacket(seq uint32, n int) []byte {
	b := make([]byte, 40)
	b[0], b[8], b[9] = 0x45, 64, 6
	binary.BigEndian.PutUint16(b[2:], uint16(40+n))
	copy(b[12:], []byte{10, 9, 0, 1, 198, 18, 0, 1})
	binary.BigEndian.PutUint16(b[20:], 80)
	binary.BigEndian.PutUint16(b[22:], 5000)
	binary.BigEndian.PutUint32(b[24:], seq)
	b[32], b[33] = 0x50, byte(packet.ACK)
	return b
}

// recorded is one packet of a pcap file.
type recorded struct {
	time    int64
	data    []byte
	wireLen int
}

func readHeaders(t *testing.T, name string) (all []recorded) {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if len(b) < pcap.HeaderLen || binary.LittleEndian.Uint32(b) != 0xa1b23c4d || binary.LittleEndian.Uint32(b[20:]) != pcap.LinkRaw {
		t.Fatalf("the file begins with %x", b[:min(len(b), pcap.HeaderLen)])
	}
	for b = b[pcap.HeaderLen:]; len(b) > 0; {
		u := func(at int) int64 { return int64(binary.LittleEndian.Uint32(b[at:])) }
		n := u(8)
		all = append(all, recorded{u(0)*1e9 + u(4), b[16 : 16+n], int(u(12))})
		b = b[16+n:]
	}
	return all
}

func newHeaders(t *testing.T) (h *headerFile, log *strings.Builder) {
	t.Helper()
	log = &strings.Builder{}
	h, err := newHeaderFile(filepath.Join(t.TempDir(), "headers.pcap"), slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	return h, log
}

// add records a packet of n bytes of payload as a shard does.
func add(h *headers, at int64, seq uint32, n int, offset time.Duration) {
	var v packet.View
	f := frame.TargetHeader{Time: at, Headers: targetPacket(seq, n)}
	h.add(&f, &v, v.Parse(f.Headers, len(f.Headers)) == packet.OK, func() time.Duration { return offset })
}

// What two shards record is in the file, each one's in its order, with the time of
// this host, the length on the wire, and a checksum where there can be one.
func TestHeadersAreRecorded(t *testing.T) {
	h, _ := newHeaders(t)
	const packets, began, offset = 5000, 1_700_000_000_123_456_789, 250 * time.Millisecond
	a, b := h.newHeaders(), h.newHeaders()
	for i := range packets {
		add(a, began+int64(i), uint32(i), i%1400, offset)
		add(b, began+int64(i), 1<<31+uint32(i), 0, offset)
		if i%100 == 99 {
			a.flush()
			b.flush()
		}
	}
	if err := h.close(); err != nil {
		t.Fatal(err)
	}
	var next [2]int
	for _, r := range readHeaders(t, h.file.Name()) {
		seq := binary.BigEndian.Uint32(r.data[24:])
		shard := int(seq >> 31)
		i := next[shard]
		next[shard]++
		wire := 40
		if shard == 0 {
			wire += i % 1400
		}
		if seq&^(1<<31) != uint32(i) || r.wireLen != wire || r.time != began+int64(i)-int64(offset) || len(r.data) != 40 {
			t.Fatalf("shard %d, packet %d: seq %d, %d bytes on the wire, at %d", shard, i, seq, r.wireLen, r.time)
		}
		var v packet.View
		if v.Parse(r.data, len(r.data)) != packet.OK || v.ChecksumOK() != (v.PayloadLen == 0) {
			t.Fatalf("shard %d, packet %d of %d bytes: checksum right: %v", shard, i, v.PayloadLen, v.ChecksumOK())
		}
	}
	if s := h.stats(); next != [2]int{packets, packets} || s.Recorded != 2*packets || s.Dropped != 0 {
		t.Errorf("%d are in the file, stats %+v", next, s)
	}
}

// A disk that is slow, full, or given enough costs the record, which says how much,
// and nothing else.
func TestHeadersWithoutRoom(t *testing.T) {
	fill := func(h *headerFile) (added uint64) {
		s := h.newHeaders()
		for range headerQueue/56 + 1000 {
			add(s, 1, 1, 0, 0)
			added++
		}
		s.flush()
		return added
	}
	for name, tt := range map[string]struct {
		spoil func(h *headerFile)
		told  string
	}{
		"slow": {func(h *headerFile) {
			close(h.stop)
			<-h.done
			h.stop, h.done = make(chan struct{}), make(chan struct{})
		}, ""},
		"broken": {func(h *headerFile) { _ = h.file.Close() }, "closed"},
		"enough": {func(h *headerFile) { h.mu.Lock(); h.most = headerQueue; h.mu.Unlock() }, "bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			h, log := newHeaders(t)
			tt.spoil(h)
			added := fill(h)
			if name == "slow" { // the disk is back
				go h.run()
			}
			end := time.After(10 * time.Second)
			for s := h.stats(); s.Recorded+s.Dropped != added; s = h.stats() {
				select {
				case <-end:
					t.Fatalf("%d packets, stats %+v", added, s)
				case <-time.After(time.Millisecond):
				}
			}
			if name == "enough" {
				added += fill(h)
			}
			if err := h.close(); err != nil && !errors.Is(err, os.ErrClosed) {
				t.Fatal(err)
			}
			if s := h.stats(); s.Dropped == 0 || s.Recorded+s.Dropped != added {
				t.Errorf("%d packets, stats %+v", added, s)
			}
			if (log.Len() > 0) != (tt.told != "") || !strings.Contains(log.String(), tt.told) || strings.Count(log.String(), "\n") > 1 {
				t.Errorf("the log says %q", log)
			}
		})
	}
}

// Recording takes nothing per packet that the shard does not have.
func TestRecordingHeadersDoesNotAllocate(t *testing.T) {
	h, _ := newHeaders(t)
	s := h.newHeaders()
	var v packet.View
	f := frame.TargetHeader{Time: 1, Headers: targetPacket(1, 0)}
	offset := func() time.Duration { return 0 }
	if n := testing.AllocsPerRun(100, func() {
		for range 20 {
			s.add(&f, &v, v.Parse(f.Headers, len(f.Headers)) == packet.OK, offset)
		}
		s.flush()
	}); n != 0 {
		t.Errorf("20 packets allocate %v times", n)
	}
	if err := h.close(); err != nil {
		t.Error(err)
	}
}
