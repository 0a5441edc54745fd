package replay

import (
	"testing"
	"time"

	"flowtwin/tunnel/frame"
)

// Where the online server closed first, the target must be able to: a client's FIN
// that is there before the target has come to close would turn the order round.
func TestSecondFinLeavesTheTargetTheFirst(t *testing.T) {
	const wait = DefaultMaxHold / 4
	for name, cfg := range map[string]Config{"gate": {}, "no gate": {GateOff: true}} {
		t.Run(name, func(t *testing.T) {
			r := connected(t, cfg)
			r.turn(0, "last")
			r.answer(10)
			r.ack()
			r.s.Fin(10, true, r.now)
			r.pass(wait - 1)
			r.want("Holding", "last")
			r.conn.fin = true
			r.s.News(r.now)
			r.conn.state = ConnFinished
			r.ack()
			r.account(frame.Closed{How: frame.ClosedTargetFirst, DeliveredBytes: 4, DeliveredSegments: 1, AnswerBytes: 10, Turns: 1})
		})
		t.Run(name+", target does not close", func(t *testing.T) {
			r := connected(t, cfg)
			r.turn(0, "last")
			r.answer(10)
			r.ack()
			r.s.Fin(10, true, r.now)
			r.pass(wait)
			r.want("Ending", "last")
			r.conn.fin, r.conn.state = true, ConnFinished
			r.ack()
			r.account(frame.Closed{How: frame.ClosedBoth, DeliveredBytes: 4, DeliveredSegments: 1, AnswerBytes: 10, Turns: 1})
		})
	}
	t.Run("from when it may leave", func(t *testing.T) {
		r := connected(t, Config{})
		r.turn(0, "last")
		r.s.Fin(10, true, r.now)
		r.pass(DefaultMaxHold / 2)
		r.answer(10)
		r.pass(wait - 1)
		r.want("Holding", "last")
		if at := r.sh.NextTimer(); at <= r.now {
			t.Errorf("looks again at %d, now is %d", at, r.now)
		}
		r.pass(1)
		r.want("Ending", "last")
	})
	t.Run("a reset overtakes it", func(t *testing.T) {
		r := connected(t, Config{})
		r.s.Fin(0, true, r.now)
		r.s.Reset(0, r.now)
		r.pass(time.Millisecond)
		r.account(frame.Closed{How: frame.ClosedClientReset})
	})
}
