package replay

import (
	"math/rand/v2"
	"testing"
	"time"

	"flowtwin/tunnel/frame"
)

// A server answers requests one after the other, in pieces with pauses. Its client
// has its requests ready: online it had the answers sooner.
type server struct {
	*rig
}

// serve has the target answer request k in the given pieces, after thinking for a
// while; pauses[i] follows piece i. It returns how many requests the target has got
// at the end that it should not have yet.
func (v *server) serve(k int, think time.Duration, pieces []int, pauses []time.Duration) (early int) {
	v.pass(think)
	early = len(v.conn.got) - (k + 1)
	for i, n := range pieces {
		v.answer(n)
		if i < len(pieces)-1 {
			v.pass(pauses[i])
			early = max(early, len(v.conn.got)-(k+1))
		}
	}
	return early
}

func newServer(t *testing.T, online, requests int) *server {
	t.Helper()
	v := &server{connected(t, Config{})}
	for k := range requests {
		v.s.Data(&frame.Data{Seen: uint64(k * online), Time: v.now, Payload: []byte{byte('a' + k%26)}}, v.now)
	}
	return v
}

// cut cuts n bytes into count pieces at random.
func cut(rng *rand.Rand, n, count int) (pieces []int) {
	for ; count > 1 && n > 1; count-- {
		p := 1 + rng.IntN(n-1)
		pieces, n = append(pieces, p), n-p
	}
	return append(pieces, n)
}

// One pause of the target must not put the rest of the connection out of step.
func TestOnePauseCostsOneTurn(t *testing.T) {
	const size, requests = 5000, 30
	for pausedAt := range 5 {
		v := newServer(t, size, requests)
		for k := range requests {
			pause := time.Millisecond
			if k == pausedAt {
				pause = 8 * time.Millisecond
			}
			early := v.serve(k, 20*time.Millisecond, []int{200, 4800}, []time.Duration{pause})
			if most := count(k == pausedAt || k == pausedAt+1); early > most {
				t.Errorf("paused in answer %d: %d requests before answer %d was complete", pausedAt, early, k)
			}
		}
		if v.s.heldMax != 0 {
			t.Errorf("%d turns were released by max-hold", v.s.heldMax)
		}
	}
}

// Far from the target an answer comes in rounds: the time between two of them must
// not pass for its end.
func TestAnswersInRounds(t *testing.T) {
	const size, requests = 50_000, 10
	for _, far := range []time.Duration{50 * time.Millisecond, 200 * time.Millisecond} {
		v := newServer(t, size, requests)
		v.s.SetRTT(far)
		for k := range requests {
			if early := v.serve(k, far, []int{14_000, 28_000, 8_000}, []time.Duration{far, far + 40*time.Millisecond}); early > 0 {
				t.Errorf("%v away: %d requests before answer %d was complete", far, early, k)
			}
		}
		if v.s.heldMax != 0 || v.s.Settled() != 0 {
			t.Errorf("%v away: %d turns were released by max-hold, %d by the settle time", far, v.s.heldMax, v.s.Settled())
		}
	}
}

// Whatever the target's pauses, a request is early only when the answer before it
// paused: nothing is carried on.
func TestPausesAreNotCarriedOn(t *testing.T) {
	for seed := range uint64(500) {
		rng := rand.New(rand.NewPCG(seed, 1))
		size, requests := 500+rng.IntN(9000), 40
		v := newServer(t, size, requests)
		paused := false // the answer before
		for k := range requests {
			pieces := cut(rng, size, 1+rng.IntN(4))
			pauses := make([]time.Duration, len(pieces))
			for i := range pauses {
				pauses[i] = time.Duration(rng.Int64N(int64(DefaultSettle)))
			}
			now := rng.IntN(3) == 0 && len(pieces) > 1
			if now {
				pauses[rng.IntN(len(pieces)-1)] = DefaultSettle + time.Duration(rng.Int64N(int64(50*time.Millisecond)))
			}
			think := time.Duration(rng.Int64N(int64(200 * time.Millisecond)))
			early := v.serve(k, think, pieces, pauses)
			if most := count(now) + count(paused); early > most {
				t.Fatalf("seed %d: %d requests before answer %d was complete", seed, early, k)
			}
			paused = now
		}
		if v.s.heldMax != 0 || len(v.conn.got) != requests {
			t.Fatalf("seed %d: target got %d of %d, %d by max-hold", seed, len(v.conn.got), requests, v.s.heldMax)
		}
	}
}

