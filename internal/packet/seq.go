package packet

// Seq is a TCP sequence number. It wraps at 2^32, so it is compared with its
// methods and never with < (RFC 9293, 3.4).
type Seq uint32

// Add returns the sequence number n bytes after s; n may be negative.
func (s Seq) Add(n int) Seq { return s + Seq(uint32(n)) }

// Diff returns how many bytes s lies after o: negative when before. The two
// must be within 2^31 of each other: farther apart, the nearer way round counts.
func (s Seq) Diff(o Seq) int { return int(int32(s - o)) }

// Before reports whether s lies before o.
func (s Seq) Before(o Seq) bool { return s.Diff(o) < 0 }

// After reports whether s lies after o.
func (s Seq) After(o Seq) bool { return s.Diff(o) > 0 }
