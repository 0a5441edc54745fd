package capture

import (
	"testing"
	"time"
)

// A reader rests only where that saves being woken, for no longer than a packet may
// wait, and never while packets pile up.
func TestPace(t *testing.T) {
	const retire = 2 * time.Millisecond
	for _, tt := range []struct {
		name            string
		packets, blocks int
		passed          time.Duration
		want            time.Duration
	}{
		{"nothing has come", 0, 0, 100 * time.Millisecond, 0},
		{"hardly anything", 3, 1, 10 * time.Millisecond, 0},
		{"few", 6, 1, 10 * time.Millisecond, restMost},
		{"2,000 a second", 6, 1, 3 * time.Millisecond, restMost},
		{"4,000 a second", 12, 1, 3 * time.Millisecond, 5 * time.Millisecond},
		{"6,000 a second", 18, 1, 3 * time.Millisecond, 0},
		{"10,000 a second", 30, 1, 3 * time.Millisecond, 0},
		{"millions", 4_000_000_000, 1, time.Second, 0},
		{"after a rest", 20, 4, 10 * time.Millisecond, restMost},
		{"few and large ones, which fill blocks", 20, 10, 10 * time.Millisecond, 0},
		{"after a pause", 20, 1, time.Minute, 0},
		{"the first time", 20, 1, 0, 0},
		{"the clock stands still", 20, 1, -1, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			now := time.Now()
			var p pace
			switch {
			case tt.passed > 0:
				p.woke = now.Add(-tt.passed)
			case tt.passed < 0:
				p.woke = now
			}
			for i := range tt.blocks {
				p.took(uint32(tt.packets*(i+1)/tt.blocks - tt.packets*i/tt.blocks))
			}
			if d := p.rest(now, retire); d != tt.want {
				t.Errorf("rests %v, want %v", d, tt.want)
			}
			if d := p.rest(now.Add(10*time.Millisecond), retire); d != 0 {
				t.Errorf("rests %v again, after nothing came", d)
			}
		})
	}
}
