package replay

import "testing"

// A server gives up what it does for a client that is gone. Where the target takes
// seconds for what took none online, the client's end must not be there before the answer.
// It need not wait so long where the target is known not to answer in turns.
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
		r.turn(0, "event")
		r.ack()
		end(r)
		r.pass(DefaultMaxHold)
		r.pass(DefaultMaxHold / 4)
		if !left() {
			t.Errorf("%s: it waits for a target that does not answer", name)
		}
	}
}

// Where the target takes longer than max-hold for each answer, turns leave before them.
// The client's end is behind all of them.
func TestEndWaitsForTheAnswersOfASlowTarget(t *testing.T) {
	r := connected(t, Config{})
	r.turn(0, "r")
	for range 4 {
		r.turn(100, "r")
	}
	r.s.Fin(r.seen+100, false, r.now)
	for k := range 5 {
		if r.conn.closed {
			t.Fatalf("the end is there before answer %d of 5", k+1)
		}
		for range 3 {
			r.ack()
			r.pass(DefaultMaxHold)
		}
		r.answer(100)
		r.pass(DefaultMaxHold / 2)
	}
	if !r.conn.closed || string(r.conn.got) != "rrrrr" {
		t.Errorf("target got %q, its end: %v", r.conn.got, r.conn.closed)
	}
}
