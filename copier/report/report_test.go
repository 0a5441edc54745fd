package report

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"flowtwin/tunnel/frame"
)

var update = flag.Bool("update", false, "write the golden files")

// golden compares got with the file, or writes it.
func golden(t *testing.T, file string, got []byte) {
	t.Helper()
	file = filepath.Join("testdata", file)
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Errorf("differs from %s (-update writes it):\n%s", file, got)
	}
}

// full is a ledger in which every kind of counter is at work, and adds up.
func full() *Summary {
	s := &Summary{
		Version: "v1",
		Started: time.Date(2026, 11, 23, 13, 0, 0, 0, time.UTC),
		Ended:   time.Date(2026, 11, 23, 13, 1, 15, 0, time.UTC),
		Sample:  25,
		Rates:   Rates{Connections: 0.5, Bytes: 1e6},
		Kernel:  Kernel{Packets: 1_234_567, Dropped: 12},
		Tunnel:  Tunnel{Up: true, Remote: "192.0.2.1:7443", Connects: 2, RTT: 10_123 * time.Microsecond, BytesSent: 60_000_000, BytesReturned: 7_000_000},
	}
	l := &s.Ledger
	l.Packets = Packets{Captured: 2010, Injected: 1, BadChecksum: 9, ToServer: 1000, ToClient: 900, Refused: 40, Late: 20, NoFlow: 10, Unmapped: 5, NotTCP: 4, Fragment: 6, Truncated: 7, Malformed: 8}
	l.Flows.Seen, l.Flows.Pending, l.Flows.Admitted, l.Flows.Live = 5012, 1, 5000, 3
	l.Flows.Observed, l.Flows.Adopted = 2, 40
	l.Flows.Seen, l.Flows.Waiting, l.Flows.Late = 5013, 1, 5
	l.Flows.Ended[ClientHalf], l.Flows.GivenUp[TunnelLost], l.Flows.Resumed[TunnelLost] = 0, 2, 1
	l.Flows.Ended[ClientFirst], l.Flows.Suspended, l.Flows.PrologueFull = 4989, 1, 6
	l.Flows.Hurried, l.Flows.Declined = 3, 1
	l.Flows.Refused[Overload], l.Flows.Refused[NeverEstablished] = 7, 2
	l.Flows.Ended[ServerReset] = 3
	l.Flows.GivenUp[CaptureHole] = 4
	l.Client.Captured = Count{60_100, 50_020_000}
	l.Client.Sent = Count{60_000, 50_000_000}
	l.Client.Retransmitted, l.Client.Duplicate = Count{80, 2000}, Count{4, 2000}
	l.Client.Stored = Count{1, 1000}
	l.Client.Rewritten = Rewritten{Count{2, 30}, Count{2, 30}}
	l.HTTP = HTTP{5000, 300, 2}
	l.Client.Prologue, l.Client.Injected = Count{1, 40}, Count{1, 1448}
	l.Client.Dropped[Overload], l.Client.Dropped[CaptureHole] = Count{12, 12_000}, Count{3, 3000}
	l.Client.Missing, l.Client.Conflicts, l.Client.Urgent = 1448, 1, 2
	l.Sent.Delivered, l.Sent.Gap = Count{59_995, 49_995_440}, Count{1, 600}
	l.Sent.Dropped[frame.ClosedBacklog], l.Sent.AfterClose = Count{2, 1000}, Count{1, 1000}
	l.Sent.TunnelLost, l.Sent.Arrived, l.Sent.InFlight = Count{1, 1000}, 500, Count{1, 500}
	l.Sessions = Sessions{Opened: 5001, Established: 4999, Open: 3, Lost: 2, Reconnects: 12, Resent: 3}
	l.Sessions.Closed[frame.ClosedBoth], l.Sessions.Closed[frame.ClosedBacklog] = 4995, 1
	l.Copies = Copies{Asked: 5000, Open: 2, Lost: 1, Established: 4998, Absorbed: 898_000_000}
	l.Copies.Closed[frame.ClosedBoth], l.Copies.Closed[frame.ClosedNoTuple] = 4996, 1
	l.Copies.Given, l.Copies.Delivered, l.Copies.Dropped = Count{59_998, 49_996_000}, Count{59_990, 49_990_000}, Count{5, 5000}
	l.Copies.InFlight, l.Copies.TunnelLost = Count{2, 900}, Count{1, 100}
	l.Answers = Answers{
		Online: Count{70_000, 900_000_000}, Target: Count{69_000, 899_000_000}, Absorbed: 899_000_000,
		Same: 4900, Different: 95, Answered: 4860, Unanswered: 40, Turns: 59_000, HeldMax: 2, HeadersDropped: 3, Headers: 120_000,
	}
	l.Lag.Progress(&frame.Progress{LagP50: 1_000_000 + 420_000, LagP99: 1_000_000 + 1_900_000, LagMax: 1_000_000 + 12_000_000, LagCount: 60_000}, time.Millisecond)
	return s
}

