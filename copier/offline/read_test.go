package offline

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"flowtwin/internal/pcap"
)

// got is what is read of a packet.
type got struct {
	Data  string
	Wire  int
	Time  int64
	Iface int32
	Link  uint16
}

// readAll reads a file's bytes to its end or error.
func readAll(t *testing.T, b []byte) (out []got, err error) {
	t.Helper()
	var n atomic.Int64
	f, err := open(Stdin, bytes.NewReader(b), &n)
	if err != nil {
		return nil, err
	}
	defer f.close()
	for {
		if err := f.next(); err != nil {
			if errors.Is(err, io.EOF) {
				return out, nil
			}
			return out, err
		}
		r := f.at
		out = append(out, got{Data: string(r.data), Wire: r.wireLen, Time: r.time, Iface: r.iface, Link: r.link})
	}
}

// oldPcap is a pcap file of two packets.
func oldPcap(o binary.AppendByteOrder, magic uint32) []byte {
	b := o.AppendUint32(nil, magic)
	b = o.AppendUint16(b, 2)
	b = o.AppendUint16(b, 4)
	b = append(b, make([]byte, 8)...)
	b = o.AppendUint32(b, 4) // a snap length that is not kept to, as dpkt writes
	b = o.AppendUint32(b, 0xf0000001)
	for i, p := range []string{"first", "second packet"} {
		for _, v := range []uint32{1_700_000_000, 999_999, uint32(len(p)), uint32(len(p) + 10*i)} {
			b = o.AppendUint32(b, v)
		}
		b = append(b, p...)
	}
	return b
}

// block is a pcapng block.
func block(o binary.AppendByteOrder, kind uint32, body []byte) []byte {
	for len(body)%4 != 0 {
		body = append(body, 0)
	}
	n := uint32(len(body) + 12)
	b := o.AppendUint32(o.AppendUint32(nil, kind), n)
	return o.AppendUint32(append(b, body...), n)
}

// sections is a pcapng file of two sections of both byte orders, with interfaces of
// three resolutions, and all kinds of packet blocks.
func sections() []byte {
	var all []byte
	for _, o := range []binary.AppendByteOrder{binary.LittleEndian, binary.BigEndian} {
		u32 := func(vs ...uint32) (b []byte) {
			for _, v := range vs {
				b = o.AppendUint32(b, v)
			}
			return b
		}
		opt := func(code uint16, v ...byte) []byte {
			b := o.AppendUint16(o.AppendUint16(nil, code), uint16(len(v)))
			return append(append(b, v...), make([]byte, (4-len(v)%4)%4)...)
		}
		link := func(l uint16) []byte { return o.AppendUint16(o.AppendUint16(nil, l), 0) }
		join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
		all = append(all, block(o, blockSection, join(u32(byteOrderMagic, 1, ^uint32(0), ^uint32(0)), opt(4, []byte("test")...), opt(0)))...)
		all = append(all, block(o, blockInterface, join(link(1), u32(0)))...) // µs without saying so
		all = append(all, block(o, blockInterface, join(link(276), u32(0), opt(2, 'e', 't', 'h', '0'), opt(optResolution, 9), opt(0)))...)
		all = append(all, block(o, blockInterface, join(link(101), u32(3), opt(optResolution, 0x80|10), opt(optOffset, o.AppendUint64(nil, 100)...), opt(0)))...)
		all = append(all, block(o, 0x0bad, u32(1, 2, 3))...) // what others have invented
		micros, nanos := uint64(5_000_001), uint64(6_000_000_007)
		all = append(all, block(o, blockEnhanced, join(u32(0, uint32(micros>>32), uint32(micros), 3, 60), []byte("one\x00"), opt(1, 'h', 'i'), opt(0)))...)
		all = append(all, block(o, blockEnhanced, join(u32(1, uint32(nanos>>32), uint32(nanos), 3, 3), []byte("two")))...)
		all = append(all, block(o, blockEnhanced, join(u32(2, 0, 1024+512, 5, 5), []byte("three")))...)
		all = append(all, block(o, blockSimple, join(u32(4), []byte("four")))...)
		all = append(all, block(o, blockPacket, join(o.AppendUint16(o.AppendUint16(nil, 1), 0), u32(uint32(nanos>>32), uint32(nanos), 4, 4), []byte("five")))...)
	}
	return all
}

