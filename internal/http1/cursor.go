package http1

import (
	"bytes"
	"math"
)

// An Event says what a [Cursor] has found.
type Event uint8

// What a Cursor finds.
const (
	More   Event = iota // a head that is not complete yet
	Head                // the head of the next request
	Body                // of the same request: content, chunks, trailers
	Opaque              // what follows a request that has left HTTP/1
	Bad                 // no HTTP/1, or not beyond doubt, from here on
)

// A Cursor cuts the bytes of one client into requests. It is a small value without
// pointers; the zero value stands at the first byte.
type Cursor struct {
	left  uint64 // of the content, or of the chunk
	line  uint32 // bytes of the line or of the trailers so far; in a head, how far it was searched
	phase phase
	after phase // what follows the request
}

type phase uint8

const (
	inHead phase = iota
	inContent
	inSize     // a chunk's size
	inExt      // behind it
	sizeLF     // behind the CR of that line
	inChunk    // a chunk's data
	chunkEnd   // behind it
	chunkLF    // behind the CR there
	inTrailers // at the beginning of a line
	inTrailer
	trailerLF  // behind the CR of a line
	trailersLF // behind the CR of the last, empty line
	upgraded   // behind a request to upgrade: another protocol, unless the server refused
	connected  // the same behind CONNECT
	inOpaque
	inBad
)

// maxExt bounds a chunk's size line, and sizeDigits the size itself.
const (
	maxExt     = 4096
	sizeDigits = 15
)

// Boundary reports whether the cursor stands between two requests, or before the
// first one.
func (c *Cursor) Boundary() bool {
	return c.phase == inHead || c.phase == upgraded || c.phase == connected
}

// Next looks at b, the bytes behind what it has cut so far, of which there is at
// least one, and cuts the next n of them. When that is a head it is in r, which
// aliases b. With More, b is to be offered once more with what follows it; it never
// is as long as MaxHead then.
func (c *Cursor) Next(b []byte, r *Request) (n int, e Event) {
	switch c.phase {
	case inOpaque:
		return len(b), Opaque
	case inBad:
		return 0, Bad
	case upgraded, connected:
		switch yes, sure := IsRequest(b); {
		case yes && !sure && len(b) < MaxHead:
			return 0, More
		case !yes, !sure, c.phase == connected && !bytes.HasPrefix(b, []byte("CONNECT ")):
			c.phase = inOpaque
			return len(b), Opaque
		}
		c.phase = inHead
		return c.head(b, r)
	case inHead:
		return c.head(b, r)
	default:
		return c.body(b)
	}
}

func (c *Cursor) head(b []byte, r *Request) (int, Event) {
	b = b[:min(len(b), MaxHead)]
	if n := headEnd(b, int(c.line)); n > 0 {
		c.line = 0
		if !r.parse(b[:n:n]) {
			c.phase = inBad
			return 0, Bad
		}
		c.enter(r)
		return n, Head
	}
	if yes, _ := IsRequest(b[blankLines(b):]); !yes || len(b) == MaxHead {
		c.phase = inBad
		return 0, Bad
	}
	c.line = uint32(len(b))
	return 0, More
}

// enter moves the cursor behind a head.
func (c *Cursor) enter(r *Request) {
	c.after = inHead
	switch {
	case r.connect:
		c.after = connected
	case r.upgrade:
		c.after = upgraded
	}
	switch {
	case r.chunked:
		c.phase = inSize
	case r.length > 0:
		c.phase, c.left = inContent, r.length
	default:
		c.phase = c.after
	}
}

// body cuts what of b belongs to the request.
func (c *Cursor) body(b []byte) (int, Event) {
	i := 0
	for i < len(b) && c.phase != inBad && !c.Boundary() {
		if c.phase == inContent || c.phase == inChunk {
			n := int(min(c.left, uint64(len(b)-i), math.MaxInt32))
			i += n
			c.left -= uint64(n)
			switch {
			case c.left > 0:
			case c.phase == inChunk:
				c.phase = chunkEnd
			default:
				c.phase = c.after
			}
			continue
		}
		c.phase = c.step(b[i])
		if c.phase != inBad {
			i++
		}
	}
	if i == 0 {
		return 0, Bad
	}
	return i, Body
}

// step returns the phase behind a byte of the chunked coding (RFC 9112, 7.1). As
// in nginx an LF ends a line with a CR before it or not.
func (c *Cursor) step(b byte) phase {
	switch c.phase {
	case inSize:
		return c.size(b)
	case inExt:
		c.line++
		switch {
		case b == '\r':
			return sizeLF
		case b == '\n':
			return c.sized()
		case c.line > maxExt:
			return inBad
		}
		return inExt
	case sizeLF:
		if b == '\n' {
			return c.sized()
		}
	case chunkEnd:
		if b == '\r' {
			return chunkLF
		}
		if b == '\n' {
			return inSize
		}
	case chunkLF:
		if b == '\n' {
			return inSize
		}
	default:
		return c.trailers(b)
	}
	return inBad
}

func (c *Cursor) size(b byte) phase {
	digit := -1
	switch {
	case '0' <= b && b <= '9':
		digit = int(b - '0')
	case 'a' <= lower(b) && lower(b) <= 'f':
		digit = int(lower(b)-'a') + 10
	}
	if digit >= 0 {
		c.line++
		c.left = c.left<<4 | uint64(digit)
		if c.line > sizeDigits {
			return inBad
		}
		return inSize
	}
	if c.line == 0 {
		return inBad
	}
	switch b {
	case '\n':
		return c.sized()
	case '\r':
		return sizeLF
	case ';', ' ', '\t':
		return inExt
	}
	return inBad
}

// sized returns the phase behind a chunk's size line.
func (c *Cursor) sized() phase {
	c.line = 0
	if c.left == 0 {
		return inTrailers
	}
	return inChunk
}

func (c *Cursor) trailers(b byte) phase {
	if c.line++; c.line > MaxHead {
		return inBad
	}
	switch {
	case c.phase == trailersLF && b == '\n', c.phase == inTrailers && b == '\n':
		c.line = 0
		return c.after
	case c.phase == trailerLF && b == '\n', c.phase == inTrailer && b == '\n':
		return inTrailers
	case c.phase == trailersLF, c.phase == trailerLF:
		return inBad
	case c.phase == inTrailers && b == '\r':
		return trailersLF
	case b == '\r':
		return trailerLF
	}
	return inTrailer
}
