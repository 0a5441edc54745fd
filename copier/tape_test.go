package copier

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

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

// recordFleet gives the rigs of f a recorder.
func recordFleet(t *testing.T, f *fleet) {
	t.Helper()
	f.cfg.Record = &Record{Dir: t.TempDir(), Size: 1e6, Cap: 2e6}
	for _, c := range f.copiers {
		c.cfg.Record = f.cfg.Record
	}
	r, err := openRecorder(&f.cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil && !f.cfg.Record.Alone {
			t.Error(err)
		}
	})
	f.record(r)
}

// Each connection is recorded once, whichever targets it is copied to, and whichever
// of them are still there.
func TestEachConnectionIsRecordedOnce(t *testing.T) {
	other := tunnel.Map{Port: 8080, Target: netip.MustParseAddrPort("10.9.0.1:8080")}
	for name, tt := range map[string]struct {
		refused bool // the first target
		maps    []tunnel.Map
		want    [2]uint64 // packets that each records
		left    uint64    // by the second
	}{
		"the same to both":       {false, nil, [2]uint64{4, 0}, 4},
		"the first has ended":    {true, nil, [2]uint64{0, 4}, 0},
		"different ones to each": {false, []tunnel.Map{other}, [2]uint64{4, 4}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, rigs, _ := newFleet(t, 2, false)
				if tt.maps != nil {
					rigs[1].maps = newMapping(tt.maps)
					rigs[1].maps.every = true
					rigs[1].shards[0].maps = rigs[1].maps
				}
				if tt.refused {
					rigs[0].client.connect = func(context.Context) error { return tunnel.ErrSecret }
				}
				recordFleet(t, f)
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error, 1)
				go func() { done <- f.run(ctx) }()
				elapse(time.Second)
				for i, r := range rigs {
					if tt.refused && i == 0 {
						continue
					}
					c := newConn()
					if tt.maps != nil && i == 1 {
						c.server = netip.MustParseAddrPort("10.0.0.1:8080")
					}
					r.capture(append(c.handshake(), c.data("hello"))...)
				}
				cancel()
				if err := <-done; (err != nil) != tt.refused {
					t.Error(err)
				}
				for i, r := range rigs {
					sum := r.summary()
					l := &sum.Ledger
					if l.Recorded != tt.want[i] || i == 1 && l.RecordLeft != tt.left || (sum.Recorded != nil) != (i == 0 || l.Recorded > 0) {
						t.Errorf("target %d: %d recorded, %d left; %+v", i, l.Recorded, l.RecordLeft, sum.Recorded)
					}
					for _, w := range sum.Check() {
						t.Errorf("target %d: %s", i, w)
					}
				}
			})
		})
	}
}

// A copier that only records must not stay, and look as if it did, when it cannot.
func TestRecordingAloneEndsWithItsDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, rigs, _ := newFleet(t, 1, false)
		r := rigs[0]
		recordFleet(t, f)
		r.cfg.Record.Alone, f.cfg.Record.Every = true, 0
		done := make(chan error, 1)
		go func() { done <- f.run(t.Context()) }()
		if err := os.RemoveAll(f.cfg.Record.Dir); err != nil {
			t.Fatal(err)
		}
		c := newConn()
		r.capture(c.handshake()...)
		for range 100 { // more than a file holds
			r.capture(c.data(strings.Repeat("x", 16<<10)))
		}
		if err := <-done; err != nil {
			t.Error(err) // the recorder's own is told when it is closed
		}
	})
}