func TestFormats(t *testing.T) {
	micro := []got{{"first", 5, 1_700_000_000_999_999_000, 0, 1}, {"second packet", 23, 1_700_000_000_999_999_000, 0, 1}}
	nano := []got{{"first", 5, 1_700_000_000_000_999_999, 0, 1}, {"second packet", 23, 1_700_000_000_000_999_999, 0, 1}}
	section := []got{
		{"one", 60, 5_000_001_000, 0, 1},
		{"two", 3, 6_000_000_007, 1, 276},
		{"three", 5, 101_500_000_000, 2, 101},
		{"four", 4, 101_500_000_000, 0, 1}, // has no time: that of the one before
		{"five", 4, 6_000_000_007, 1, 276},
	}
	ours := pcap.AppendPacket(pcap.AppendHeader(nil), 7_000_000_009, []byte("raw"), 99)
	oursNg := pcap.AppendInterface(pcap.AppendInterface(pcap.AppendSection(nil, "flowtwin", pcap.Part{}), "eth0"), "lo")
	oursNg = pcap.AppendEnhanced(oursNg, 1, 7_000_000_009, []byte("raw"), 99)
	for _, tt := range []struct {
		name string
		file []byte
		want []got
	}{
		{"pcap, µs", oldPcap(binary.LittleEndian, magicMicro), micro},
		{"pcap, µs, big endian", oldPcap(binary.BigEndian, magicMicro), micro},
		{"pcap, ns", oldPcap(binary.LittleEndian, magicNano), nano},
		{"pcap, ns, big endian", oldPcap(binary.BigEndian, magicNano), nano},
		{"pcapng", sections(), append(section, section...)},
		{"our pcap", ours, []got{{"raw", 99, 7_000_000_009, 0, 101}}},
		{"our pcapng", oursNg, []got{{"raw", 99, 7_000_000_009, 1, 101}}},
	} {
		for _, pack := range []string{"", "gzip", "zstd"} {
			t.Run(strings.TrimSuffix(tt.name+", "+pack, ", "), func(t *testing.T) {
				got, err := readAll(t, packed(t, pack, tt.file))
				if err != nil {
					t.Fatal(err)
				}
				if d := cmp.Diff(tt.want, got); d != "" {
					t.Errorf("-want +got:\n%s", d)
				}
			})
		}
	}
}

func packed(t *testing.T, how string, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	var w io.WriteCloser
	switch how {
	case "gzip":
		w = gzip.NewWriter(&out)
	case "zstd":
		z, err := zstd.NewWriter(&out)
		if err != nil {
			t.Fatal(err)
		}
		w = z
	default:
		return b
	}
	_, err := w.Write(b)
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// A file that was cut off anywhere gives the packets that are whole, and says which
// one is not.
func TestCutAnywhere(t *testing.T) {
	for name, file := range map[string][]byte{"pcap": oldPcap(binary.BigEndian, magicNano), "pcapng": sections()} {
		all, err := readAll(t, file)
		if err != nil {
			t.Fatal(err)
		}
		for n := range file {
			got, err := readAll(t, file[:n])
			if len(got) > len(all) || len(got) > 0 && cmp.Diff(all[:len(got)], got) != "" {
				t.Fatalf("%s cut to %d bytes: other packets: %v", name, n, got)
			}
			var flaw *FileError
			if errors.As(err, &flaw) && (!flaw.Cut() || flaw.Packet != uint64(len(got)+1)) {
				t.Errorf("%s cut to %d bytes: %v after %d packets", name, n, err, len(got))
			}
		}
	}
}

func TestDamageIsNamed(t *testing.T) {
	long := oldPcap(binary.LittleEndian, magicMicro)
	binary.LittleEndian.PutUint32(long[24+16+5+8:], 1<<31) // the second packet's length
	late := oldPcap(binary.LittleEndian, magicMicro)
	binary.LittleEndian.PutUint32(late[24+4:], 1_000_000) // µs
	ng := sections()
	at := bytes.Index(ng, []byte("two"))
	trailer := bytes.Clone(ng)
	trailer[at+4]++
	strange := bytes.Clone(ng)
	strange[at-20] = 9 // interface
	size := bytes.Clone(ng)
	size[at-8] = 5 // more than there is
	for _, tt := range []struct {
		name string
		file []byte
		want string
	}{
		{"a length beyond all packets", long, "packet 2 of standard input: damaged: it claims 2147483648 of 23 bytes"},
		{"a second of two", late, "packet 1 of standard input: damaged"},
		{"a block's lengths", trailer, "packet 2 of standard input: damaged: a block's two lengths differ"},
		{"no such interface", strange, "packet 2 of standard input: damaged: of interface 9, of 3"},
		{"longer than its block", size, "packet 2 of standard input: damaged: it claims 5 of 3 bytes in a block of 4"},
		{"text", []byte("this is no recording"), "standard input: not a pcap or pcapng file"},
		{"nothing", nil, "standard input: not a pcap or pcapng file"},
		{"gzip of text", packed(t, "gzip", []byte("this is no recording")), "standard input: not a pcap or pcapng file"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := readAll(t, tt.file)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %q", err, tt.want)
			}
			var flaw *FileError
			if errors.As(err, &flaw) && flaw.Cut() {
				t.Error("damage passes for a file that was cut off")
			}
		})
	}
}

