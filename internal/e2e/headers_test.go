//go:build netns

package e2e

import (
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"flowtwin/internal/e2e/traffic"
	"flowtwin/internal/testnet"
)

// tshark runs tshark on a file and returns what it prints.
func tshark(t *testing.T, file string, args ...string) string {
	t.Helper()
	var out, complaints strings.Builder
	cmd := exec.CommandContext(t.Context(), "tshark", append([]string{
		"-r", file, "-n", "-o", "ip.check_checksum:TRUE", "-o", "tcp.check_checksum:TRUE",
	}, args...)...)
	cmd.Stdout, cmd.Stderr = &out, &complaints
	if err := cmd.Run(); err != nil {
		t.Fatalf("tshark (see internal/testnet/deps.sh): %v: %s", err, complaints.String())
	}
	for line := range strings.Lines(complaints.String()) {
		if !strings.HasPrefix(line, "Running as user") {
			t.Errorf("tshark complains: %s", line)
		}
	}
	return out.String()
}

// The target's headers, as recorded, are what a capture at the target would be:
// tshark reads the file without a complaint, checksums included, each connection's
// numbers follow each other without a gap, and the lengths add up to what the books
// say.
func TestHeadersOpenInWireshark(t *testing.T) {
	t.Parallel()
	s := newScene(t, testnet.LabConfig{})
	online, target := s.serve(port, port)
	online6, target6 := s.serve(":81", ":81")
	file := filepath.Join(s.Dir, "headers.pcap")
	responder := s.keep(s.StartResponder(s.within()))
	copier := s.keep(s.StartCopier(s.within(), httpMap+",81-["+testnet.TargetAddr6+"]:81", "--record-headers", file))
	load := traffic.Load{Name: "v4", Clients: 20, Rounds: 5, Requests: 5, Bodies: []int{10, 20_000}}
	stats := s.make(load, s.dialer(port))
	load.Name, load.Reset = "v6", true
	stats6 := s.make(load, s.dialer(":81"))
	s.same(online, target)
	s.same(online6, target6)
	stats.Add(stats6)
	report := s.end(copier, responder)
	s.exact(report, stats)
	if r := report.RecordedHeaders; r.Dropped != 0 || r.Recorded == 0 || r.Recorded != report.Answers.Headers {
		t.Errorf("%d headers returned, %+v", report.Answers.Headers, r)
	}

	// No expert's finding at the level of a warning or an error.
	if out := tshark(t, file, "-q", "-z", "expert,warn"); strings.Contains(out, "Errors (") || strings.Contains(out, "Warns (") {
		t.Errorf("tshark finds: %s", out)
	}
	var packets, bytes, first uint64
	next := make(map[string]uint64)
	for line := range strings.Lines(tshark(t, file, "-T", "fields", "-e", "tcp.stream", "-e", "tcp.seq", "-e", "tcp.len",
		"-e", "tcp.flags.syn", "-e", "tcp.flags.fin", "-e", "tcp.flags.reset", "-e", "frame.len", "-e", "frame.cap_len", "-e", "tcp.hdr_len")) {
		f := strings.Fields(line)
		n := make([]uint64, len(f))
		for i := range f {
			var err error
			if n[i], err = strconv.ParseUint(f[i], 0, 64); err != nil {
				n[i] = 0
				if f[i] == "True" {
					n[i] = 1
				}
			}
		}
		if len(n) != 9 {
			t.Fatalf("tshark says %q", line)
		}
		seq, length, syn, fin, reset := n[1], n[2], n[3], n[4], n[5]
		if n[6] != n[7]+length {
			t.Errorf("%q: the frame has %d bytes, %d are there, its payload is %d", line, n[6], n[7], length)
		}
		packets++
		bytes += length
		want, known := next[f[0]]
		if !known {
			first += syn
		} else if reset == 0 && seq > want { // less is sent again
			t.Errorf("stream %s goes on at %d, want %d", f[0], seq, want)
		}
		next[f[0]] = max(want, seq+length+syn+fin)
	}
	if packets != report.RecordedHeaders.Recorded || bytes != report.Answers.Target.Bytes || first != report.Sessions.Established {
		t.Errorf("%d packets with %d bytes and %d beginnings; the books: %d, %d, %d", packets, bytes, first,
			report.RecordedHeaders.Recorded, report.Answers.Target.Bytes, report.Sessions.Established)
	}
}
