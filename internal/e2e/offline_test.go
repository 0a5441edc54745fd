//go:build netns

package e2e

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"flowtwin/internal/e2e/rig"
	"flowtwin/internal/e2e/traffic"
	"flowtwin/internal/testnet"
)

// record starts tcpdump on a host, for what args say, into file.
func (s *scene) record(ns *testnet.NS, file string, args ...string) *rig.Process {
	s.t.Helper()
	argv := append([]string{"tcpdump", "-Z", "root", "-U", "-B", "65536", "-w", file}, args...)
	p := s.keep(rig.Start(ns, "tcpdump", argv...))
	if err := p.WaitOutput(s.within(), "listening on"); err != nil {
		s.t.Fatal(err)
	}
	return p
}

// marker ends a recording: tcpdump may be behind.
const marker = "behind this nothing is to be recorded"

// recorded ends tcpdumps once they have written all that came before.
func (s *scene) recorded(files map[string]*rig.Process) {
	s.t.Helper()
	conn := s.dialMarker()
	for file, p := range files {
		if !rig.Until(s.within(), func() bool {
			if _, err := conn.Write([]byte(marker)); err != nil {
				s.t.Fatal(err)
			}
			b, err := os.ReadFile(file)
			return err == nil && bytes.Contains(b, []byte(marker))
		}) {
			s.t.Fatalf("tcpdump does not write %s", file)
		}
		if code, err := p.Stop(s.within()); err != nil || code != 0 {
			s.t.Fatalf("tcpdump: %d, %v", code, err)
		}
		if !strings.Contains(p.Output(), "\n0 packets dropped by kernel") {
			s.t.Fatal("tcpdump was too slow for this test")
		}
	}
}

// dialMarker returns a socket of the clients to one of the online server.
func (s *scene) dialMarker() net.Conn {
	s.t.Helper()
	var conn net.PacketConn
	var err error
	s.Lab.Online.Do(func() { conn, err = net.ListenPacket("udp", testnet.OnlineAddr+":9") })
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = conn.Close() })
	var out net.Conn
	s.Lab.Clients.Do(func() { out, err = net.Dial("udp", testnet.OnlineAddr+":9") })
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = out.Close() })
	return out
}

// replays runs a copier over files to its end, on the host of the clients, without
// privileges, and returns its report.
func (s *scene) replays(stdin string, args ...string) *rig.Report {
	s.t.Helper()
	report := filepath.Join(s.t.TempDir(), "report.json")
	argv := append(s.Copier("-x", httpMap, "--invite-file", s.InviteFile(), "--report", report), args...)
	if stdin != "" {
		argv = append([]string{"sh", "-c", `"$@" < ` + stdin, "sh"}, argv...)
	}
	p := s.keep(rig.Start(s.Lab.Online, "replay", argv...))
	if code, err := p.Wait(s.within()); err != nil || code != 0 {
		s.t.Fatalf("replay ends with %d, %v:\n%s", code, err, p.Output())
	}
	r, err := rig.ReadReport(report)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, problem := range r.Check() {
		s.t.Errorf("replay: ledger: %s", problem)
	}
	return r
}

func sum(parts map[string]uint64) (all uint64) {
	for _, n := range parts {
		all += n
	}
	return all
}

// fresh returns a new recording server of the target's host; the one before
// must be closed.
func (s *scene) fresh(srv *traffic.Server) *traffic.Server {
	s.t.Helper()
	if err := srv.Close(); err != nil {
		s.t.Fatal(err)
	}
	srv, err := rig.Serve(s.Lab.Target, port)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = srv.Close() })
	return srv
}

// What tcpdump has recorded of a server must reach the target as it does when it is
// copied live: the same requests in the same order on each connection, their bytes
// unchanged, whatever the pace and the kind of file.
func TestRecordingIsReplayedAsItWasCopiedLive(t *testing.T) {
	s := newScene(t, testnet.LabConfig{})
	online, target := s.serve(port, port)
	copier, responder := s.copies(httpMap)
	const what = "tcp port 80 or udp port 9"
	file := filepath.Join(s.Dir, "eth0.pcap")
	cooked := filepath.Join(s.Dir, "any.pcap")
	eth0 := s.record(s.Lab.Online, file, "-i", "eth0", "--nano", "-s", "0", what)
	all := s.record(s.Lab.Online, cooked, "-i", "any", "-y", "LINUX_SLL2", "-s", "0", what)
	clients := mixed(s, s.dialer(port))
	s.same(online, target)
	s.recorded(map[string]*rig.Process{file: eth0, cooked: all})
	s.exact(s.endCopier(copier), clients)
	live := target.Log()

	zipped := file + ".gz"
	for _, c := range []string{"gzip -k " + file, "zstd -q -k " + cooked} {
		if out, err := exec.Command("sh", "-c", c).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", c, err, out)
		}
	}
	for _, tt := range []struct {
		name, stdin string
		args        []string
		loops       int
	}{
		{"as fast as the target answers", "", []string{"-i", file, "--pace=target"}, 1},
		{"ten times as fast, cooked, zstd", "", []string{"-i", cooked + ".zst", "-a", "10"}, 1},
		{"twice, gzip", "", []string{"-i", zipped, "--pace=target", "--loop", "2"}, 2},
		{"each connection twice", "", []string{"-i", file, "--pace=target", "-n", "2", "--jitter", "200ms"}, 2},
		{"from standard input", file, []string{"-i", "-", "--pace=target"}, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			target = s.fresh(target)
			r := s.replays(tt.stdin, tt.args...)
			var want traffic.Log
			for range tt.loops {
				want = append(want, live...)
			}
			s.replayed(t, want, target, r, clients.Sent*int64(tt.loops))
			if got, want := r.Recording.Packets, r.Packets.Captured+sum(r.Recording.LeftOut); got != want || r.Recording.LeftOut["not_tcp"] == 0 {
				t.Errorf("%d packets in the file, %d are accounted for: %v", got, want, r.Recording)
			}
		})
	}
	target = s.faultyRecordings(t, file, target, live)
	s.dryRun(t, file, live)
	s.stops(responder)
	s.untouched()
}

// endCopier stops the copier and returns its report.
func (s *scene) endCopier(copier *rig.Process) *rig.Report {
	s.t.Helper()
	s.stops(copier)
	return s.report()
}
