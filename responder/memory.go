package responder

import (
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	trimTick  = time.Second
	trimBusy  = 4 << 20 // allocated in a tick: there is work
	trimQuiet = 3       // ticks without, before memory is given back
	trimEvery = 60      // ticks between two times at least: it costs as much as a collection
)

// A trimmer gives back what much work has left on the heap. The collector comes when
// the heap has grown by as much as is in use, or after two minutes; an idle responder
// of 5,000 sessions would so long hold half as much again as they need.
type trimmer struct {
	allocated uint64 // bytes, as of the last tick
	owed      bool   // there was work since the last time
	quiet     int    // ticks without work
	since     int    // ticks since the last time
}

func newTrimmer() *trimmer { return &trimmer{since: trimEvery} }

// tick gives memory back when it is due.
func (t *trimmer) tick() {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	if t.due(sample[0].Value.Uint64()) {
		debug.FreeOSMemory()
	}
}

// due takes note of how much has been allocated so far, and reports whether memory is
// to be given back.
func (t *trimmer) due(allocated uint64) bool {
	grown := allocated - t.allocated
	t.allocated = allocated
	t.since++
	if grown >= trimBusy {
		t.owed, t.quiet = true, 0
		return false
	}
	if t.quiet++; !t.owed || t.quiet < trimQuiet || t.since < trimEvery {
		return false
	}
	t.owed, t.since = false, 0
	return true
}
