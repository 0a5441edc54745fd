package offline

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"flowtwin/copier/capture"
	"flowtwin/internal/flow"
	"flowtwin/internal/packet"
	"flowtwin/internal/packet/packettest"
	"flowtwin/internal/pcap"
)

var (
	client = netip.MustParseAddrPort("203.0.113.9:40000")
	server = netip.MustParseAddrPort("192.0.2.80:80")
	other  = netip.MustParseAddrPort("192.0.2.81:80")
)

func toServer(payload string) packettest.Packet {
	return packettest.Packet{Src: client, Dst: server, Seq: 1, Ack: 1, Flags: packet.ACK, Payload: []byte(payload)}
}

func toClient(payload string) packettest.Packet {
	return packettest.Packet{Src: server, Dst: client, Seq: 1, Ack: 1, Flags: packet.ACK, Payload: []byte(payload)}
}

// The IP header must be found behind every kind of link, and nothing else taken for
// one.
func TestLinks(t *testing.T) {
	ip := toServer("GET").Bytes()
	ip6 := packettest.Packet{Src: netip.MustParseAddrPort("[2001:db8::1]:4"), Dst: netip.MustParseAddrPort("[2001:db8::2]:80"), Flags: packet.SYN}.Bytes()
	mac := make([]byte, 12)
	arp := append(append(bytes.Clone(mac), 8, 6), ip...)
	for _, tt := range []struct {
		name string
		link uint16
		head []byte
		ip   []byte
	}{
		{"Ethernet", 1, append(bytes.Clone(mac), 8, 0), ip},
		{"Ethernet, IPv6", 1, append(bytes.Clone(mac), 0x86, 0xdd), ip6},
		{"VLAN", 1, append(bytes.Clone(mac), 0x81, 0, 0, 7, 8, 0), ip},
		{"QinQ", 1, append(bytes.Clone(mac), 0x88, 0xa8, 0, 7, 0x81, 0, 0, 9, 8, 0), ip},
		{"raw", 101, nil, ip},
		{"raw IPv6", 229, nil, ip6},
		{"loopback of little-endian BSD", 0, []byte{2, 0, 0, 0}, ip},
		{"loopback of OpenBSD", 108, []byte{0, 0, 0, 24}, ip6},
		{"Linux cooked", 113, append(make([]byte, 14), 8, 0), ip},
		{"Linux cooked, with a tag", 113, append(make([]byte, 14), 0x81, 0, 0, 7, 8, 0), ip},
		{"Linux cooked 2", 276, append([]byte{8, 0, 0, 0, 0, 0, 0, 5}, make([]byte, 12)...), ip},
		{"Linux cooked 2, with a tag", 276, append(append([]byte{0x81, 0, 0, 0, 0, 0, 0, 5}, make([]byte, 12)...), 0, 7, 8, 0), ip},
		{"PPPoE", 1, append(bytes.Clone(mac), 0x88, 0x64, 0x11, 0, 0, 1, 0, byte(len(ip)+2), 0, 0x21), ip},
		{"PPPoE in a VLAN", 1, append(bytes.Clone(mac), 0x81, 0, 0, 7, 0x88, 0x64, 0x11, 0, 0, 1, 0, byte(len(ip)+2), 0, 0x21), ip},
		{"MPLS", 1, append(bytes.Clone(mac), 0x88, 0x47, 0, 1, 1, 64), ip},
		{"PPP, by gopacket", 9, []byte{0, 0x21}, ip},
		{"PPPoE, by gopacket", 51, nil, nil},
		{"ARP", 1, arp, nil},
		{"USB", 220, make([]byte, 64), nil},
		{"beyond gopacket", 4000, make([]byte, 64), nil},
		{"nothing", 276, nil, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := record{data: append(bytes.Clone(tt.head), tt.ip...), link: tt.link}
			r.wireLen = len(r.data) + 100
			ok := r.strip()
			if ok != (tt.ip != nil) {
				t.Fatalf("found: %v", ok)
			}
			if ok && (!bytes.Equal(r.data, tt.ip) || r.wireLen != len(tt.ip)+100) {
				t.Errorf("%d bytes of %d are left, want %d", len(r.data), r.wireLen, len(tt.ip))
			}
			if tt.link == 276 && ok && r.iface != 5 {
				t.Errorf("interface %d, want that of the packet", r.iface)
			}
		})
	}
}

// A kept packet is one as a shard would get it.
type kept struct {
	toServer, checked bool
	data              string
	wireLen           int
}

// fed writes packets to a file and returns what a feed makes of them.
func fed(t *testing.T, cfg Config, packets ...packettest.Packet) ([]kept, Stats) {
	t.Helper()
	b := pcap.AppendHeader(nil)
	for i, p := range packets {
		b = pcap.AppendPacket(b, int64(i)*1e9, p.Bytes(), 0)
	}
	return fedFile(t, cfg, b)
}

