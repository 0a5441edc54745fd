package capture

import "time"

// A pace says how long a ring's reader rests. Each time that it is woken costs as
// much as some 50 packets, and a block comes as soon as its time is over, with
// however little. So where few packets come, but steadily, the reader looks less
// often, and finds several blocks. Where hardly any come it waits: a rest would
// bring nothing, and what comes after a pause is to be copied at once.
type pace struct {
	woke    time.Time // when it last was asked
	packets uint32    // since then
	blocks  int       // since then
}

const (
	// restPackets is how many packets a rest is to bring, as far as restMost, the
	// longest one, allows; at restLeast packets a second and below there is none.
	restPackets = 20
	restMost    = 10 * time.Millisecond
	restLeast   = 400
	// restBlocks is how many blocks a rest brings at most: more have been filled
	// before their time, by large packets, which are not to pile up.
	restBlocks = 6
)

// took counts a block of n packets.
func (p *pace) took(n uint32) {
	p.packets += n
	p.blocks++
}

// rest returns how long to let pass before a block is looked for, 0 when the next
// one, which comes after retire, is to be waited for.
func (p *pace) rest(now time.Time, retire time.Duration) time.Duration {
	passed, packets, blocks := now.Sub(p.woke), time.Duration(p.packets), p.blocks
	*p = pace{woke: now}
	if passed > time.Second || packets*time.Second <= restLeast*passed || blocks > restBlocks {
		return 0
	}
	d := min(restPackets*passed/packets, restMost)
	if d <= 2*retire { // it would bring one block or two: little, for as much lag again
		return 0
	}
	return d
}