func TestGolden(t *testing.T) {
	s := full()
	if wrong := s.Ledger.Check(); len(wrong) > 0 {
		t.Errorf("the example does not add up: %v", wrong)
	}
	golden(t, "full.txt", s.AppendText(nil))
	final := full()
	final.Final = true
	final.Ledger.Close()
	golden(t, "final.txt", final.AppendText(nil))
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "full.json", append(b, '\n'))
	golden(t, "empty.txt", (&Summary{Sample: 100}).AppendText(nil))
	broken := full()
	broken.Ledger.Sent.Delivered.Bytes--
	golden(t, "broken.txt", broken.AppendText(nil))
}

// Each counter that is off by one must show: this goes through all of them, so
// that one added later and left out of a sum fails here.
func TestCheckFindsEachCounter(t *testing.T) {
	// Figures that stand beside the sums.
	free := map[string]bool{
		"Flows.Adopted": true, "Flows.Late": true, "Flows.Suspended": true, "Flows.PrologueFull": true, "Flows.Hurried": true,
		"Client.Injected.Segments": true, "Client.Injected.Bytes": true, "Client.Urgent": true, "Client.Conflicts": true, "Client.Missing": true,
		"Sessions.Established": true, "Copies.Established": true, "Copies.Absorbed": true, "BadReturns": true,
		"Moved.Segments": true, "Moved.Bytes": true, "Stuck": true,
		"Sessions.Reconnects": true, "Sessions.Resent": true,
		"Flows.Declined": true, "HTTP.Selected": true, "HTTP.LeftOut": true, "HTTP.Unparsed": true,
	}
	var walk func(path string, v reflect.Value, l *Ledger)
	walk = func(path string, v reflect.Value, l *Ledger) {
		switch v.Kind() {
		case reflect.Struct:
			for i := range v.NumField() {
				name := v.Type().Field(i).Name
				if path == "" && (name == "Answers" || name == "Lag" || name == "Schedule" || name == "early") {
					continue
				}
				walk(strings.TrimPrefix(path+"."+name, "."), v.Field(i), l)
			}
		case reflect.Array:
			for i := range v.Len() {
				walk(path, v.Index(i), l)
			}
		default:
			if free[path] {
				return
			}
			v.SetUint(v.Uint() + 1)
			if len(l.Check()) == 0 {
				t.Errorf("%s may be wrong and nobody sees it", path)
			}
			v.SetUint(v.Uint() - 1)
		}
	}
	l := &full().Ledger
	walk("", reflect.ValueOf(l).Elem(), l)
}

// Nothing may be said to be compared that was not at the target.
func TestCheckBoundsAnswers(t *testing.T) {
	for name, change := range map[string]func(a *Answers){
		"by length":  func(a *Answers) { a.Different += 2 },
		"answered":   func(a *Answers) { a.Answered += 97 },
		"unanswered": func(a *Answers) { a.Unanswered += 97 },
	} {
		l := &full().Ledger
		change(&l.Answers)
		if len(l.Check()) == 0 {
			t.Errorf("%s: more than there were sessions, and nobody sees it", name)
		}
	}
}

