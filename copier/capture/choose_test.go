package capture

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"testing"

	"flowtwin/internal/flow"
	"flowtwin/internal/packet"
)

// The copier decides again about packets that the filter cannot look into, and
// from other sources: were the two to differ, a flow would be copied in parts.
func TestFilterChoosesLikeShares(t *testing.T) {
	matches := []Match{match("10.0.0.2", 80), match("fd00::2", 80)}
	choices := []flow.Choice{
		{flow.Sampled(0)},
		{flow.Sampled(0.5)},
		{flow.Sampled(25)},
		{flow.Sampled(100)},
		{flow.Split(0, 3)},
		{flow.Split(1, 3)},
		{flow.Split(2, 3)},
		{flow.Split(1, 2), flow.Sampled(60)},
		{{Key: 1, From: 1 << 31, To: 1 << 31}},
		{{Key: 1, From: 1 << 32, To: 1 << 32}},
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for _, choice := range choices {
		prog := built(t, filterSpec{matches: matches, choice: choice})
		accepted(t, prog)
		took := 0
		for range 3000 {
			client, server := addrPort4(rng), "10.0.0.2:80"
			says := kernelSays{proto: etherIPv4}
			if rng.IntN(2) == 0 {
				client, server = addrPort6(rng), "[fd00::2]:80"
				says.proto = etherIPv6
			}
			addr := packet.AddrFrom(client.Addr())
			takes := choice.Takes(&addr, client.Port())
			want, wantOut := 0, 0
			if takes {
				want, wantOut = keepWhole, keepHeaders
				took++
			}
			in := pkt4(client.String(), server)
			if got := run(t, prog, says, in); got != want {
				t.Fatalf("%v, %v to the server: keeps %d bytes, want %d", choice, client, got, want)
			}
			tag := append(binary.BigEndian.AppendUint16([]byte{0, 100}, uint16(says.proto)), in...)
			if got := run(t, prog, kernelSays{proto: etherVLAN}, tag); got != want {
				t.Fatalf("%v, %v behind a second tag: keeps %d bytes, want %d", choice, client, got, want)
			}
			says.kind = typeOutgoing
			if got := run(t, prog, says, pkt4(server, client.String())); got != wantOut {
				t.Fatalf("%v, from the server to %v: keeps %d bytes, want %d", choice, client, got, wantOut)
			}
		}
		t.Logf("%v: %d of 3000", choice, took)
	}
}

// A container's packets come on the other ways, and its clients are the same.
func TestFilterChoosesForeign(t *testing.T) {
	matches := []Match{match("10.0.0.2", 80)}
	choice := flow.Choice{flow.Sampled(50)}
	prog := built(t, filterSpec{matches: matches, foreign: matches, choice: choice})
	rng := rand.New(rand.NewPCG(3, 4))
	for range 1000 {
		client := addrPort4(rng)
		addr := packet.AddrFrom(client.Addr())
		for kind, pkt := range map[uint32][]byte{
			typeOutgoing: pkt4(client.String(), "10.0.0.2:80"), typeHost: pkt4("10.0.0.2:80", client.String()),
		} {
			got := run(t, prog, kernelSays{kind: kind, proto: etherIPv4}, pkt) > 0
			if want := choice.Takes(&addr, client.Port()); got != want {
				t.Fatalf("%v, packet type %d: kept is %v, want %v", client, kind, got, want)
			}
		}
	}
}

// Extension headers hide the ports from the filter: the reader must decide the same.
func TestReaderChoosesAmongPortless(t *testing.T) {
	choice := flow.Choice{flow.Sampled(50)}
	var m matcher
	m.by.Store(&selection{matches: []Match{match("fd00::2", 80)}, choice: choice})
	rng := rand.New(rand.NewPCG(5, 6))
	took := 0
	for range 1000 {
		client := addrPort6(rng)
		addr := packet.AddrFrom(client.Addr())
		want := choice.Takes(&addr, client.Port())
		if want {
			took++
		}
		for _, toServer := range []bool{true, false} {
			pkt := pkt4(client.String(), "[fd00::2]:80")
			if !toServer {
				pkt = pkt4("[fd00::2]:80", client.String())
			}
			if got := m.wants(&Packet{Data: pkt, WireLen: len(pkt), ToServer: toServer}); got != want {
				t.Fatalf("%v, to the server %v: wanted is %v, want %v", client, toServer, got, want)
			}
		}
	}
	if took < 400 || took > 600 {
		t.Errorf("%d of 1000", took)
	}
}

func addrPort4(rng *rand.Rand) netip.AddrPort {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], rng.Uint32()|1)
	return netip.AddrPortFrom(netip.AddrFrom4(b), uint16(rng.IntN(65535)+1))
}

func addrPort6(rng *rand.Rand) netip.AddrPort {
	var b [16]byte
	for i := 0; i < len(b); i += 4 {
		binary.BigEndian.PutUint32(b[i:], rng.Uint32())
	}
	b[0] = 0xfd
	return netip.AddrPortFrom(netip.AddrFrom16(b), uint16(rng.IntN(65535)+1))
}
