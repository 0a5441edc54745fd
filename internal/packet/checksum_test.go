package packet_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"flowtwin/internal/packet"
	"flowtwin/internal/packet/packettest"
)

// Packets of any length are right as built, and wrong with any bit turned.
func TestChecksum(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	ends := [][2]string{{"10.0.0.1:80", "192.0.2.7:40000"}, {"[2001:db8::1]:80", "[2001:db8::2]:1"}}
	for n := range 400 {
		for _, e := range ends {
			p := packettest.Packet{
				Src: netip.MustParseAddrPort(e[0]), Dst: netip.MustParseAddrPort(e[1]), Flags: packet.ACK,
				Seq: packet.Seq(rnd.Uint32()), Ack: packet.Seq(rnd.Uint32()), Payload: make([]byte, n),
			}
			if n%2 == 1 {
				p.Options = packettest.Timestamps(rnd.Uint32(), rnd.Uint32())
			}
			for i := range p.Payload {
				p.Payload[i] = byte(rnd.Uint32() >> (8 * (n % 3))) // all ones among them
			}
			b := p.Bytes()
			var v packet.View
			if f := v.Parse(b, len(b)); f != packet.OK || !v.ChecksumOK() {
				t.Fatalf("%d bytes from %s: a right checksum is refused (%v)", n, e[0], f)
			}
			at := len(v.Headers) - len(v.Options) - 20
			bit := rnd.IntN(8 * (len(b) - at))
			if at*8+bit >= 8*(at+12) && at*8+bit < 8*(at+13) {
				continue // the header's length
			}
			b[at+bit/8] ^= 1 << (bit % 8)
			if v.Parse(b, len(b)); v.ChecksumOK() {
				t.Fatalf("%d bytes from %s: bit %d is turned and nobody sees it", n, e[0], bit)
			}
		}
	}
}

func BenchmarkChecksum(b *testing.B) {
	for _, n := range []int{100, 1448, 60_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			p := packettest.Packet{
				Src: netip.MustParseAddrPort("10.0.0.1:80"), Dst: netip.MustParseAddrPort("192.0.2.7:40000"),
				Options: packettest.Timestamps(1, 2), Payload: make([]byte, n),
			}.Bytes()
			var v packet.View
			v.Parse(p, len(p))
			b.SetBytes(int64(n))
			for b.Loop() {
				if !v.ChecksumOK() {
					b.Fatal("wrong")
				}
			}
		})
	}
}
