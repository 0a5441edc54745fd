package replay

import (
	"slices"
	"strings"
	"testing"
)

func TestSniffer(t *testing.T) {
	for name, tt := range map[string]struct {
		segments   []string
		http2, tls bool
	}{
		"HTTP/1":                    {[]string{"GET / HTTP/1.1\r\n"}, false, false},
		"HTTP/2":                    {[]string{preface + "\x00\x00\x00\x04"}, true, false},
		"HTTP/2 in small segments":  {[]string{"P", "RI * HTTP/2.0\r\n", "\r\nSM\r\n", "\r\n\x00"}, true, false},
		"almost HTTP/2":             {[]string{"PRI * HTTP/2.0\r\n\r\nSM\r\nX", preface}, false, false},
		"HTTP/2 in the middle":      {[]string{"*1\r\n", preface}, false, false},
		"TLS":                       {[]string{"\x16\x03\x01\x02\x00\x01"}, false, true},
		"TLS in the middle":         {[]string{"*1\r\n", "\x16\x03\x01"}, false, false},
		"one byte that may be TLS":  {[]string{"\x16", "\x03\x01"}, false, false},
		"nothing":                   {nil, false, false},
		"the preface and nothing":   {[]string{preface}, true, false},
		"something behind HTTP/2":   {[]string{preface, "\x16\x03\x01"}, true, false},
		"a preface that is not all": {[]string{preface[:20]}, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			var f sniffer
			for _, p := range tt.segments {
				f.look([]byte(p))
			}
			if f.http2 != tt.http2 || f.tls != tt.tls {
				t.Errorf("%+v", f)
			}
		})
	}
}

func TestPings(t *testing.T) {
	frame := func(kind, flags byte, n int) string {
		return string([]byte{0, byte(n >> 8), byte(n), kind, flags, 0, 0, 0, 0}) + strings.Repeat("\x06", n)
	}
	ping, ack, data := frame(typePing, 0, 8), frame(typePing, flagAck, 8), frame(0, 0, 1000)
	for name, tt := range map[string]struct {
		segments []string
		want     []bool
	}{
		"alone":                  {[]string{data, ping, data}, []bool{false, true, false}},
		"an answer is none":      {[]string{data + ack + data}, []bool{false}},
		"behind others":          {[]string{data + ack + ping}, []bool{true}},
		"in pieces":              {[]string{data + ping[:3], ping[3:8], ping[8:] + data}, []bool{false, false, true}},
		"what looks like it":     {[]string{frame(0, 0, 60) + data[:500], data[500:800], data[800:] + data}, []bool{false, false, false}},
		"empty frames around it": {[]string{frame(4, 1, 0) + ping + frame(4, 1, 0)}, []bool{true}},
	} {
		t.Run(name, func(t *testing.T) {
			var f sniffer
			f.look([]byte(preface))
			for i, p := range tt.segments {
				if got := f.look([]byte(p)); got != tt.want[i] {
					t.Errorf("segment %d: %v", i, got)
				}
			}
		})
	}
}

