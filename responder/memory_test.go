package responder

import (
	"slices"
	"testing"
)

// Memory is given back once behind a time of work, not while there is any, and not
// again and again.
func TestTrimmer(t *testing.T) {
	tr := newTrimmer()
	var allocated uint64
	var at []int
	n := 0
	ticks := func(count int, bytes uint64) {
		for range count {
			n++
			allocated += bytes
			if tr.due(allocated) {
				at = append(at, n)
			}
		}
	}
	ticks(10, 100)       // idle
	ticks(5, trimBusy)   // 11 to 15
	ticks(100, 1000)     // quiet: in the third tick, 18
	ticks(1, trimBusy)   // 116
	ticks(2, 1000)       // a pause
	ticks(1, trimBusy)   // 119
	ticks(3, trimBusy-1) // quiet: in the third tick, 122
	ticks(1, trimBusy)   // 123
	ticks(200, 0)        // quiet, but 122 is not long ago: 182
	if want := []int{18, 122, 182}; !slices.Equal(at, want) {
		t.Errorf("given back at ticks %v, want %v", at, want)
	}
}
