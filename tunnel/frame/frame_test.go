package frame

import (
	"bytes"
	"encoding/hex"
	"errors"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"flowtwin/internal/flow"
	"flowtwin/internal/packet"
)

// example is one frame of each type, named as in PROTOCOL.md.
type example struct {
	name  string
	frame []byte
	want  any
}

func examples() []example {
	open := &Open{
		Key: flow.Key{
			Tuple: flow.Tuple{
				Client:     packet.AddrFrom(netip.MustParseAddr("203.0.113.9")),
				Server:     packet.AddrFrom(netip.MustParseAddr("192.0.2.80")),
				ClientPort: 40000, ServerPort: 80,
			},
			ISS: 0x01020304,
		},
		Map: 1, Time: 1_700_000_000_000_000_000, BaseSeen: 0, MSS: 1460, RTT: 25_000,
		Copies: 3, Jitter: 500,
	}
	data := &Data{Seen: 300, Time: 1_700_000_000_001_000_000, Payload: []byte("GET / HTTP/1.1\r\n\r\n")}
	header := &TargetHeader{Time: 1_700_000_000_002_000_000, Headers: []byte{0x45, 0, 0, 40}}
	established := &Established{
		Time: 1_700_000_000_000_500_000, Connect: 120,
		Client: netip.MustParseAddrPort("198.18.0.9:40000"),
	}
	closed := &Closed{
		How: ClosedBoth, DeliveredBytes: 18, DeliveredSegments: 1, AnswerBytes: 612, Turns: 1,
		DroppedBytes: 2, DroppedSegments: 3, HeldMax: 4, HeadersReturned: 5, HeadersDropped: 6,
		Reconnects: 7, Resent: 8, GapBytes: 9, GapSegments: 10,
	}
	progress := &Progress{
		Time: 1_700_000_001_000_000_000, Sessions: 50, LagP50: 200_000, LagP99: 900_000,
		LagMax: -1_200_000, LagCount: 1000, DeliveredBytes: 18_000, AnswerBytes: 612_000,
	}
	copies := &Copies{
		Opened: 20, Established: 18, Open: 1, GivenBytes: 360, GivenSegments: 20, DeliveredBytes: 324, DeliveredSegments: 18,
		DroppedBytes: 18, DroppedSegments: 1, AnswerBytes: 11_016,
	}
	copies.Closed[ClosedBoth], copies.Closed[ClosedNoTuple] = 18, 1
	return []example{
		{"Open", AppendOpen(nil, 7, open), *open},
		{"Data", AppendData(nil, 7, data), *data},
		{"Fin", AppendEnd(nil, TypeFin, 7, &End{Seen: 300, Second: true}), End{Seen: 300, Second: true}},
		{"Reset", AppendEnd(nil, TypeReset, 7, &End{Seen: 300}), End{Seen: 300}},
		{"Abort", AppendAbort(nil, 7, &Abort{AbortIdle}), Abort{AbortIdle}},
		{"Bye", AppendEmpty(nil, TypeBye, 0), nil},
		{"TargetHeader", AppendTargetHeader(nil, 7, header), *header},
		{"Established", AppendEstablished(nil, 7, established), *established},
		{"Closed", AppendClosed(nil, 7, closed), *closed},
		{"Progress", AppendProgress(nil, progress), *progress},
		{"ReturnBye", AppendEmpty(nil, TypeReturnBye, 0), nil},
		{"Copies", AppendCopies(nil, copies), *copies},
		{"Moved", AppendMoved(nil, &Moved{3, 400}), Moved{3, 400}},
	}
}

// parse reads any body; nil for the empty ones.
func parse(t Type, body []byte) (x any, ok bool) {
	switch t {
	case TypeOpen:
		x, ok = pack(ParseOpen(body))
	case TypeData:
		x, ok = pack(ParseData(body))
	case TypeFin, TypeReset:
		x, ok = pack(ParseEnd(body))
	case TypeAbort:
		x, ok = pack(ParseAbort(body))
	case TypeTargetHeader:
		x, ok = pack(ParseTargetHeader(body))
	case TypeEstablished:
		x, ok = pack(ParseEstablished(body))
	case TypeClosed:
		x, ok = pack(ParseClosed(body))
	case TypeProgress:
		x, ok = pack(ParseProgress(body))
	case TypeCopies:
		x, ok = pack(ParseCopies(body))
	case TypeMoved:
		x, ok = pack(ParseMoved(body))
	default:
		return nil, len(body) == 0
	}
	return x, ok
}

func pack[T any](x T, ok bool) (any, bool) { return x, ok }

