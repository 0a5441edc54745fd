package replay

import "testing"

// A server gives up what it does for a client that is gone. Where the target takes
// seconds for what took none online, the client's end must not be there before the answer.
// Nor where the gate is off since none of its answers come in time; but in a protocol
// without turns it need not wait so long.
func TestEndWaitsLongerForTheAnswer(t *testing.T) {
	for name, end := range map[string]func(r *rig){
		"fin":        func(r *rig) { r.s.Fin(100, false, r.now) },
		"second fin": func(r *rig) { r.s.Fin(100, true, r.now) },
		"reset":      func(r *rig) { r.s.Reset(100, r.now) },
	} {
		r := connected(t, Config{})
		left := func() bool { return r.conn.closed || r.conn.aborted }
		r.turn(0, "request")
		r.ack()
		end(r)
		r.pass(9 * DefaultMaxHold)
		if left() {
			t.Errorf("%s: it left before the answer", name)
		}
		r.answer(100)
		r.pass(DefaultMaxHold / 4)
		if !left() {
			t.Errorf("%s: it is held behind the answer", name)
		}

		r = connected(t, Config{})
		r.s.Ungate()
		r.turn(0, "request")
		r.ack()
		end(r)
		r.pass(9 * DefaultMaxHold)
		if left() {
			t.Errorf("%s: it left before the answer of a target that takes long for all", name)
		}

		r = connected(t, Config{})
		r.turn(0, preface)
		r.answer(50)
		r.turn(50, "settings")
		r.ack()
		end(r)
		r.pass(DefaultMaxHold)
		r.pass(DefaultMaxHold / 4)
		if !left() {
			t.Errorf("%s: it waits for a target that says what it likes", name)
		}
	}
}

// Where the target takes longer than max-hold for each answer, turns leave before them.
// The client's end is behind all of them.
func TestEndWaitsForTheAnswersOfASlowTarget(t *testing.T) {
	for holds := 2; holds < 5; holds++ { // for an answer
		r := connected(t, Config{})
		r.turn(0, "r")
		for range 4 {
			r.turn(100, "r")
		}
		r.s.Fin(r.seen+100, false, r.now)
		for k := range 5 {
			if r.conn.closed {
				t.Fatalf("%d: the end is there before answer %d of 5", holds, k+1)
			}
			for range holds {
				r.ack()
				r.pass(DefaultMaxHold)
			}
			r.answer(100)
			r.pass(DefaultMaxHold / 2)
		}
		if !r.conn.closed || string(r.conn.got) != "rrrrr" {
			t.Errorf("%d: target got %q, its end: %v", holds, r.conn.got, r.conn.closed)
		}
	}
}
