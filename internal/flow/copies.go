package flow

import (
	"math"
	"time"

	"flowtwin/internal/packet"
)

const (
	copiesKey = 0x1f83d9ab
	jitterKey = 0x7be5c4f3
)

// Fraction returns the share of connections that are copied once more where the
// number of copies is a whole one and a fraction: 2.5 copies are 3 of half of them.
// It is independent of what is sampled.
func Fraction(copies float64) Share {
	_, f := math.Modf(copies)
	return Share{Key: copiesKey, ByPort: true, To: uint64(math.Round(f * hashes))}
}

// Late returns by how much a copy of a client's connection is late, from 0 up to
// most: another time for each number, the same at each run.
func Late(client *packet.Addr, port uint16, number int, most time.Duration) time.Duration {
	h := Share{Key: hashWord(jitterKey, uint32(number)), ByPort: true}.Hash(client, port)
	return time.Duration(float64(most) * float64(h) / hashes)
}