// appendAny is the inverse of parse.
func appendAny(t Type, flow uint32, x any) []byte {
	switch x := x.(type) {
	case Open:
		return AppendOpen(nil, flow, &x)
	case Data:
		return AppendData(nil, flow, &x)
	case End:
		return AppendEnd(nil, t, flow, &x)
	case Abort:
		return AppendAbort(nil, flow, &x)
	case TargetHeader:
		return AppendTargetHeader(nil, flow, &x)
	case Established:
		return AppendEstablished(nil, flow, &x)
	case Closed:
		return AppendClosed(nil, flow, &x)
	case Progress:
		return AppendProgress(nil, &x)
	case Copies:
		return AppendCopies(nil, &x)
	case Moved:
		return AppendMoved(nil, &x)
	}
	return AppendEmpty(nil, t, flow)
}

// comparable types for cmp: netip values are compared, not looked into.
func opts() cmp.Options {
	return cmp.Options{cmpopts.EquateComparable(netip.AddrPort{}), cmpopts.EquateEmpty()}
}

func TestRoundTrip(t *testing.T) {
	for _, e := range examples() {
		t.Run(e.name, func(t *testing.T) {
			typ, flow, body, rest, err := Next(append(bytes.Clone(e.frame), "tail"...))
			if err != nil {
				t.Fatal(err)
			}
			if string(rest) != "tail" {
				t.Errorf("rest = %q, want %q", rest, "tail")
			}
			if typ.OnLane() == typ.OnReturns() {
				t.Errorf("type %v is on lane %v and on returns %v", typ, typ.OnLane(), typ.OnReturns())
			}
			wantFlow := uint32(7)
			if typ == TypeBye || typ == TypeReturnBye || typ == TypeProgress || typ == TypeCopies || typ == TypeMoved {
				wantFlow = 0
			}
			if flow != wantFlow {
				t.Errorf("flow = %d, want %d", flow, wantFlow)
			}
			got, ok := parse(typ, body)
			if !ok {
				t.Fatalf("%v: body of %d bytes not parsed", typ, len(body))
			}
			if d := cmp.Diff(e.want, got, opts()); d != "" {
				t.Errorf("parsed differs (-want +got):\n%s", d)
			}
		})
	}
}

// Half a frame must always read as "more is needed", never as another frame.
func TestTruncatedAtEveryLength(t *testing.T) {
	for _, e := range examples() {
		for n := range e.frame {
			if _, _, _, _, err := Next(e.frame[:n]); !errors.Is(err, ErrShort) {
				t.Errorf("%s cut to %d bytes: err = %v, want ErrShort", e.name, n, err)
			}
		}
		typ, _, body, _, err := Next(e.frame)
		if err != nil {
			t.Fatal(err)
		}
		variable := typ == TypeData || typ == TypeTargetHeader
		for n := range body {
			if _, ok := parse(typ, body[:n]); ok && !variable {
				t.Errorf("%s: body cut to %d of %d bytes was parsed", e.name, n, len(body))
			}
		}
		if _, ok := parse(typ, append(bytes.Clone(body), 0)); ok && !variable {
			t.Errorf("%s: body one byte too long was parsed", e.name)
		}
	}
}

func TestNextRefuses(t *testing.T) {
	tests := []struct {
		name string
		head uint32
		want error
	}{
		{"type zero", 0x00_000000, ErrType},
		{"type between lane and returns", 0x07_000000, ErrType},
		{"type after the last", 0x48_000000, ErrType},
		{"bye with a body", uint32(TypeBye)<<24 | 1, ErrLength},
		{"fin without a body", uint32(TypeFin) << 24, ErrLength},
		{"open too short", uint32(TypeOpen)<<24 | 69, ErrLength},
		{"data without its fixed part", uint32(TypeData)<<24 | 15, ErrLength},
		{"longest data", uint32(TypeData)<<24 | MaxPayload + 16, ErrShort},
		{"data one byte too long", uint32(TypeData)<<24 | MaxPayload + 17, ErrLength},
		{"longest header", uint32(TypeTargetHeader)<<24 | MaxReturnBody, ErrShort},
		{"header one byte too long", uint32(TypeTargetHeader)<<24 | MaxReturnBody + 1, ErrLength},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := []byte{byte(tt.head >> 24), byte(tt.head >> 16), byte(tt.head >> 8), byte(tt.head), 0, 0, 0, 0}
			if _, _, _, _, err := Next(b); !errors.Is(err, tt.want) {
				t.Errorf("err = %v, want %v", err, tt.want)
			}
		})
	}
}

// The labels are part of what users build dashboards on.
func TestLabels(t *testing.T) {
	label := regexp.MustCompile(`^[a-z]+(_[a-z]+)*$`)
	seen := map[string]bool{}
	add := func(kind, s string, known bool) {
		if !label.MatchString(s) {
			t.Errorf("%s %q is not snake_case", kind, s)
		}
		if (s == "unknown") == known {
			t.Errorf("%s: label %q of a value that is known: %v", kind, s, known)
		}
		if known && seen[kind+s] {
			t.Errorf("%s %q appears twice", kind, s)
		}
		seen[kind+s] = true
	}
	for i := range 256 {
		add("how", CloseHow(i).String(), i >= 1 && i <= int(ClosedPaused))
		add("abort", AbortReason(i).String(), i >= 1 && i <= int(AbortOverload))
		add("type", Type(i).String(), Type(i).OnLane() || Type(i).OnReturns())
	}
}