// A gate that stays on where nobody waits for answers makes the copy late; one that
// goes off too early lets the client speak before the target is ready.
func TestGateGoesOffByItself(t *testing.T) {
	const ping = "\x00\x00\x08\x06\x00\x00\x00\x00\x00pingping"
	const data = "\x00\x00\x02\x00\x00\x00\x00\x00\x01ab"
	upgrade := "GET /chat HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nupgrade: websocket\r\n\r\n"
	for name, tt := range map[string]struct {
		run  func(r *rig)
		want []GateNews
	}{
		"HTTP/2 when the target has spoken": {func(r *rig) {
			r.turn(0, preface)
			r.turn(30, "settings, acknowledged")
			r.want("Holding", preface)
			r.answer(30)
			r.turn(500, "a")
			r.turn(500, "b")
			r.want("Sending", preface+"settings, acknowledged"+"ab")
		}, []GateNews{GateHTTP2}},
		"and a ping waits for data of the target": {func(r *rig) {
			h2 := "\x00\x00\x00\x04\x01\x00\x00\x00\x00"
			r.turn(0, preface)
			r.answer(30)
			r.turn(30, h2)
			r.turn(500, h2)
			r.turn(500, ping+data)
			r.turn(500, ping)
			r.turn(500, h2)
			r.want("Holding", preface+h2+h2)
			r.answer(17 + 17) // it might be an acknowledgement, and a ping of its own
			r.pass(10 * DefaultSettle)
			r.want("Holding", preface+h2+h2)
			r.answer(1)
			r.want("Holding", preface+h2+h2+ping+data)
			r.answer(17 + 17 + 13 + 13) // and window updates for the data
			r.pass(10 * DefaultSettle)
			r.want("Holding", preface+h2+h2+ping+data)
			r.answer(1)
			r.want("Sending", preface+h2+h2+ping+data+ping+h2)
		}, []GateNews{GateHTTP2}},
		"WebSocket behind the answer": {func(r *rig) {
			r.turn(0, upgrade)
			r.turn(100, "\x81first")
			r.want("Holding", upgrade)
			r.answer(100)
			r.turn(100, "\x81second")
			r.turn(100, "\x81third")
			r.want("Sending", upgrade+"\x81first\x81second\x81third")
		}, []GateNews{GateUpgraded}},
		"not where the upgrade was refused": {func(r *rig) {
			r.turn(0, upgrade)
			r.answer(100)
			r.turn(100, "GET /")
			r.turn(100, "GET /2")
			r.want("Holding", upgrade+"GET /")
		}, nil},
		"HTTP/2 by upgrade": {func(r *rig) {
			r.turn(0, upgrade)
			r.answer(100)
			r.turn(100, preface)
			r.turn(100, "settings")
			r.want("Holding", upgrade+preface)
			r.answer(100)
			r.turn(100, "a")
			r.want("Sending", upgrade+preface+"settingsa")
		}, []GateNews{GateHTTP2}},
		"where no turn is answered": {func(r *rig) {
			for range lateTurns + 1 {
				r.turn(10, "x")
			}
			for range lateTurns {
				r.ack()
				r.pass(DefaultMaxHold)
			}
			r.turn(10, "y")
			r.want("Sending", "xxxxy")
		}, []GateNews{GateWorks, GateLate}},
		"not where the target is away": {func(r *rig) {
			r.turn(0, "x")
			r.ack()
			for range 4 * lateTurns {
				r.turn(10, "x")
				r.pass(DefaultMaxHold)
			}
			r.ack()
			r.answer(10 * 4 * lateTurns)
			r.turn(10, "y")
			r.turn(10, "z")
			r.want("Holding", strings.Repeat("x", 1+4*lateTurns)+"y")
		}, []GateNews{GateWorks}},
		"not where some are": {func(r *rig) {
			r.turn(0, "x")
			for range 4 * lateTurns {
				for range lateTurns - 1 {
					r.ack()
					r.turn(10, "x")
					r.pass(DefaultMaxHold)
				}
				r.turn(10, "x")
				r.pass(DefaultMaxHold / 2)
				r.answer(1000)
				r.pass(DefaultMaxHold / 2)
			}
			r.turn(10_000, "y")
			r.want("Holding", strings.Repeat("x", len(r.conn.got)))
		}, []GateNews{GateWorks, GateAnswers}},
		"not where all are, which is told once": {func(r *rig) {
			for range 4 * answeredTurns {
				r.turn(10, "x")
				r.answer(10)
			}
			r.turn(10, "x")
			r.turn(10, "y")
			r.want("Holding", strings.Repeat("x", len(r.conn.got)))
		}, []GateNews{GateWorks, GateAnswers}},
	} {
		t.Run(name, func(t *testing.T) {
			r := connected(t, Config{})
			tt.run(r)
			if !slices.Equal(r.log.news, tt.want) {
				t.Errorf("news %v, want %v", r.log.news, tt.want)
			}
		})
	}
}

// A target that was slow for a while must not be sent a kept connection's requests
// ahead of its answers for the rest of it.
func TestGateIsOnAgain(t *testing.T) {
	slow := func(r *rig) {
		r.turn(0, "x")
		for range lateTurns + 1 {
			r.ack()
			r.turn(10, "x")
			r.pass(DefaultMaxHold)
		}
	}
	// spoken has the target answer n turns after they have left.
	spoken := func(r *rig, n int) {
		for range n {
			r.turn(10, "x")
			r.answer(10)
		}
	}
	free := func(r *rig) bool {
		before := len(r.conn.got)
		r.turn(10, "y")
		r.turn(10, "z")
		left := len(r.conn.got) - before
		r.answer(20)
		r.pass(DefaultMaxHold)
		return left == 2
	}
	for name, tt := range map[string]struct {
		begin func(r *rig)
		again int // turns from which on it is on
		news  []GateNews
	}{
		"its turns were late":     {slow, heardTurns - 1, []GateNews{GateWorks, GateLate}},
		"those of others were":    {func(r *rig) { r.s.Ungate(); r.turn(0, "x") }, heardTurns - 1, nil},
		"it was late again":       {func(r *rig) { slow(r); spoken(r, heardTurns+1); slow(r) }, 2*heardTurns - 1, []GateNews{GateWorks, GateLate}},
		"what it speaks is known": {func(r *rig) { r.s.Ungate(); r.turn(0, preface) }, 1 << 20, nil},
		"it is upgraded": {func(r *rig) {
			r.s.Ungate()
			r.turn(0, "GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\n\r\n")
			r.turn(10, "\x81x")
		}, 1 << 20, nil},
	} {
		t.Run(name, func(t *testing.T) {
			const most = 100
			for n := range most {
				r := connected(t, Config{})
				tt.begin(r)
				r.answer(10)
				spoken(r, n)
				if got, want := free(r), n < tt.again; got != want {
					t.Fatalf("off %v behind %d turns, want %v", got, n, want)
				}
				if !slices.Equal(r.log.news, tt.news) {
					t.Fatalf("news %v, want %v", r.log.news, tt.news)
				}
			}
		})
	}
}

// What is written last may not be cut off by the client's end, whatever the gate.
func TestEndWaitsWithoutTheGate(t *testing.T) {
	r := connected(t, Config{})
	r.turn(0, preface)
	r.answer(30)
	r.turn(30, "request")
	r.turn(500, "another")
	r.s.Fin(1000, false, r.now)
	r.want("Holding", preface+"requestanother")
	r.answer(970)
	r.want("Ending", preface+"requestanother")
}