func fedFile(t *testing.T, cfg Config, b []byte) (out []kept, st Stats) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "test.pcap")
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	cfg.Files = []string{name}
	if cfg.Matches == nil {
		cfg.Matches = []capture.Match{{Port: 80}}
	}
	f, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- f.Run(t.Context()) }()
	for b := range f.Blocks() {
		var p capture.Packet
		for b.Packet(&p) {
			out = append(out, kept{p.ToServer, p.Checked, string(p.Data), p.WireLen})
		}
		f.GiveBack(b)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	st = f.Stats()
	if st.Packets != uint64(len(out))+st.Left() {
		t.Errorf("%d packets were read, %d handed over, %d left out", st.Packets, len(out), st.Left())
	}
	return out, st
}

func TestFeedTellsDirections(t *testing.T) {
	request, answer := toServer("GET"), toClient("200 and much more")
	got, st := fed(t, Config{}, request, answer)
	whole := answer.Bytes()
	if len(got) != 2 || !got[0].toServer || got[1].toServer {
		t.Fatalf("%+v, %+v", got, st)
	}
	if len(got[0].data) != len(request.Bytes()) || len(got[1].data) != 40 || got[1].wireLen != len(whole) {
		t.Errorf("%d bytes to the server, %d of %d from it: its packets are to be cut to their headers", len(got[0].data), len(got[1].data), got[1].wireLen)
	}
	elsewhere := toServer("GET")
	elsewhere.Dst = netip.MustParseAddrPort("192.0.2.80:443")
	if got, st = fed(t, Config{}, elsewhere); len(got) != 0 || st.Unmapped != 1 {
		t.Errorf("another port: %v, %+v", got, st)
	}
	elsewhere.Dst = other
	if got, st = fed(t, Config{Matches: []capture.Match{{Addr: server.Addr(), Port: 80}}}, elsewhere); len(got) != 0 || st.Unmapped != 1 {
		t.Errorf("another server: %v, %+v", got, st)
	}
}

