// Package frame holds the byte layouts of the tunnel: what copier and responder
// write on lanes and returns. Append… adds a frame to a buffer, Parse… reads the
// body of one that [Next] has cut from it; neither does I/O, keeps bytes, or
// knows of QUIC. The prose is in tunnel/PROTOCOL.md.
//
// All integers are big endian and all layouts fixed: a body of another length
// than its type has is malformed, and a change of a layout is a new version of
// the protocol.
package frame

import (
	"encoding/binary"
	"errors"
)

// HeaderLen is the length of what every frame begins with: type (1 byte), body
// length (3 bytes, big endian), flow (4 bytes, big endian).
const HeaderLen = 8

// MaxPayload is the longest payload of a Data frame. The kernel's largest
// super-packet (BIG TCP, GSO_MAX_SIZE of 524,280 bytes) is shorter, so that a
// captured segment always fits in one frame and is never split.
const MaxPayload = 512 << 10

// MaxReturnBody is the largest body of a frame on returns.
const MaxReturnBody = 16 << 10

// What is wrong with the bytes given to [Next].
var (
	// ErrShort says that the frame is not complete yet.
	ErrShort = errors.New("frame is cut short")
	// ErrType says that no frame has this type.
	ErrType = errors.New("unknown frame type")
	// ErrLength says that the length is not one that frames of this type have.
	ErrLength = errors.New("frame length does not fit its type")
)

// AppendEmpty appends a frame without body: Bye, ReturnBye.
func AppendEmpty(b []byte, t Type, flow uint32) []byte {
	return appendHeader(b, t, flow, 0)
}

func appendHeader(b []byte, t Type, flow uint32, body int) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(t)<<24|uint32(body)&0xffffff)
	return binary.BigEndian.AppendUint32(b, flow)
}

// Next cuts the first frame from b; rest is what follows it. body and rest alias
// b. The length has been checked against the type when err is nil, but Parse…
// checks it again. ErrShort means that more bytes are needed; after the other
// errors b cannot be read any further.
func Next(b []byte) (t Type, flow uint32, body, rest []byte, err error) {
	if len(b) < HeaderLen {
		return 0, 0, nil, nil, ErrShort
	}
	word := binary.BigEndian.Uint32(b)
	t, n := Type(word>>24), int(word&0xffffff)
	if err := check(t, n); err != nil {
		return t, 0, nil, nil, err
	}
	end := HeaderLen + n
	if len(b) < end {
		return t, 0, nil, nil, ErrShort
	}
	return t, binary.BigEndian.Uint32(b[4:]), b[HeaderLen:end:end], b[end:], nil
}

// check reports whether a frame of type t may have a body of n bytes.
func check(t Type, n int) error {
	least, most := 0, 0
	switch t {
	case TypeData:
		least, most = dataFixed, dataFixed+MaxPayload
	case TypeTargetHeader:
		least, most = targetHeaderFixed, MaxReturnBody
	case TypeOpen:
		least, most = openLen, openLen
	case TypeAbort:
		least, most = abortLen, abortLen
	case TypeEstablished:
		least, most = establishedLen, establishedLen
	case TypeClosed:
		least, most = closedLen, closedLen
	case TypeProgress:
		least, most = progressLen, progressLen
	case TypeCopies:
		least, most = copiesLen, copiesLen
	case TypeMoved:
		least, most = movedLen, movedLen
	case TypeFin, TypeReset:
		least, most = endLen, endLen
	case TypeBye, TypeReturnBye:
	default:
		return ErrType
	}
	if n < least || n > most {
		return ErrLength
	}
	return nil
}
