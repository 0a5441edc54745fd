package copier

import (
	"time"

	"flowtwin/internal/flow"
	"flowtwin/tunnel"
)

// Memory of a copier. A record costs about 320 bytes, index included, and only
// when it is used; the store only when segments come out of order.
const (
	maxFlows   = 1 << 17 // over all shards
	storeBytes = 16 << 20
)

// newShard returns one of n shards, which share the bounds above.
func newShard(ring source, l lane, maps *mapping, n int, offset func() time.Duration) *shard {
	s := &shard{
		ring:  ring,
		lane:  l,
		maps:  maps,
		table: flow.NewTable[record](maxFlows / n),
		store: flow.NewStore(storeBytes / n),
		limit: defaultLimits(),
		known: newMemory(maxFlows / n),

		prologues: newPrologues(prologueBytes / n),
		greetings: make([]uint32, tunnel.MaxMaps),

		offset: offset,
		quiet:  make(chan struct{}, 1),
		ended:  make(chan struct{}, 1),
		orders: &orders{},
		stop:   noStop(),
	}
	s.told.Store(s.orders)
	return s
}
