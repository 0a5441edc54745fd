package capture

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"flowtwin/internal/packet"
	"flowtwin/internal/packet/packettest"
)

// mirrors returns ip as it comes from a mirror.
func mirrors(ip []byte) (vxlan, geneve, gre, gre6 []byte) {
	from, to := netip.MustParseAddrPort("192.0.2.1:50000"), netip.MustParseAddr("192.0.2.2")
	frame := packettest.Ethernet(ip, 7)
	return packettest.UDP(from, netip.AddrPortFrom(to, 4789), packettest.VXLANHeader(1), frame),
		packettest.UDP(from, netip.AddrPortFrom(to, 6081), packettest.GENEVEHeader(1, 0x6558, make([]byte, 8)), frame),
		packettest.IP(from.Addr(), to, 47, packettest.GREHeader(0x2000, 0x6558), frame),
		packettest.IP(netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fd00::2"), 60,
			[]byte{47, 0, 4, 1, 4, 1, 1, 0}, packettest.GREHeader(0, 0x6558), frame)
}

func TestFilterOfMirroredPackets(t *testing.T) {
	plain := pkt4("1.1.1.1:5000", "10.0.0.2:80")
	vxlan, geneve, gre, gre6 := mirrors(plain)
	dns := packettest.UDP(netip.MustParseAddrPort("192.0.2.1:53"), netip.MustParseAddrPort("192.0.2.2:5000"), make([]byte, 100))
	later := bytes.Clone(vxlan)
	later[7] = 9
	first := bytes.Clone(vxlan)
	first[6] = 0x20
	options := append(append([]byte{0x46}, vxlan[1:20]...), append([]byte{1, 1, 1, 1}, vxlan[20:]...)...)
	vxlan6 := packettest.UDP(netip.MustParseAddrPort("[fd00::1]:50000"), netip.MustParseAddrPort("[fd00::2]:4789"), packettest.VXLANHeader(1))
	spec := func(e packet.Encap) filterSpec {
		return filterSpec{matches: []Match{match("10.0.0.2", 80)}, decap: e}
	}
	all := packet.VXLAN | packet.GENEVE | packet.GRE
	tests := []struct {
		name  string
		decap packet.Encap
		kind  uint32
		pkt   []byte
		want  int
	}{
		{"VXLAN", packet.VXLAN, typeHost, vxlan, keepWhole},
		{"VXLAN behind IP options", packet.VXLAN, typeHost, options, keepWhole},
		{"VXLAN over IPv6", packet.VXLAN, typeHost, vxlan6, keepWhole},
		{"GENEVE", packet.GENEVE, typeHost, geneve, keepWhole},
		{"GRE", packet.GRE, typeHost, gre, keepWhole},
		{"GRE over IPv6 with an option", packet.GRE, typeHost, gre6, keepWhole},
		{"VXLAN, not asked for", packet.GENEVE | packet.GRE, typeHost, vxlan, 0},
		{"GENEVE, not asked for", packet.VXLAN | packet.GRE, typeHost, geneve, 0},
		{"GRE, not asked for", packet.VXLAN | packet.GENEVE, typeHost, gre, 0},
		{"sent by this host", all, typeOutgoing, vxlan, 0},
		{"to another host", all, 3, vxlan, 0},
		{"this host's own TCP", all, typeHost, plain, 0},
		{"other UDP", all, typeHost, dns, 0},
		{"first fragment", all, typeHost, first, keepWhole},
		{"later fragment", all, typeHost, later, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			prog := built(t, spec(tt.decap))
			accepted(t, prog)
			says := kernelSays{kind: tt.kind, proto: etherIPv4}
			if tt.pkt[0]>>4 == 6 {
				says.proto = etherIPv6
			}
			if got := run(t, prog, says, tt.pkt); got != tt.want {
				t.Errorf("keeps %d bytes, want %d", got, tt.want)
			}
		})
	}
}

