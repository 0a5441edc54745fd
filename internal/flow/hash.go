package flow

import (
	"encoding/binary"
	"math/bits"
	"math/rand/v2"
)

// A seed keys the hash of tuples. Clients choose half of a tuple, so without a
// secret they could choose tuples that collide.
type seed [5]uint64

func newSeed() seed {
	var s seed
	for i := range s {
		s[i] = rand.Uint64()
	}
	return s
}

// hash mixes all 36 bytes of k by folded 128-bit products, the way of wyhash:
// three multiplications, of which two run side by side.
func (s *seed) hash(k *Tuple) uint64 {
	client := mix(word(k.Client[:8])^s[0], word(k.Client[8:])^s[1])
	server := mix(word(k.Server[:8])^s[2], word(k.Server[8:])^s[3])
	ports := uint64(k.ClientPort)<<16 | uint64(k.ServerPort)
	return mix(client^ports, server^s[4])
}

func mix(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	return hi ^ lo
}

func word(b []byte) uint64 { return binary.LittleEndian.Uint64(b) }

// same reports whether a and b are equal, by words: == on a type this long is a
// call.
func same(a, b *Tuple) bool {
	return (word(a.Client[8:])^word(b.Client[8:]))|(word(a.Client[:8])^word(b.Client[:8]))|
		(word(a.Server[8:])^word(b.Server[8:]))|(word(a.Server[:8])^word(b.Server[:8])) == 0 &&
		a.ClientPort == b.ClientPort && a.ServerPort == b.ServerPort
}
