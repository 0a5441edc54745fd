package replay

import (
	"strings"
	"testing"
	"time"
)

// h2Rig is a session of HTTP/2 whose gate is off.
func h2Rig(t *testing.T) *rig {
	t.Helper()
	r := connected(t, Config{})
	r.turn(0, preface)
	r.answer(30)
	r.turn(30, "s")
	return r
}

// A target that is slower than the online server is not asked for all that its
// clients ask for meanwhile, and one that keeps up waits for nothing.
func TestTargetIsNotAskedForMoreAndMore(t *testing.T) {
	for name, tt := range map[string]struct {
		run  func(r *rig)
		want string
	}{
		"within the slack": {func(r *rig) {
			r.turn(paceSlack/2, "a")
			r.turn(paceSlack/2, "b")
		}, "Sending ab"},
		"behind it": {func(r *rig) {
			r.turn(paceSlack, "a")
			r.turn(paceStep, "b")
			r.turn(1, "c")
		}, "Holding a"},
		"until the target has come closer": {func(r *rig) {
			r.turn(3*paceSlack, "a")
			r.answer(paceSlack)
			r.want("Holding", preface+"s")
			r.answer(paceSlack)
		}, "Sending a"},
		"a target that keeps up": {func(r *rig) {
			for range 100 {
				r.turn(2*paceStep, "x")
				r.answer(2 * paceStep)
			}
		}, "Sending " + strings.Repeat("x", 100)},
		"a pause is no end": {func(r *rig) {
			r.turn(3*paceSlack, "a")
			r.answer(10)
			r.pass(20 * DefaultSettle)
		}, "Holding "},
		"shorter answers hold for a while, and less often": {func(r *rig) {
			r.turn(3*paceSlack, "a")
			r.answer(10)
			r.pass(time.Second)
			r.want("Sending", preface+"sa")
			r.turn(paceSlack*paceGrows, "b")
			r.want("Sending", preface+"sab")
			r.turn(paceStep, "c")
		}, "Holding ab"},
		"a target that says nothing": {func(r *rig) {
			r.turn(3*paceSlack, "a")
			r.pass(2 * DefaultMaxHold)
		}, "Sending a"},
	} {
		t.Run(name, func(t *testing.T) {
			r := h2Rig(t)
			tt.run(r)
			if got := r.s.State() + " " + string(r.conn.got[len(preface)+1:]); got != tt.want {
				t.Errorf("%s, want %s", got, tt.want)
			}
			if len(r.log.news) != 1 || r.log.news[0] != GateHTTP2 {
				t.Errorf("news %v", r.log.news)
			}
		})
	}
}

// Each ping must leave as soon as the target will not mind it: held until its answers
// are as long as online, or until it is quiet, a busy target whose answers are shorter
// would fall behind without end. And pace goes on.
func TestPingsAreNotHeldForShortAnswers(t *testing.T) {
	const request = "\x00\x00\x08\x06\x00\x00\x00\x00\x00pingping\x00\x00\x02\x00\x00\x00\x00\x00\x01ab"
	r := connected(t, Config{})
	r.turn(0, preface)
	r.answer(30)
	r.turn(30, "\x00\x00\x00\x04\x01\x00\x00\x00\x00")
	r.answer(100)
	for n := range 20 {
		r.turn(100, request)
		if r.s.State() != "Sending" {
			t.Fatalf("request %d: %s", n, r.s.State())
		}
		r.answer(70)
		r.pass(time.Millisecond)
	}
	r.turn(10*paceSlack, request)
	if r.s.State() != "Holding" {
		t.Errorf("far behind: %s", r.s.State())
	}
}