// The same for Add: a counter that is left out would be lost with two shards.
func TestAddAddsEachCounter(t *testing.T) {
	var fill func(v reflect.Value, n *uint64)
	fill = func(v reflect.Value, n *uint64) {
		switch v.Kind() {
		case reflect.Struct:
			for i := range v.NumField() {
				if v.Type().Field(i).IsExported() && v.Type().Field(i).Type != reflect.TypeFor[Lag]() {
					fill(v.Field(i), n)
				}
			}
		case reflect.Array:
			for i := range v.Len() {
				fill(v.Index(i), n)
			}
		default:
			*n++
			v.SetUint(*n)
		}
	}
	var a, twice Ledger
	var n uint64
	fill(reflect.ValueOf(&a).Elem(), &n)
	twice.Add(&a)
	if twice != a {
		t.Error("adding to nothing does not give the same")
	}
	twice.Add(&a)
	var check func(path string, x, y reflect.Value)
	check = func(path string, x, y reflect.Value) {
		switch x.Kind() {
		case reflect.Struct:
			for i := range x.NumField() {
				if x.Type().Field(i).IsExported() && x.Type().Field(i).Type != reflect.TypeFor[Lag]() {
					check(path+"."+x.Type().Field(i).Name, x.Field(i), y.Field(i))
				}
			}
		case reflect.Array:
			for i := range x.Len() {
				check(path, x.Index(i), y.Index(i))
			}
		default:
			if y.Uint() != 2*x.Uint() {
				t.Errorf("%s: %d and %d is %d", path, x.Uint(), x.Uint(), y.Uint())
			}
		}
	}
	check("", reflect.ValueOf(a), reflect.ValueOf(twice))
}

func TestLag(t *testing.T) {
	var l Lag
	if _, ok := l.Quantile(0.5); ok {
		t.Error("a quantile of nothing")
	}
	for d := time.Duration(1); d < time.Hour; d = d*9/8 + 1 {
		if i := lagBucket(d); d <= lagTop(lagBuckets-1) && (lagTop(i) < d || lagTop(i) > max(d*5/4, 4)) {
			t.Errorf("%v is in bucket %d, up to %v", d, i, lagTop(i))
		}
	}
	for range 99 { // a quiet hour, and a bad second
		l.Progress(&frame.Progress{LagP50: 100, LagP99: 200, LagMax: 300, LagCount: 10}, 0)
	}
	l.Progress(&frame.Progress{LagP50: 1e6, LagP99: 2e6, LagMax: 3e6, LagCount: 10}, 0)
	for q, want := range map[float64]time.Duration{0.45: 100, 0.9: 200, 0.999: 2e6, 1: 3e6} {
		if got, _ := l.Quantile(q); got < want || got > want*5/4 {
			t.Errorf("quantile %v is %v, want %v", q, got, want)
		}
	}
	l.Progress(&frame.Progress{LagP50: 5, LagP99: 5, LagMax: 5, LagCount: 1}, time.Hour) // clocks apart
	if got, _ := l.Quantile(0); got > 4 {
		t.Errorf("negative lag became %v", got)
	}
}

// --report must never leave half a file, nor replace a device by one.
func TestWriteFile(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "report.json")
	for range 2 {
		if err := full().WriteFile(file); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(file)
	if err != nil || !json.Valid(b) {
		t.Errorf("%v: %s", err, b)
	}
	if names, _ := os.ReadDir(dir); len(names) != 1 {
		t.Errorf("%d files are left, want 1", len(names))
	}
	if err := full().WriteFile(os.DevNull); err != nil {
		t.Error(err)
	}
	if st, err := os.Stat(os.DevNull); err != nil || st.Mode().IsRegular() {
		t.Errorf("%s has been replaced", os.DevNull)
	}
	missing := filepath.Join(dir, "no", "report.json")
	for _, err := range []error{full().WriteFile(missing), CheckFile(missing)} {
		if err == nil || !strings.Contains(err.Error(), "open "+missing+": no such file") {
			t.Errorf("error %v, want one that names the file that was given", err)
		}
	}
}

func TestNamesAreDistinct(t *testing.T) {
	seen := make(map[string]bool)
	for r := range NumReasons {
		n := reasonName(r)
		if seen[n] || strings.HasPrefix(n, "reason_") {
			t.Errorf("reason %d is called %q", r, n)
		}
		seen[n] = true
	}
	for e := range NumEndings {
		if n := endingName(e); strings.HasPrefix(n, "ending_") {
			t.Errorf("ending %d is called %q", e, n)
		}
	}
}

// A final ledger that leaves something in flight is wrong.
func TestFinalLeavesNothingOpen(t *testing.T) {
	s := full()
	if wrong := s.Check(); len(wrong) > 0 {
		t.Errorf("status: %v", wrong)
	}
	s.Final = true
	if wrong := s.Check(); len(wrong) != 2 {
		t.Errorf("final with something in flight and sessions open: %q", wrong)
	}
	s.Ledger.Close()
	if wrong := s.Check(); len(wrong) > 0 {
		t.Errorf("named: %v", wrong)
	}
}