// Answers of other length than online must not cost more than the settle time for
// a turn.
func TestAnswersOfOtherLength(t *testing.T) {
	const requests = 60
	for name, tt := range map[string]struct {
		target        func(k int) int
		settled, held uint64 // at most
	}{
		"a little shorter": {func(int) int { return 993 }, requests, 0},
		"much shorter":     {func(int) int { return 40 }, requests, 0},
		"one byte":         {func(int) int { return 1 }, requests, 0},
		"exactly half":     {func(int) int { return 500 }, requests, 1}, // not more for more requests
		"one shorter":      {func(k int) int { return 1000 - 100*count(k == 5) }, 2, 0},
		"alternating":      {func(k int) int { return 900 + 200*(k%2) }, requests, 0},
		"a little longer":  {func(int) int { return 1007 }, 0, 0},
		"much longer":      {func(int) int { return 20_000 }, 0, 0},
		"shorter at last":  {func(k int) int { return 3000 - 2900*count(k > 20) }, 40, 0},
		"ever shorter":     {func(k int) int { return max(1, 2000-40*k) }, requests, 0},
	} {
		t.Run(name, func(t *testing.T) {
			v := newServer(t, 1000, requests)
			begun := v.now
			for k := range requests {
				if len(v.conn.got) <= k {
					v.pass(DefaultMaxHold)
				}
				v.answer(tt.target(k))
				v.pass(2 * DefaultSettle)
			}
			if len(v.conn.got) != requests || v.s.Settled() > tt.settled || v.s.heldMax > tt.held {
				t.Errorf("target got %d of %d in %v, %d by settle time, %d by max-hold", len(v.conn.got), requests,
					time.Duration(v.now-begun), v.s.Settled(), v.s.heldMax)
			}
		})
	}
}

func count(b bool) int {
	if b {
		return 1
	}
	return 0
}

func TestGate(t *testing.T) {
	t.Run("same turn leaves at once", func(t *testing.T) {
		r := connected(t, Config{})
		r.turn(0, "a")
		r.turn(0, "b")
		r.want("Sending", "ab")
	})
	t.Run("next turn waits for as many bytes as online", func(t *testing.T) {
		r := connected(t, Config{})
		r.turn(0, "a")
		r.turn(100, "b")
		r.turn(0, "c")
		r.want("Holding", "a")
		r.answer(99)
		r.want("Holding", "a")
		r.answer(1)
		r.want("Sending", "abc")
	})
	t.Run("shorter answer: after the settle time", func(t *testing.T) {
		r := connected(t, Config{})
		r.turn(0, "a")
		r.turn(100, "b")
		r.answer(40)
		r.pass(DefaultSettle - 1)
		r.answer(1) // still going on
		r.pass(DefaultSettle - 1)
		r.want("Holding", "a")
		r.pass(1)
		r.want("Sending", "ab")
		// Was it a pause? An answer that does not pay what is missing tells, and from
		// then on one of equal length needs no wait.
		r.turn(100, "c")
		r.answer(100)
		r.want("Holding", "ab")
		r.pass(DefaultSettle)
		r.want("Sending", "abc")
		r.turn(100, "d")
		r.answer(100)
		r.want("Sending", "abcd")
		if r.s.Settled() != 2 || r.s.heldMax != 0 {
			t.Errorf("settled %d, held %d; want 2, 0", r.s.Settled(), r.s.heldMax)
		}
	})
	t.Run("longer answers do not add up to an open gate", func(t *testing.T) {
		r := connected(t, Config{})
		r.turn(0, "a")
		r.answer(250)
		r.pass(10 * time.Millisecond)
		r.turn(100, "b")
		r.turn(100, "c")
		r.want("Holding", "ab")
	})
	t.Run("no answer: max-hold, counted", func(t *testing.T) {
		r := connected(t, Config{})
		r.turn(0, "a")
		r.turn(100, "b")
		r.pass(DefaultMaxHold - 1)
		r.want("Holding", "a")
		r.pass(1)
		r.want("Sending", "ab")
		if r.s.heldMax != 1 || r.s.turnCount != 2 {
			t.Errorf("held %d of %d turns, want 1 of 2", r.s.heldMax, r.s.turnCount)
		}
	})
	t.Run("greeting first", func(t *testing.T) {
		r := connected(t, Config{})
		r.turn(30, "EHLO")
		r.want("Holding", "")
		r.answer(30)
		r.want("Sending", "EHLO")
	})
	t.Run("a pipelined client", func(t *testing.T) {
		r := connected(t, Config{})
		r.turn(0, "abc")
		r.turn(50, "d") // had read part of the answers
		r.answer(100)
		r.want("Sending", "abcd")
		r.turn(50, "e")
		r.want("Sending", "abcde")
	})
	t.Run("off", func(t *testing.T) {
		r := connected(t, Config{GateOff: true})
		r.turn(0, "a")
		r.turn(100, "b")
		r.want("Sending", "ab")
	})
	t.Run("turns of which it is not known what was seen", func(t *testing.T) {
		unknown := func(r *rig, p string) {
			r.s.Data(&frame.Data{Seen: SeenUnknown, Time: r.now, Payload: []byte(p)}, r.now)
		}
		r := connected(t, Config{})
		r.turn(0, "a")
		unknown(r, "b")
		r.want("Holding", "a")
		r.answer(5)
		r.want("Holding", "a")
		r.pass(2 * DefaultSettle)
		r.want("Sending", "ab")
		unknown(r, "c")
		r.want("Holding", "ab")
		r.answer(7)
		r.pass(2 * DefaultSettle)
		r.want("Sending", "abc")
		r.turn(0, "d") // nothing was seen that is known of
		r.want("Sending", "abcd")
		r.turn(10, "e")
		r.want("Holding", "abcd")
		r.answer(10)
		r.want("Sending", "abcde")
		if r.s.heldMax != 0 {
			t.Errorf("%d turns left because max-hold had passed", r.s.heldMax)
		}
	})
	t.Run("adopted flow counts from its base", func(t *testing.T) {
		r := newRig(t, Config{})
		r.seen = 5000
		r.sh.Start(r.s, r.conn, 5000, r.now)
		r.conn.state = ConnEstablished
		r.s.News(r.now)
		r.turn(0, "a")
		r.turn(100, "b")
		r.want("Holding", "a")
		r.answer(100)
		r.want("Sending", "ab")
	})
}