func FuzzRead(f *testing.F) {
	f.Add(oldPcap(binary.LittleEndian, magicMicro))
	f.Add(oldPcap(binary.BigEndian, magicNano))
	f.Add(sections())
	f.Fuzz(func(t *testing.T, b []byte) {
		packets, _ := readAll(t, b)
		for _, p := range packets {
			r := record{data: []byte(p.Data), wireLen: p.Wire, link: p.Link}
			if r.strip() && (len(r.data) == 0 || r.wireLen < len(r.data)) {
				t.Errorf("link %d: %d bytes of %d are left", p.Link, len(r.data), r.wireLen)
			}
		}
	})
}

func TestFilesInTimeOrder(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, times ...int64) {
		b := pcap.AppendHeader(nil)
		for _, at := range times {
			b = pcap.AppendPacket(b, at, fmt.Append(nil, name, at), 0)
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("a1.pcap", 50, 60, 70)
	write("a2.pcap", 10, 55, 80)
	write("a3.pcap", 90)
	write("a4.pcap")
	write("b.pcap", 1)
	names, err := Expand([]string{filepath.Join(dir, "a*.pcap"), filepath.Join(dir, "a1.pcap")})
	if err != nil {
		t.Fatal(err)
	}
	later, err := survey(names)
	if err != nil {
		t.Fatal(err)
	}
	r := &recording{later: later, read: new(atomic.Int64)}
	defer r.close()
	var got []int64
	for {
		f, err := r.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, f.at.time)
		if f.at.time < 50 && len(r.open) != 1 {
			t.Errorf("%d files are open before their time", len(r.open))
		}
	}
	if want := []int64{10, 50, 55, 60, 70, 80, 90}; !cmp.Equal(got, want) {
		t.Errorf("times %v, want %v", got, want)
	}
	if len(r.open) != 0 {
		t.Errorf("%d files stay open", len(r.open))
	}
}

// The copier's shards write a recording in turns, so that a file may begin with packets
// that are older than the last ones of the file before. They are of the same connections:
// their order is the one in which they were written.
func TestPartsOfARecordingFollowEachOther(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, part pcap.Part, times ...int64) {
		b := pcap.AppendInterface(pcap.AppendSection(nil, "flowtwin", part), "eth0")
		for _, at := range times {
			b = pcap.AppendEnhanced(b, 0, at, []byte("packet"), 6)
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	part := func(n uint64) pcap.Part { return pcap.Part{Recording: "A", Number: n} }
	write("c", part(1), 10, 50, 11)
	write("a", part(3), 30, 60)
	write("b", part(2))
	write("d", part(9), 40) // some were removed
	write("e", pcap.Part{Recording: "B", Number: 2}, 20, 55)
	write("f", pcap.Part{}, 45)
	names, err := Expand([]string{filepath.Join(dir, "*")})
	if err != nil {
		t.Fatal(err)
	}
	later, err := survey(names)
	if err != nil {
		t.Fatal(err)
	}
	r := &recording{later: later, read: new(atomic.Int64)}
	defer r.close()
	var got []int64
	for f, err := r.next(); !errors.Is(err, io.EOF); f, err = r.next() {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, f.at.time)
	}
	if want := []int64{10, 20, 45, 50, 11, 30, 55, 60, 40}; !cmp.Equal(got, want) {
		t.Errorf("times %v, want %v", got, want)
	}
}

// Buffers hold all of a short recording at once: what is in them is not yet read.
func TestReadIsWhatIsBehind(t *testing.T) {
	const packets = 1000
	plain := pcap.AppendHeader(nil)
	for i := range packets {
		plain = pcap.AppendPacket(plain, int64(i), fmt.Appendf(nil, "%0100d", i*i), 100)
	}
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	if _, err := z.Write(plain); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{"plain": plain, "gzip": zipped.Bytes()} {
		var n atomic.Int64
		f, err := open(Stdin, bytes.NewReader(b), &n)
		if err != nil {
			t.Fatal(err)
		}
		for i := range packets {
			if err := f.next(); err != nil {
				t.Fatal(err)
			}
			if part := float64(n.Load()) / float64(len(b)); i == packets/4 && (part < 0.2 || part > 0.3) {
				t.Errorf("%s: %.2f of the file is read after a quarter of its packets", name, part)
			}
		}
		if err := f.next(); !errors.Is(err, io.EOF) || n.Load() != int64(len(b)) {
			t.Errorf("%s: %v, %d of %d bytes", name, err, n.Load(), len(b))
		}
		f.close()
	}
}
