package capture

import (
	"bytes"
	"fmt"
	"net"
	"strings"
	"testing"

	"flowtwin/internal/packet"
	"flowtwin/internal/testnet"
)

// stream puts together what a direction of the only flow captured carried, and
// fails when a byte is missing, cut, or different in a retransmission.
func stream(t *testing.T, all []taken, toServer bool, size int) []byte {
	t.Helper()
	var start packet.Seq
	found := false
	for _, p := range all {
		if p.ToServer == toServer && p.view.Flags.Has(packet.SYN) {
			start, found = p.view.Seq.Add(1), true
		}
	}
	if !found {
		t.Fatal("no SYN captured; " + describe(all))
	}
	out, have := make([]byte, size), make([]bool, size)
	for _, p := range all {
		if p.ToServer != toServer {
			continue
		}
		if !p.view.Whole() {
			t.Fatalf("packet cut: %d of %d bytes", len(p.Data), p.WireLen)
		}
		at := p.view.Seq.Diff(start)
		for i, b := range p.view.Payload {
			if have[at+i] && out[at+i] != b {
				t.Fatalf("byte %d was captured differently before", at+i)
			}
			out[at+i], have[at+i] = b, true
		}
	}
	if n := bytes.Count(bytesOf(have), []byte{0}); n > 0 {
		t.Fatalf("%d of %d bytes not captured", n, size)
	}
	return out
}

func bytesOf(bs []bool) []byte {
	out := make([]byte, len(bs))
	for i, b := range bs {
		if b {
			out[i] = 1
		}
	}
	return out
}

// pair joins a client's and a server's namespace.
func pair(tb testing.TB) (client, server *testnet.NS) {
	tb.Helper()
	client, server = testnet.New(tb, "capcli"), testnet.New(tb, "capsrv")
	testnet.Link(tb, client, "eth0", "10.9.0.1/24", server, "eth0", "10.9.0.2/24")
	for _, end := range []struct {
		ns   *testnet.NS
		cidr string
	}{{client, "fd09::1/64"}, {server, "fd09::2/64"}} {
		if err := end.ns.AddAddr("eth0", end.cidr); err != nil {
			tb.Fatal(err)
		}
	}
	return client, server
}

// With offloads the server's host sees packets of 64 KiB and more, which must not
// be cut; without them it sees what was on the wire.
func TestUploadIsCapturedWhole(t *testing.T) {
	tests := []struct {
		name     string
		addr     string
		offloads bool
		cfg      Config
	}{
		{"IPv4 with offloads", "10.9.0.2:80", true, Config{Interfaces: []string{"eth0"}}},
		{"IPv4 without offloads", "10.9.0.2:80", false, Config{Interfaces: []string{"eth0"}}},
		{"IPv6 with offloads", "[fd09::2]:80", true, Config{Interfaces: []string{"eth0"}}},
		{"IPv6 without offloads", "[fd09::2]:80", false, Config{Interfaces: []string{"eth0"}}},
		{"all interfaces", "10.9.0.2:80", true, Config{}},
		{"several interfaces", "10.9.0.2:80", true, Config{Interfaces: []string{"lo", "eth0"}}},
		{"the smallest blocks", "10.9.0.2:80", true, Config{Block: minBlock}},
		{"blocks of 1 MiB", "10.9.0.2:80", true, Config{Block: 1 << 20}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			client, server := pair(t)
			for _, ns := range []*testnet.NS{client, server} {
				if err := testnet.SetOffloads(ns, "eth0", tt.offloads); err != nil {
					t.Fatal(err)
				}
			}
			body, answer := randomBytes(t, 1<<20), randomBytes(t, 300_000)
			serve(t, server, tt.addr, answer)
			tt.cfg.Matches = serverAt(tt.addr)
			set := openIn(t, server, tt.cfg)
			tp := startTap(t, set)

			if got := request(t, client, tt.addr, body); !bytes.Equal(got, answer) {
				t.Fatal("the answer was disturbed")
			}
			all := tp.until(t, fins(1))
			if got := stream(t, all, true, len(body)); !bytes.Equal(got, body) {
				t.Error("captured request differs from what was sent")
			}
			checkCut(t, all, len(answer))
			largest := 0
			for _, p := range all {
				largest = max(largest, p.WireLen)
			}
			if tt.offloads != (largest > 60_000) {
				t.Errorf("largest packet has %d bytes with offloads %t: the test does not test what it should", largest, tt.offloads)
			}
			tp.until(t, func(all []taken) string { // the last ACK may be in a block of its own
				if s := set.Ring(0).Stats(); s.Drops != 0 || s.Packets != uint64(len(all)) {
					return fmt.Sprintf("kernel counted %+v, read %d packets", s, len(all))
				}
				return ""
			})
		})
	}
}

