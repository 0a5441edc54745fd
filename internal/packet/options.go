package packet

import "encoding/binary"

// The TCP options that FlowTwin reads (RFC 9293, 3.2; RFC 7323, 2.2).
const (
	optEnd         = 0
	optNOP         = 1
	optMSS         = 2
	optWindowScale = 3
)

// maxWindowScale is the largest shift; a larger one counts as this (RFC 7323, 2.3).
const maxWindowScale = 14

// SYNOptions are what one side announces in its SYN.
type SYNOptions struct {
	MSS         uint16 // 0: not announced
	WindowScale uint8
	Scaled      bool // the window scale option was present
}

// SYNOptions reads the options of a SYN; on other segments they mean nothing.
// It stops at the first malformed option and returns what stood before it, as
// TCP stacks do.
func (v *View) SYNOptions() SYNOptions {
	var o SYNOptions
	for b := v.Options; len(b) > 0; {
		if b[0] == optNOP {
			b = b[1:]
			continue
		}
		if b[0] == optEnd || len(b) < 2 {
			break
		}
		size := int(b[1])
		if size < 2 || size > len(b) {
			break
		}
		switch {
		case b[0] == optMSS && size == 4:
			o.MSS = binary.BigEndian.Uint16(b[2:])
		case b[0] == optWindowScale && size == 3:
			o.WindowScale, o.Scaled = min(b[2], maxWindowScale), true
		}
		b = b[size:]
	}
	return o
}