func TestDoesNotAllocate(t *testing.T) {
	b := make([]byte, 0, 4096)
	data := Data{Seen: 1, Time: 2, Payload: make([]byte, 300)}
	header := TargetHeader{Time: 3, Headers: make([]byte, 52)}
	var sink uint64
	if n := testing.AllocsPerRun(100, func() {
		b = AppendData(b[:0], 1, &data)
		b = AppendTargetHeader(b, 2, &header)
		b = AppendClosed(b, 3, &Closed{How: ClosedBoth})
		b = AppendOpen(b, 4, &Open{MSS: 1460})
		for rest := b; len(rest) > 0; {
			typ, _, body, next, err := Next(rest)
			if err != nil {
				t.Fatal(err)
			}
			switch typ {
			case TypeData:
				d, _ := ParseData(body)
				sink += d.Seen
			case TypeTargetHeader:
				h, _ := ParseTargetHeader(body)
				sink += uint64(h.Time)
			case TypeClosed:
				c, _ := ParseClosed(body)
				sink += c.Turns
			case TypeOpen:
				o, _ := ParseOpen(body)
				sink += uint64(o.MSS)
			default:
			}
			rest = next
		}
	}); n != 0 {
		t.Errorf("allocates %v times, want 0", n)
	}
	_ = sink
}

// What PROTOCOL.md shows is what is on the wire.
func TestProtocolExamples(t *testing.T) {
	doc, err := os.ReadFile("../PROTOCOL.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range examples() {
		_, after, ok := strings.Cut(string(doc), "<!-- example "+e.name+" -->\n```\n")
		if !ok {
			t.Errorf("PROTOCOL.md has no example of %s; it would be\n%s", e.name, hex.EncodeToString(e.frame))
			continue
		}
		text, _, _ := strings.Cut(after, "```")
		got, err := hex.DecodeString(strings.Join(strings.Fields(text), ""))
		if err != nil || !bytes.Equal(got, e.frame) {
			t.Errorf("PROTOCOL.md's example of %s is\n%x (%v), want\n%x", e.name, got, err, e.frame)
		}
	}
}

func FuzzNext(f *testing.F) {
	var all []byte
	for _, e := range examples() {
		f.Add(e.frame)
		all = append(all, e.frame...)
	}
	f.Add(all)
	f.Fuzz(func(t *testing.T, b []byte) {
		for {
			typ, flow, body, rest, err := Next(b)
			if err != nil {
				return
			}
			x, ok := parse(typ, body)
			if !ok {
				t.Fatalf("%v: Next passed a body of %d bytes that Parse refuses", typ, len(body))
			}
			if typ == TypeProgress || typ == TypeCopies || typ == TypeMoved {
				flow = 0
				b[4], b[5], b[6], b[7] = 0, 0, 0, 0
			}
			n := len(b) - len(rest)
			if got := appendAny(typ, flow, x); typ != TypeEstablished && !bytes.Equal(got, b[:n]) {
				t.Fatalf("%v: %x was written again as %x", typ, b[:n], got)
			}
			again, _ := parse(typ, appendAny(typ, flow, x)[HeaderLen:])
			if d := cmp.Diff(x, again, opts()); d != "" {
				t.Fatalf("%v changed (-first +second):\n%s", typ, d)
			}
			b = rest
		}
	})
}

func FuzzParse(f *testing.F) {
	for _, e := range examples() {
		f.Add(e.frame[0], e.frame[HeaderLen:])
	}
	f.Fuzz(func(_ *testing.T, typ byte, body []byte) {
		parse(Type(typ), body)
	})
}

func BenchmarkAppendData(b *testing.B) {
	buf := make([]byte, 0, 32<<10)
	payload := make([]byte, 300)
	b.SetBytes(300)
	for b.Loop() {
		if len(buf) > 16<<10 {
			buf = buf[:0]
		}
		buf = AppendData(buf, 7, &Data{Seen: 1, Time: 2, Payload: payload})
	}
}

func BenchmarkNextData(b *testing.B) {
	var buf []byte
	for range 100 {
		buf = AppendData(buf, 7, &Data{Payload: make([]byte, 300)})
	}
	rest := buf
	for b.Loop() {
		if len(rest) == 0 {
			rest = buf
		}
		var body []byte
		_, _, body, rest, _ = Next(rest)
		if _, ok := ParseData(body); !ok {
			b.Fatal("not parsed")
		}
	}
}