// With BIG TCP (Linux 5.19 for IPv6, 6.3 for IPv4) interfaces merge to more than
// 64 KiB: the length in the IP header is 0, and IPv6 may have an extension header.
func TestBigTCPIsCapturedWhole(t *testing.T) {
	for _, addr := range []string{"10.9.0.2:80", "[fd09::2]:80"} {
		t.Run(addr, func(t *testing.T) {
			client, server := pair(t)
			for _, ns := range []*testnet.NS{client, server} {
				if err := testnet.SetMergeMax(ns, "eth0", 200_000); err != nil {
					t.Skip("no BIG TCP here:", err)
				}
			}
			body := randomBytes(t, 4<<20)
			serve(t, server, addr, nil)
			tp := startTap(t, openIn(t, server, Config{Matches: serverAt(addr), Interfaces: []string{"eth0"}}))
			request(t, client, addr, body)
			all := tp.until(t, fins(1))
			if got := stream(t, all, true, len(body)); !bytes.Equal(got, body) {
				t.Error("captured request differs from what was sent")
			}
			largest := 0
			for _, p := range all {
				largest = max(largest, p.WireLen)
			}
			t.Logf("largest packet: %d bytes", largest)
			if largest <= 1<<16 {
				t.Skip("the kernel merged nothing larger than 64 KiB")
			}
		})
	}
}

// checkCut checks that packets from the server are there in headers only, and still
// tell how much they carried. A part of that may have been sent again.
func checkCut(t *testing.T, all []taken, answer int) {
	t.Helper()
	var start packet.Seq
	have := make([]bool, answer)
	for _, p := range all {
		if p.fault != packet.OK {
			t.Fatalf("fault %v", p.fault)
		}
		if p.ToServer {
			continue
		}
		if len(p.Data) != min(p.WireLen, 192) {
			t.Fatalf("captured %d bytes of %d from the server, want headers", len(p.Data), p.WireLen)
		}
		if p.view.Flags.Has(packet.SYN) {
			start = p.view.Seq.Add(1)
		}
		at := p.view.Seq.Diff(start)
		for i := range p.view.PayloadLen {
			if at+i < 0 || at+i >= answer {
				t.Fatalf("headers tell of byte %d of the answer, which has %d", at+i, answer)
			}
			have[at+i] = true
		}
	}
	if n := bytes.Count(bytesOf(have), []byte{0}); n > 0 {
		t.Errorf("headers do not tell of %d of %d bytes of answer", n, answer)
	}
}

// The kernel taps a packet on lo twice, and the copier must not replay requests
// twice. Nor may it miss a client on the host itself.
func TestLocalClientIsCapturedOnce(t *testing.T) {
	for _, addr := range []string{"127.0.0.1:80", "[::1]:80", "10.9.0.2:80"} {
		for name, cfg := range map[string]Config{
			"address": {Matches: serverAt(addr)},
			"any":     {Matches: []Match{{Port: 80}}},
			"named":   {Matches: []Match{{Port: 80}}, Interfaces: []string{"lo"}},
		} {
			t.Run(addr+" "+name, func(t *testing.T) {
				_, server := pair(t)
				body, answer := randomBytes(t, 500_000), randomBytes(t, 100_000)
				serve(t, server, addr, answer)
				tp := startTap(t, openIn(t, server, cfg))

				request(t, server, addr, body)
				all := tp.until(t, fins(1))
				if got := stream(t, all, true, len(body)); !bytes.Equal(got, body) {
					t.Error("captured request differs from what was sent")
				}
				type once struct {
					seq, ack packet.Seq
					flags    packet.Flags
					toServer bool
					ipid     uint16
					n, win   int
				}
				seen := map[once]bool{}
				for _, p := range all {
					k := once{p.view.Seq, p.view.Ack, p.view.Flags, p.ToServer, p.view.IPID, p.view.PayloadLen, int(p.view.Window)}
					if seen[k] && p.view.PayloadLen > 0 {
						t.Errorf("captured twice: %+v", k)
					}
					seen[k] = true
				}
				checkCut(t, all, len(answer))
			})
		}
	}
}