// A turn is only asked about when all before it is written: answers to half a
// request are none.
func TestTurnWaitsForTheWholeOfTheOneBefore(t *testing.T) {
	r := connected(t, Config{})
	r.conn.room = 2
	r.turn(0, "abcd")
	r.turn(10, "e")
	r.answer(4)
	r.pass(2 * DefaultMaxHold)
	r.want("Sending", "ab")
	r.conn.room = 10
	r.s.News(r.now)
	r.want("Holding", "abcd")
	r.pass(2 * DefaultSettle) // the early bytes do not count
	r.want("Holding", "abcd")
	r.answer(6)
	r.want("Sending", "abcde")
}

// A long request over a slow line takes longer than max-hold to arrive. The target
// cannot answer before, and a server that meets the client's end right behind it gives
// the request up; but one that takes nothing more is not waited for.
func TestMaxHoldBeginsWhenTheRequestHasArrived(t *testing.T) {
	end := map[string]func(r *rig){
		"fin":   func(r *rig) { r.s.Fin(r.seen+100, false, r.now) },
		"reset": func(r *rig) { r.s.Reset(r.seen+100, r.now) },
		"data":  func(r *rig) { r.turn(100, "!") },
	}
	for name, end := range end {
		for _, stuck := range []bool{false, true} {
			r := connected(t, Config{})
			r.turn(0, "a long request")
			end(r)
			left := func() bool { return r.conn.closed || r.conn.aborted || len(r.conn.got) > len("a long request") }
			for range 5 { // 4 s
				r.pass(800 * time.Millisecond)
				if left() {
					t.Fatalf("%s: it left behind a request that was still arriving", name)
				}
				r.conn.acked++
				r.s.News(r.now)
			}
			if !stuck {
				r.ack()
				r.pass(900 * time.Millisecond)
				if left() {
					t.Errorf("%s: it left when the target had just got the request", name)
				}
			}
			r.pass(2300 * time.Millisecond)
			if name != "data" {
				if left() {
					t.Fatalf("%s: the target (stuck: %v) had no longer than for data", name, stuck)
				}
				r.pass(endHolds * DefaultMaxHold)
				r.pass(endHolds * DefaultMaxHold) // what had moved begins the wait anew
			}
			if !left() {
				t.Errorf("%s: it is held, and the target (stuck: %v) does nothing", name, stuck)
			}
		}
	}
}

// Nor does the gate learn from such a wait what it learns from one in vain: that the
// target answers before it is asked, after which nothing would be waited for.
func TestSlowArrivalTeachesNothing(t *testing.T) {
	r := connected(t, Config{})
	r.turn(0, "a")
	r.answer(100)
	r.ack()
	r.pass(time.Millisecond)
	r.turn(50, "a long request")
	r.turn(10, "b")
	r.conn.acked++
	r.pass(DefaultMaxHold + time.Millisecond)
	r.want("Holding", "aa long request")
	r.ack()
	r.answer(60)
	r.turn(5, "c")
	r.want("Holding", "aa long requestb")
}
