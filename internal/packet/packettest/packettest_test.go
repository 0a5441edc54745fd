package packettest

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"testing"

	"flowtwin/internal/packet"
)

// SYNs as Linux sent them over a veth pair with checksum offload off, so that builder and checker are not merely right
// about each other.
func TestChecksumsOfKernelPackets(t *testing.T) {
	for _, dump := range []string{
		"4500003c07d5400040060ed30a0908010a090802e0f4005045309da900000000a002faf04a7a0000020405b40402080a3db8dca6000000000103030a",
		"6002cac300280640fd000000000000000000000000000001fd00000000000000000000000000000280900050be7349dc00000000a002fd20549a0000020405a00402080a9580dda0000000000103030a",
	} {
		pkt, err := hex.DecodeString(dump)
		if err != nil {
			t.Fatal(err)
		}
		WantTCP(t, pkt, Ack(0), Flags(packet.SYN), Payload(nil))

		again := append([]byte(nil), pkt...)
		SetChecksums(again)
		if !bytes.Equal(again, pkt) {
			t.Errorf("checksums of the kernel's packet were changed:\n% x\n% x", again, pkt)
		}
	}
}

func TestBuiltPacketsCheckOut(t *testing.T) {
	v4 := [2]netip.AddrPort{netip.MustParseAddrPort("10.0.1.7:40000"), netip.MustParseAddrPort("192.168.44.137:80")}
	v6 := [2]netip.AddrPort{netip.MustParseAddrPort("[2001:db8::7]:40000"), netip.MustParseAddrPort("[2001:db8:1::1]:80")}
	for name, ends := range map[string][2]netip.AddrPort{"IPv4": v4, "IPv6": v6} {
		t.Run(name, func(t *testing.T) {
			p := Packet{
				Src: ends[0], Dst: ends[1], Seq: 0xfffffff0, Ack: 7,
				Flags: packet.ACK | packet.PSH, Options: Timestamps(1, 2), Payload: []byte("odd"),
			}
			if name == "IPv6" {
				p.Extensions = []Extension{{Type: 0}, {Type: 60, Body: make([]byte, 9)}, {Type: 44}, {Type: 51, Body: make([]byte, 10)}}
			} else {
				p.IPOptions = []byte{1, 1, 1}
			}
			pkt := p.Bytes()
			WantTCP(t, pkt, Src(ends[0]), Dst(ends[1]), Seq(0xfffffff0), Ack(7), Flags(packet.ACK|packet.PSH), Payload([]byte("odd")))
			for i := range pkt {
				broken := append([]byte(nil), pkt...)
				broken[i] ^= 0x10
				var v packet.View
				if v.Parse(broken, len(broken)) != packet.OK || p.Extensions != nil && i < len(v.Headers) {
					continue // IPv6 headers and extensions have no checksum of their own
				}
				if Checksums(broken) == nil {
					t.Errorf("a changed byte %d goes unnoticed", i)
				}
			}
		})
	}
}
