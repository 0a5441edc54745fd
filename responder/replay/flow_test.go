package replay

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"flowtwin/internal/flow"
	"flowtwin/internal/packet"
)

// A piece is a segment of a client's stream.
type piece struct {
	from, to int
	seen     uint64
}

// A talk is what a client sends, in turns, and what becomes of it on its way.
type talk struct {
	*rand.Rand
	stream []byte
	turns  []int
	pieces []piece
}

// newTalk makes turns, each after some more bytes of answers, cut into segments.
func newTalk(rng *rand.Rand) *talk {
	k := &talk{Rand: rng}
	seen := uint64(0)
	for range 1 + rng.IntN(12) {
		at := len(k.stream)
		k.turns = append(k.turns, at)
		for range 1 + rng.IntN(3000) {
			k.stream = append(k.stream, byte(rng.Uint32()))
		}
		for from := at; from < len(k.stream); {
			to := min(from+1+rng.IntN(1400), len(k.stream))
			k.pieces = append(k.pieces, piece{from, to, seen})
			if rng.IntN(8) == 0 { // sent again, cut otherwise
				k.pieces = append(k.pieces, piece{at + rng.IntN(to-at), to, seen})
			}
			from = to
		}
		seen += 1 + rng.Uint64N(3000)
	}
	return k
}

// disturb repeats, swaps and loses segments.
func (k *talk) disturb(loses bool) {
	for i := range k.pieces {
		switch k.IntN(10) {
		case 0:
			j := min(i+1+k.IntN(5), len(k.pieces)-1)
			k.pieces[i], k.pieces[j] = k.pieces[j], k.pieces[i]
		case 1:
			k.pieces = slices.Insert(k.pieces, i, k.pieces[i])
		}
	}
	if loses {
		i := k.IntN(len(k.pieces))
		k.pieces = slices.Delete(k.pieces, i, i+1)
	}
}

// through plays the talk: the assembler puts the segments in order, the gate and the
// session pass them on, and between them the target does what it likes.
func (m *model) through(k *talk) {
	iss := packet.Seq(k.Uint32())
	st := flow.NewStore(1 << 20)
	var asm flow.Assembler
	asm.Start(iss)
	given := func(b []byte, seen uint64) {
		if !m.ended {
			m.give(seen-m.seen, b)
		}
	}
	offered, passed := 0, 0
	for _, p := range k.pieces {
		b := slices.Clone(k.stream[p.from:p.to])
		offered += len(b)
		fresh, v := asm.Add(st, iss.Add(p.from), b, flow.Meta{Seen: p.seen})
		if v == flow.InOrder {
			passed += len(fresh)
			given(slices.Clone(fresh), p.seen)
		}
		for b, meta, ok := asm.Pop(st); ok; b, meta, ok = asm.Pop(st) {
			passed += len(b)
			given(slices.Clone(b), meta.Seen)
		}
		for range k.IntN(4) {
			if op := byte(5 + k.IntN(11)); op < 13 || op == 15 && k.IntN(10) == 0 {
				m.step(op, byte(k.Uint32()))
			}
		}
	}
	_, left := asm.Drop(st)
	if passed+left+int(st.Tally().OldBytes) != offered {
		m.t.Errorf("%d bytes offered, %d passed on, %d left, %d known", offered, passed, left, st.Tally().OldBytes)
	}
	if !m.ended && passed < len(k.stream) {
		m.s.Abort(m.now) // the rest was never captured
		m.ended = true
	}
	if !bytes.HasPrefix(k.stream, m.sent) || !m.ended && len(m.sent) != len(k.stream) {
		m.t.Errorf("the session was given %d bytes, which are not how the client's %d begin", len(m.sent), len(k.stream))
	}
	for _, at := range m.turns {
		if at >= uint64(len(m.sent)) || slices.Contains(k.turns, int(at)) {
			continue
		}
		if len(k.turns) > 1 && int(at) > k.turns[1] { // in the first one, pauses begin others
			m.t.Errorf("a turn seems to begin at %d, client's begin at %d", at, k.turns)
		}
	}
}

// Flow, gate and session together: however what a client sends is cut, repeated, lost
// and put out of order on its way, and however early the target closes, its
// connections get, in order and each once, what the client sent from its beginning or
// that of a turn on, and all of it is accounted for.
func TestFlowGateReplay(t *testing.T) {
	reconnects, exact := uint64(0), 0
	for seed := range uint64(4000) {
		rng := rand.New(rand.NewPCG(seed, 9))
		k := newTalk(rng)
		k.disturb(seed%4 == 0)
		cfg := Config{SessionBytes: 256 << 10, GateOff: seed%5 == 0, Reconnect: seed%3 > 0}
		m := &model{rig: newRig(t, cfg)}
		m.dialed, m.log.redial = []*fakeConn{m.conn}, m.redial
		m.conn.room = 1000
		m.step(11, 0)
		m.through(k)
		for range 40 { // the target takes and acknowledges what there is
			m.target(func() { m.conn.room = 1 << 20 })
			m.target(func() { m.conn.acked = uint64(len(m.conn.got)) })
			m.pass(2 * time.Second)
		}
		m.settle(3)
		m.check()
		reconnects += m.log.closed[0].Reconnects
		if m.log.closed[0].DeliveredBytes == uint64(len(k.stream)) {
			exact++
		}
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	if reconnects < 100 || exact < 100 {
		t.Errorf("%d reconnects, %d arrived whole", reconnects, exact)
	}
}