// Of what a mirror sends, the reader gets what the matches name, both ways, and
// faults to count.
func TestReaderUnwraps(t *testing.T) {
	to, from, other := pkt4("1.1.1.1:5000", "10.0.0.2:80"), pkt4("10.0.0.2:80", "1.1.1.1:5000"), pkt4("1.1.1.1:5000", "10.0.0.2:81")
	for _, tt := range []struct {
		name     string
		ip       []byte
		cut      int
		captured bool
		toServer bool
		fault    packet.Fault
	}{
		{"to the server", to, 0, true, true, packet.OK},
		{"from the server", from, 0, true, false, packet.OK},
		{"to another port", other, 0, false, false, packet.OK},
		{"cut in its payload", to, 2, true, true, packet.OK},
		{"cut in the frame's header", to, len(to) + 2, true, true, packet.Truncated},
	} {
		vxlan, geneve, gre, gre6 := mirrors(tt.ip)
		for kind, pkt := range map[string][]byte{"VXLAN": vxlan, "GENEVE": geneve, "GRE": gre, "GRE over IPv6": gre6} {
			t.Run(tt.name+" "+kind, func(t *testing.T) {
				r := filledRing(1, pkt[:len(pkt)-tt.cut])
				r.decap = packet.VXLAN | packet.GENEVE | packet.GRE
				r.match.by.Store(&selection{matches: []Match{match("10.0.0.2", 80)}, anyWay: true})
				if ok, err := r.Next(0); !ok || err != nil {
					t.Fatal(ok, err)
				}
				var p Packet
				if got := r.Packet(&p); got != tt.captured {
					t.Fatalf("captured is %t", got)
				}
				if !tt.captured {
					return
				}
				if p.Fault != tt.fault || p.ToServer != tt.toServer || p.Checked {
					t.Errorf("fault %v, to the server %t, checked %t", p.Fault, p.ToServer, p.Checked)
				}
				if want := tt.ip[:max(0, len(tt.ip)-tt.cut)]; p.Fault == packet.OK && (!bytes.Equal(p.Data, want) || p.WireLen != len(tt.ip)) {
					t.Errorf("%d bytes of %d, %x; want %x", len(p.Data), p.WireLen, p.Data, want)
				}
			})
		}
	}
}

func TestUnwrappingDoesNotAllocate(t *testing.T) {
	vxlan, _, _, _ := mirrors(pkt4("1.1.1.1:5000", "10.0.0.2:80"))
	r := filledRing(64, vxlan)
	r.decap = packet.VXLAN
	r.match.by.Store(&selection{matches: []Match{match("10.0.0.2", 80)}, anyWay: true})
	walksWithoutAllocating(t, r)
}

func TestOpenErrorsOfMirrors(t *testing.T) {
	for want, cfg := range map[string]Config{
		"no address": {Matches: []Match{{Port: 80}}, Decap: packet.GRE},
		"Rings: 2":   {Matches: serverAt("10.0.0.2:80"), Decap: packet.GRE, Rings: 2},
	} {
		if _, err := cfg.filled(); err == nil || !bytes.Contains([]byte(err.Error()), []byte(want)) {
			t.Errorf("error %v, want one that says %q", err, want)
		}
	}
}

// Nobody is told that nobody listens, and nothing piles up.
func TestMirrorsAreNotAnswered(t *testing.T) {
	client, server := pair(t)
	set := openIn(t, server, Config{Matches: serverAt("10.8.0.2:80"), Decap: packet.VXLAN | packet.GENEVE | packet.GRE})
	tp := startTap(t, set)
	vxlan := packettest.VXLANHeader(1)
	for network, addrs := range map[string][]string{
		"udp": {"10.9.0.2:4789", "10.9.0.2:6081", "[fd09::2]:4789", "[fd09::2]:6081"}, "ip4:47": {"10.9.0.2"}, "ip6:47": {"fd09::2"},
	} {
		for _, addr := range addrs {
			var conn net.Conn
			var err error
			client.Do(func() { conn, err = net.Dial(network, addr) })
			if err != nil {
				t.Fatal(err)
			}
			for range 3 { // an error comes with the next write
				if _, err := conn.Write(vxlan[:7]); err != nil {
					t.Errorf("%s %s: %v", network, addr, err)
				}
			}
			_ = conn.Close()
		}
	}
	tp.until(t, func(all []taken) string {
		if len(all) < 12 { // GENEVE and GRE take this for something else
			return fmt.Sprintf("%d packets", len(all))
		}
		return ""
	})
	out := server.Run(t, "nstat", "-asz", "IcmpOutDestUnreachs", "Icmp6OutDestUnreachs")
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) == 3 && f[0] != "#kernel" && f[1] != "0" {
			t.Errorf("answered: %s", line)
		}
	}
}
