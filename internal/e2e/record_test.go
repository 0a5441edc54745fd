//go:build netns

package e2e

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"flowtwin/internal/e2e/rig"
	"flowtwin/internal/e2e/traffic"
	"flowtwin/internal/testnet"
)

// What the copier has recorded, while it copied and alone, must replay as it was
// copied, and other programs must read it.
func TestWhatIsRecordedCanBeReplayed(t *testing.T) {
	s := newScene(t, testnet.LabConfig{})
	online, target := s.serve(port, port)
	responder := s.keep(s.StartResponder(s.within()))

	t.Run("while copying", func(t *testing.T) {
		dir := filepath.Join(s.Dir, "beside")
		copier := s.keep(s.StartCopier(s.within(), httpMap, "--record", dir, "--record-size", "1M", "--record-cap", "100M"))
		clients := mixed(s, s.dialer(port))
		s.same(online, target)
		report := s.endCopier(copier)
		s.exact(report, clients)
		s.recording(t, dir, report)

		live := target.Log()
		target = s.fresh(target)
		r := s.replays("", "-i", filepath.Join(dir, "*.pcapng"), "--pace=target")
		s.replayed(t, live, target, r, clients.Sent)
	})
	t.Run("alone", func(t *testing.T) {
		dir := filepath.Join(s.Dir, "alone")
		report := filepath.Join(s.Dir, "alone.json")
		copier := s.keep(rig.Start(s.Lab.Online, "recorder", s.Copier("-x", httpMap, "--record", dir, "--report", report)...))
		if err := copier.WaitOutput(s.within(), "msg=recording"); err != nil {
			t.Fatal(err)
		}
		before := online.Log()
		clients := s.make(traffic.Load{Name: "alone", Clients: 10, Rounds: 3, Requests: 5, Bodies: []int{10, 3000}}, s.dialer(port))
		if !rig.Until(s.within(), func() bool { c, _, open := online.Counts(); return c == len(before)+30 && open == 0 }) {
			t.Error("the clients' connections have not ended")
		}
		s.stops(copier)
		r, err := rig.ReadReport(report)
		if err != nil {
			t.Fatal(err)
		}
		for _, problem := range r.Check() {
			t.Errorf("ledger: %s", problem)
		}
		if !strings.HasPrefix(r.Headline, "recorded 100.00 % of 30 connections") {
			t.Errorf("it says: %s", r.Headline)
		}
		s.recording(t, dir, r)
		target = s.fresh(target)
		rep := s.replays("", "-i", filepath.Join(dir, "*.pcapng"), "--pace=target")
		s.replayed(t, online.Log()[len(before):], target, rep, clients.Sent)
	})
	s.stops(responder)
	s.untouched()
}

// recording checks that tcpdump reads as many packets as the copier has followed.
func (s *scene) recording(t *testing.T, dir string, r *rig.Report) {
	t.Helper()
	out, err := exec.Command("sh", "-c", fmt.Sprintf("for f in %s/*.pcapng; do tcpdump -nn -r $f 2>/dev/null || exit 1; done | wc -l", dir)).Output()
	if err != nil {
		t.Fatal(err)
	}
	want := r.Packets.By["to_server"] + r.Packets.By["to_client"]
	if got := strings.TrimSpace(string(out)); got != fmt.Sprint(want) || r.Recorded.Packets != want || r.Recorded.Dropped != 0 {
		t.Errorf("tcpdump reads %s packets, want %d; the ledger has %+v", got, want, r.Recorded)
	}
}

// replayed compares what the target got of a replay with what was copied live.
func (s *scene) replayed(t *testing.T, live traffic.Log, target *traffic.Server, r *rig.Report, sent int64) {
	t.Helper()
	if !rig.Until(s.within(), func() bool { _, _, open := target.Counts(); return open == 0 }) {
		t.Error("connections at the target stay open")
	}
	if diff := traffic.Compare(live, target.Log()); len(diff) > 0 {
		t.Errorf("copied live and replayed differ:\n%s", traffic.Describe(diff))
	}
	if got := r.Sent.Delivered.Bytes + r.Copies.Delivered.Bytes; got != uint64(sent) {
		t.Errorf("%d bytes delivered, want %d", got, sent)
	}
}

// A recording is replayed to several targets as live packets are copied to them, and
// recorded once though two copiers see the packets.
func TestRecordingForTwoTargets(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "recorded")
	f := newFanout(t, "--record", dir)
	f.make(fanLoad("recorded"), f.dialer(port))
	for _, target := range f.targets {
		f.same(f.online, target)
	}
	f.stops(f.copier)
	live := f.online.Log()
	report := filepath.Join(t.TempDir(), "report.json")
	argv := f.Copier("-x", httpMap, "-x", secondMap, "--invite-file", f.InviteFile(), "--invite-file", filepath.Join(f.Dir, "invite2"),
		"--report", report, "-i", filepath.Join(dir, "*.pcapng"), "--pace=target")
	p := f.keep(rig.Start(f.Lab.Online, "replay", argv...))
	if code, err := p.Wait(f.within()); err != nil || code != 0 {
		t.Fatalf("replay ends with %d, %v", code, err)
	}
	for i, target := range f.targets {
		if diff := traffic.Compare(append(live[:len(live):len(live)], live...), target.Log()); len(diff) > 0 {
			t.Errorf("target %d got something else than copied and replayed:\n%s", i, traffic.Describe(diff))
		}
	}
	reports, err := rig.ReadReports(report)
	if err != nil || len(reports) != 2 {
		t.Fatal(len(reports), err)
	}
	for i, r := range reports {
		for _, problem := range r.Check() {
			t.Errorf("ledger %d: %s", i, problem)
		}
	}
}