// What comes through a pipe, recorded at its other end, is handed over as it comes: the
// next packet may be long in coming, or never come.
func TestFeedDoesNotWaitForAPipe(t *testing.T) {
	in, out := io.Pipe()
	f, err := Open(Config{Files: []string{Stdin}, Stdin: in, Matches: []capture.Match{{Port: 80}}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	file := pcap.AppendHeader(nil)
	for range 3 * blocks {
		ip := toServer("GET").Bytes()
		if _, err := out.Write(pcap.AppendPacket(file, 1, ip, len(ip))); err != nil {
			t.Fatal(err)
		}
		file = file[:0]
		select {
		case b := <-f.Blocks():
			if b.Left() != 1 || b.Last {
				t.Fatalf("%d packets, last: %t", b.Left(), b.Last)
			}
			f.GiveBack(b)
		case <-time.After(10 * time.Second):
			t.Fatal("the packet was not handed over")
		}
	}
	stop()
	if err := in.CloseWithError(io.EOF); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// From port 80 to port 80 only the handshake tells who is the client.
func TestFeedBetweenTwoServers(t *testing.T) {
	p := func(from, to netip.AddrPort, f packet.Flags) packettest.Packet {
		return packettest.Packet{Src: from, Dst: to, Flags: f}
	}
	got, _ := fed(t, Config{},
		p(other, server, packet.SYN), p(server, other, packet.SYN|packet.ACK), p(other, server, packet.ACK), p(server, other, packet.ACK),
		// The same tuple again, the other way round.
		p(server, other, packet.SYN), p(other, server, packet.ACK), p(server, other, packet.ACK))
	want := []bool{true, false, true, false, true, false, true}
	for i, g := range got {
		if g.toServer != want[i] {
			t.Errorf("packet %d: to the server %v", i, g.toServer)
		}
	}
}

func TestFeedNamesCutPackets(t *testing.T) {
	whole := toServer(strings.Repeat("x", 1000)).Bytes()
	b := pcap.AppendHeader(nil)
	b = pcap.AppendPacket(b, 1, toServer("GET").Bytes(), 0)
	b = pcap.AppendPacket(b, 2, toClient("cut").Bytes()[:40], 2000)
	b = pcap.AppendPacket(b, 3, whole[:96], len(whole))
	b = pcap.AppendPacket(b, 4, whole[:30], len(whole))
	var log bytes.Buffer
	got, st := fedFile(t, Config{Log: slog.New(slog.NewTextHandler(&log, nil))}, b)
	if len(got) != 4 || st.Cut != 2 {
		t.Errorf("%d packets, %d cut", len(got), st.Cut)
	}
	if n := strings.Count(log.String(), "\n"); n != 1 || !strings.Contains(log.String(), "test.pcap is cut at 96 of 1040 bytes") || !strings.Contains(log.String(), "packet 3 of") {
		t.Errorf("it says: %s", log.String())
	}
}

// A file that is cut off is said once, however often it is played.
func TestFeedTellsOnceOfAFileThatIsCutOff(t *testing.T) {
	ip := toServer("GET").Bytes()
	b := pcap.AppendPacket(pcap.AppendHeader(nil), 1, ip, len(ip))
	var log bytes.Buffer
	got, _ := fedFile(t, Config{Loops: 3, Log: slog.New(slog.NewTextHandler(&log, nil))}, append(b, b[24:50]...))
	if n := strings.Count(log.String(), "\n"); n != 1 || !strings.Contains(log.String(), "packet 2 of") || len(got) != 3 {
		t.Errorf("%d packets, and it says: %s", len(got), log.String())
	}
}

// Wrong checksums are dropped only where others are right: tools that anonymise
// recordings leave nothing but wrong ones behind.
func TestFeedChecksums(t *testing.T) {
	bytesOf := func(p packettest.Packet, change func(tcp []byte)) []byte {
		b := p.Bytes()
		change(b[20:])
		return b
	}
	wrong := bytesOf(toServer("GET"), func(tcp []byte) { tcp[20]++ })
	partial := bytesOf(toServer("GET"), func(tcp []byte) {
		var s uint32
		for _, w := range []uint16{0xcb00, 0x7109, 0xc000, 0x0250, 6, uint16(len(tcp))} {
			s += uint32(w)
		}
		binary.BigEndian.PutUint16(tcp[16:], uint16(s>>16+s&0xffff))
	})
	file := func(packets ...[]byte) []byte {
		b := pcap.AppendHeader(nil)
		for _, p := range packets {
			b = pcap.AppendPacket(b, 0, p, 0)
		}
		return b
	}
	var real [][]byte
	for range 40 {
		real = append(real, toServer("GET").Bytes())
	}
	for _, tt := range []struct {
		name    string
		file    []byte
		checked bool // of the last packet
	}{
		{"left to the network card", file(append(real, partial)...), true},
		{"the only wrong one", file(append(real, wrong)...), false},
		{"all wrong", file(wrong, wrong, wrong), true},
	} {
		got, _ := fedFile(t, Config{}, tt.file)
		if last := got[len(got)-1]; last.checked != tt.checked {
			t.Errorf("%s: passes %v", tt.name, last.checked)
		}
	}
}

func TestWindowAndFilter(t *testing.T) {
	moment := func(s string) Moment {
		m, err := ParseMoment(s)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	p := toServer("GET")
	if got, st := fed(t, Config{Window: Window{moment("1s"), moment("1970-01-01T00:00:03Z")}}, p, p, p, p, p); len(got) != 2 || st.Outside != 3 {
		t.Errorf("%d packets, %+v", len(got), st)
	}
	away := p
	away.Src = netip.MustParseAddrPort("198.51.100.1:5")
	filter, err := ParseFilter("not src net 198.51.100.0/24")
	if err != nil {
		t.Fatal(err)
	}
	if got, st := fed(t, Config{Filter: filter}, p, away, toClient("200")); len(got) != 2 || st.Filtered != 1 {
		t.Errorf("%d packets, %+v", len(got), st)
	}
	for _, s := range []string{"", "tomorrow", "-5s", "2026-13-01"} {
		if m, err := ParseMoment(s); err == nil {
			t.Errorf("%q is %v", s, m)
		}
	}
}

func TestFilter(t *testing.T) {
	tuple := &flow.Tuple{
		Client: packet.AddrFrom(client.Addr()), Server: packet.AddrFrom(server.Addr()), ClientPort: 40000, ServerPort: 80,
	}
	for text, want := range map[string]bool{
		"":                                   true,
		"tcp":                                true,
		"host 203.0.113.9":                   true,
		"host 192.0.2.80":                    true,
		"host 192.0.2.8":                     false,
		"src host 192.0.2.80":                false,
		"dst host 192.0.2.80":                true,
		"port 80":                            true,
		"src port 80":                        false,
		"portrange 39000-41000":              true,
		"portrange 1-79":                     false,
		"net 203.0.113.0/24 and port 80":     true,
		"net 203.0.113.0/24 and not port 80": false,
		"net 10.0.0.0/8 or host 192.0.2.80":  true,
		"port 1 and port 2 or port 80":       true,
		"port 80 or port 1 and port 2":       false, // as tcpdump reads it
		"port 80 or (port 1 and port 2)":     true,
		"ip and port 80":                     true,
		"ip6":                                false,
		"not ip6":                            true,
		"(port 80 or port 1) and port 2":     false,
		"!(port 1||port 2)&&HOST 192.0.2.80": true,
		"not not port 80":                    true,
		"tcp and host ::ffff:192.0.2.80":     true,
	} {
		f, err := ParseFilter(text)
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		if f(tuple) != want {
			t.Errorf("%q wants it: %v", text, !want)
		}
	}
	for _, text := range []string{
		"host", "host x", "port 70000", "port 1-2", "net 10.0.0.0", "portrange 9-1", "host 1.2.3.4 port 80", "(port 80", "port 80)",
		"and", "udp", "src 1.2.3.4", "not", strings.Repeat("(", 200), strings.Repeat("not ", 200) + "port 80",
	} {
		if _, err := ParseFilter(text); err == nil {
			t.Errorf("%q passes", text)
		}
	}
}
