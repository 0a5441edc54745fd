package offline

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/bits"

	"flowtwin/internal/pcap"
)

// Block types of pcapng (draft-ietf-opsawg-pcapng).
const (
	blockSection   = 0x0a0d0d0a // the same in both byte orders
	blockInterface = 1
	blockPacket    = 2 // obsolete
	blockSimple    = 3
	blockEnhanced  = 6

	byteOrderMagic = 0x1a2b3c4d
	optComment     = 1
	optResolution  = 9
	optOffset      = 14
)

// maxInterfaces bounds what a damaged file can make us keep.
const maxInterfaces = 1 << 16

// ngIface is an interface of a section.
type ngIface struct {
	link   uint16
	snap   uint32
	units  uint64 // of its times, to a second
	offset int64  // s, to be added
}

// ngFile reads a pcapng file.
type ngFile struct {
	br     *bufio.Reader
	order  binary.ByteOrder
	ifaces []ngIface
	last   int64     // time of the last packet that has one
	part   pcap.Part // which the last section said that it is
}

func (f *ngFile) next(r *record) error {
	for {
		kind, size, err := f.block()
		if err != nil {
			return err
		}
		switch kind {
		case blockSection, blockInterface, blockPacket, blockSimple, blockEnhanced:
			var b []byte
			if size > maxRecord {
				return fmt.Errorf("damaged: a block claims %d bytes", size)
			}
			if b, err = take(f.br, size+4); err != nil {
				return inside(err)
			}
			if err = f.trailer(b[size:], size); err != nil {
				return err
			}
			b = b[:size]
			switch kind {
			case blockSection:
				f.begin(b)
			case blockInterface:
				err = f.describe(b)
			default:
				return f.packet(kind, b, r)
			}
		default: // names, statistics, comments, what others have invented
			err = f.skip(size)
		}
		if err != nil {
			return err
		}
	}
}

// block reads the head of a block and returns how many bytes are between it and
// the length at the block's end.
func (f *ngFile) block() (kind uint32, size int, err error) {
	b, err := take(f.br, 8)
	if err != nil {
		return 0, 0, err
	}
	if binary.LittleEndian.Uint32(b) == blockSection {
		length := [4]byte(b[4:])
		magic, err := f.br.Peek(4)
		if err != nil {
			return 0, 0, errCut
		}
		switch {
		case binary.LittleEndian.Uint32(magic) == byteOrderMagic:
			f.order = binary.LittleEndian
		case binary.BigEndian.Uint32(magic) == byteOrderMagic:
			f.order = binary.BigEndian
		default:
			return 0, 0, errors.New("damaged: a section without a byte order")
		}
		return f.checked(blockSection, f.order.Uint32(length[:]))
	}
	return f.checked(f.order.Uint32(b), f.order.Uint32(b[4:]))
}

func (f *ngFile) checked(kind, total uint32) (uint32, int, error) {
	if total < 12 || total%4 != 0 {
		return 0, 0, fmt.Errorf("damaged: a block claims %d bytes", total)
	}
	return kind, int(total) - 12, nil
}

// skip passes over the rest of a block.
func (f *ngFile) skip(size int) error {
	if _, err := io.CopyN(io.Discard, f.br, int64(size)); err != nil {
		return inside(err)
	}
	b, err := take(f.br, 4)
	if err != nil {
		return inside(err)
	}
	return f.trailer(b, size)
}

// trailer looks at the length at a block's end.
func (f *ngFile) trailer(b []byte, size int) error {
	if int(f.order.Uint32(b))-12 != size {
		return errors.New("damaged: a block's two lengths differ")
	}
	return nil
}

// begin begins a section.
func (f *ngFile) begin(b []byte) {
	const head = 16
	f.ifaces = f.ifaces[:0]
	for code, value := range f.options(b[min(head, len(b)):]) {
		if code == optComment {
			f.part, _ = pcap.ParsePart(string(value))
		}
	}
}

// options iterates over a block's options.
func (f *ngFile) options(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= 4 {
			code, n := f.order.Uint16(b), int(f.order.Uint16(b[2:]))
			if b = b[4:]; code == 0 || n > len(b) || !yield(code, b[:n]) {
				return
			}
			b = b[min((n+3)&^3, len(b)):]
		}
	}
}

// describe enters an interface.
func (f *ngFile) describe(b []byte) error {
	if len(b) < 8 || len(f.ifaces) == maxInterfaces {
		return errors.New("damaged: an interface's description")
	}
	i := ngIface{link: f.order.Uint16(b), snap: f.order.Uint32(b[4:]), units: 1e6}
	for code, value := range f.options(b[8:]) {
		switch {
		case code == optResolution && len(value) == 1:
			i.units = units(value[0])
		case code == optOffset && len(value) == 8:
			i.offset = int64(f.order.Uint64(value))
		}
	}
	if i.units == 0 {
		return errors.New("damaged: an interface whose times have no unit")
	}
	f.ifaces = append(f.ifaces, i)
	return nil
}

// units returns how many units of a resolution are a second: the power of 10, or
// of 2 with the uppermost bit; 0 where that is more than we can count.
func units(resolution byte) uint64 {
	n := uint(resolution & 0x7f)
	switch {
	case resolution&0x80 != 0 && n < 64:
		return 1 << n
	case resolution&0x80 == 0 && n < 20:
		u := uint64(1)
		for range n {
			u *= 10
		}
		return u
	}
	return 0
}

// nanos converts a time.
func (i *ngIface) nanos(t uint64) int64 {
	hi, lo := bits.Mul64(t%i.units, 1e9)
	frac, _ := bits.Div64(hi, lo, i.units)
	return (int64(t/i.units)+i.offset)*1e9 + int64(frac)
}

// packet reads a packet's block; b is its body.
func (f *ngFile) packet(kind uint32, b []byte, r *record) error {
	const head = 20
	*r = record{time: f.last}
	var index, size int
	switch {
	case kind == blockSimple && len(b) >= 4 && len(f.ifaces) > 0:
		r.wireLen = int(f.order.Uint32(b))
		b = b[4:]
		if size = r.wireLen; f.ifaces[0].snap != 0 {
			size = min(size, int(f.ifaces[0].snap))
		}
		size = min(size, len(b)) // some writers count otherwise
	case kind != blockSimple && len(b) >= head:
		index = int(f.order.Uint32(b))
		if kind == blockPacket {
			index = int(f.order.Uint16(b))
		}
		size, r.wireLen = int(f.order.Uint32(b[12:])), int(f.order.Uint32(b[16:]))
		if index >= len(f.ifaces) {
			return fmt.Errorf("damaged: of interface %d, of %d", index, len(f.ifaces))
		}
		r.time = f.ifaces[index].nanos(uint64(f.order.Uint32(b[4:]))<<32 | uint64(f.order.Uint32(b[8:])))
		f.last = r.time
		b = b[head:]
	default:
		return errors.New("damaged: a block too short for a packet")
	}
	if size > len(b) {
		return fmt.Errorf("damaged: it claims %d of %d bytes in a block of %d", size, r.wireLen, len(b))
	}
	r.data = b[:size]
	r.wireLen = max(r.wireLen, size)
	r.iface, r.link = int32(index), f.ifaces[index].link
	return nil
}