// Where no address is named, what others say on the link is not ours.
func TestStrangersArePassedOver(t *testing.T) {
	client, server := pair(t)
	tp := startTap(t, openIn(t, server, Config{Matches: []Match{{Port: 80}}}))
	in := rawLink(t, client, "eth0", server)
	in.sendTo(net.HardwareAddr{2, 0, 0, 0, 0, 7}, tcp("10.9.0.1:999", "10.9.0.77:80", []byte("x")))
	in.send(tcp("10.9.0.1:1000", "10.9.0.2:80", []byte("x")))

	for _, p := range tp.until(t, seen(1)) {
		if p.view.SrcPort == 999 || p.view.DstPort == 999 {
			t.Error("captured a packet to another host")
		}
	}
}

// Two shards share nothing, so both directions of a flow must reach one of them.
func TestFanoutKeepsFlowsTogether(t *testing.T) {
	for _, addr := range []string{"10.9.0.2:80", "[fd09::2]:80"} {
		t.Run(addr, func(t *testing.T) {
			client, server := pair(t)
			serve(t, server, addr, []byte("answer"))
			set := openIn(t, server, Config{Matches: serverAt(addr), Rings: 2, Interfaces: []string{"eth0"}})
			tp := startTap(t, set)
			const flows = 40
			for range flows {
				request(t, client, addr, []byte("request"))
			}
			all := tp.until(t, fins(flows))
			ringOf, flowsOn := map[uint16]int{}, map[int]int{}
			for _, p := range all {
				port := p.view.SrcPort
				if !p.ToServer {
					port = p.view.DstPort
				}
				if ring, ok := ringOf[port]; !ok {
					ringOf[port] = p.ring
					flowsOn[p.ring]++
				} else if ring != p.ring {
					t.Errorf("flow from port %d is on both rings", port)
				}
			}
			if flowsOn[0] == 0 || flowsOn[1] == 0 {
				t.Errorf("flows on rings: %v, want some on each", flowsOn)
			}
			// The last ACK may be in a block of its own.
			tp.until(t, func(all []taken) string {
				if n := set.Ring(0).Stats().Packets + set.Ring(1).Stats().Packets; n != uint64(len(all)) {
					return fmt.Sprintf("kernel counted %d packets, read %d", n, len(all))
				}
				return ""
			})
		})
	}
}

// A second copier on the host must not end up in the first one's fanout group.
func TestTwoSetsAreIndependent(t *testing.T) {
	client, server := pair(t)
	serve(t, server, "10.9.0.2:80", nil)
	cfg := Config{Matches: serverAt("10.9.0.2:80"), Rings: 2}
	one, two := startTap(t, openIn(t, server, cfg)), startTap(t, openIn(t, server, cfg))
	for range 8 {
		request(t, client, "10.9.0.2:80", []byte(strings.Repeat("x", 100)))
	}
	one.until(t, fins(8))
	two.until(t, fins(8))
}

// The kernel tells which checksums are known to be right, or not there yet; all
// others are, and one that is wrong shows.
func TestChecksums(t *testing.T) {
	for name, offloads := range map[string]bool{"with offloads": true, "without offloads": false} {
		t.Run(name, func(t *testing.T) {
			client, server := pair(t)
			for _, ns := range []*testnet.NS{client, server} {
				if err := testnet.SetOffloads(ns, "eth0", offloads); err != nil {
					t.Fatal(err)
				}
			}
			const addr = "10.9.0.2:80"
			serve(t, server, addr, []byte("answer"))
			set := openIn(t, server, Config{Interfaces: []string{"eth0"}, Matches: serverAt(addr)})
			tp := startTap(t, set)
			request(t, client, addr, randomBytes(t, 100_000))
			all := tp.until(t, fins(1))
			for _, p := range all {
				if !p.ToServer {
					continue
				}
				if !offloads && p.Checked {
					t.Errorf("%d bytes: nobody has checked them", p.WireLen)
				}
				if !p.Checked && !p.view.ChecksumOK() {
					t.Errorf("%d bytes: not checked, and wrong", p.WireLen)
				}
				if p.Checked && p.view.ChecksumOK() && p.view.PayloadLen > 0 {
					t.Errorf("%d bytes: said to be unfinished, but right", p.WireLen)
				}
			}
			bad := tcp("10.9.0.1:5000", addr, []byte("corrupted"))
			bad[len(bad)-1] ^= 1
			rawLink(t, client, "eth0", server).send(bad)
			n := len(all)
			all = tp.until(t, func(all []taken) string {
				for _, p := range all[n:] {
					if p.view.SrcPort == 5000 {
						return ""
					}
				}
				return "the corrupted packet"
			})
			for _, p := range all[n:] {
				if p.view.SrcPort == 5000 && (p.Checked || p.view.ChecksumOK()) {
					t.Errorf("a wrong checksum passes: checked %t, right %t", p.Checked, p.view.ChecksumOK())
				}
			}
		})
	}
}
