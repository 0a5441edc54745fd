package tunnel

import (
	"encoding/hex"
	"net/netip"
	"os"
	"strings"
	"testing"
)

// What PROTOCOL.md shows is what is on the wire.
func TestProtocolExamples(t *testing.T) {
	doc, err := os.ReadFile("PROTOCOL.md")
	if err != nil {
		t.Fatal(err)
	}
	control := func(typ controlType, msg any) string {
		b, err := appendControl(nil, typ, msg)
		if err != nil {
			t.Fatal(err)
		}
		return hex.EncodeToString(b[:controlHeader]) + string(b[controlHeader:])
	}
	session := []byte("0123456789abcdef")
	examples := map[string]string{
		"Invite":   exampleInvite().String(),
		"Preamble": hex.EncodeToString(preamble(5)),
		"Proof":    control(controlProof, proofMsg{Versions: protocolVersions(), Proof: make([]byte, 32)}),
		"Proved":   control(controlProved, proofMsg{Version: 1, Proof: make([]byte, 32)}),
		"Hello": control(controlHello, helloMsg{
			Name: "online1", Version: "v1.0", Lanes: 2, Connections: 1, Maps: testMaps(),
		}),
		"Welcome": control(controlWelcome, welcomeMsg{Session: session}),
		"Join":    control(controlJoin, joinMsg{Session: session, Index: 1}),
		"Ping":    control(controlPing, clockMsg{T0: 1_700_000_000_000_000_000}),
		"Pong":    control(controlPong, clockMsg{T0: 1_700_000_000_000_000_000, T1: 1_700_000_000_000_250_000}),
		"Maps": control(controlMaps, mapsMsg{Maps: append(testMaps(), Map{
			Port: 81, Target: netip.MustParseAddrPort("192.0.2.1:81"),
		})}),
		"Mapped": control(controlMapped, answerMsg{}),
		"Rates":  control(controlRates, ratesMsg{Rates: Rates{Connections: 100, Bytes: 1e6}}),
		"Rated":  control(controlRated, answerMsg{}),
	}
	for name, want := range examples {
		_, after, ok := strings.Cut(string(doc), "<!-- example "+name+" -->\n```\n")
		text, _, _ := strings.Cut(after, "```")
		if got := strings.Join(strings.Fields(text), ""); !ok || got != want {
			t.Errorf("PROTOCOL.md's example of %s is\n%s\nwant\n%s", name, got, want)
		}
	}
}
