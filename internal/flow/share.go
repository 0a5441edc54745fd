package flow

import (
	"encoding/binary"
	"math"

	"flowtwin/internal/packet"
)

// A Share is a part of all clients, or of their connections, that a hash
// chooses: those whose hash lies from From to before To, of 2^32. The hash is the
// same on every host and after every restart, so that the choice is too. It is made
// of 32-bit operations that a classic BPF program has: the filter in the kernel
// computes it as well, see the package copier/capture.
type Share struct {
	Key      uint32 // shares of different keys choose independently
	ByPort   bool   // of connections: the client's port is hashed too
	From, To uint64
}

// The keys of shares. They are constants so that all copiers choose the same, also
// those of several servers behind one balancer, and after restarts.
const (
	sampleKey = 0x5a3c91e7
	splitKey  = 0xc2d40b6d
)

// hashes is how many values the hash has.
const hashes = 1 << 32

// Sampled returns the share of percent (0 to 100) of all connections. A smaller
// percentage's connections are among those of a larger one.
func Sampled(percent float64) Share {
	return Share{Key: sampleKey, ByPort: true, To: uint64(math.Round(percent / 100 * hashes))}
}

// Split returns part i of n of all clients: each client is in exactly one.
func Split(i, n int) Share {
	return Share{Key: splitKey, From: uint64(i) * hashes / uint64(n), To: uint64(i+1) * hashes / uint64(n)}
}

// Percent returns which part of all the share is, 0 to 100, to 7 digits behind the
// point: more than the hash can tell.
func (s Share) Percent() float64 {
	const digits = 1e7
	return math.Round(100*digits*float64(s.To-s.From)/hashes) / digits
}

// Takes reports whether the share holds the connection of a client.
func (s Share) Takes(client *packet.Addr, port uint16) bool {
	h := uint64(s.Hash(client, port))
	return s.From <= h && h < s.To
}

// Multipliers of the hash: the golden ratio's for each word, and MurmurHash3's to
// finish.
const (
	HashWord  = 0x9e3779b1
	HashMixA  = 0x85ebca6b
	HashMixB  = 0xc2b2ae35
	HashShift = 15
)

// Hash returns the hash that the share chooses by. An IPv4 address is one word,
// its own 4 bytes.
func (s Share) Hash(client *packet.Addr, port uint16) uint32 {
	h := s.Key
	first := 0
	if client.Is4() {
		first = 12
	}
	for i := first; i < len(client); i += 4 {
		h = hashWord(h, binary.BigEndian.Uint32(client[i:]))
	}
	if s.ByPort {
		h = hashWord(h, uint32(port))
	}
	h ^= h >> 16
	h *= HashMixA
	h ^= h >> 13
	h *= HashMixB
	return h ^ h>>16
}

func hashWord(h, word uint32) uint32 {
	h = (h ^ word) * HashWord
	return h ^ h>>HashShift
}

// A Choice is what all of its shares hold; without shares, everything.
type Choice []Share

// Takes reports whether all shares hold the connection of a client.
func (c Choice) Takes(client *packet.Addr, port uint16) bool {
	for _, s := range c {
		if !s.Takes(client, port) {
			return false
		}
	}
	return true
}
