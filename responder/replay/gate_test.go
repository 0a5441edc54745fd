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
