package offline

import (
	"bufio"
	"encoding/binary"
	"fmt"
)

// The first bytes of a pcap file, as its writer's byte order stores them.
const (
	magicMicro = 0xa1b2c3d4
	magicNano  = 0xa1b23c4d
)

// pcapFile reads a pcap file (draft-ietf-opsawg-pcap).
type pcapFile struct {
	br    *bufio.Reader
	order binary.ByteOrder
	unit  int64 // of the fraction of a second, ns
	link  uint16
}

// pcapOrder returns the byte order of a pcap file that begins with b, or nil when
// it is none.
func pcapOrder(b []byte) binary.ByteOrder {
	for _, o := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
		if m := o.Uint32(b); m == magicMicro || m == magicNano {
			return o
		}
	}
	return nil
}

func openPcap(br *bufio.Reader, order binary.ByteOrder) (*pcapFile, error) {
	const headerLen = 24
	b, err := take(br, headerLen)
	if err != nil {
		return nil, fmt.Errorf("the file's header: %w", inside(err))
	}
	f := &pcapFile{br: br, order: order, unit: 1000, link: uint16(order.Uint32(b[20:]))} // the upper half is the FCS length
	if order.Uint32(b) == magicNano {
		f.unit = 1
	}
	if major := order.Uint16(b[4:]); major != 2 {
		return nil, fmt.Errorf("pcap version %d: only 2 is known", major)
	}
	return f, nil
}

func (f *pcapFile) next(r *record) error {
	const headerLen = 16
	b, err := take(f.br, headerLen)
	if err != nil {
		return err
	}
	sec, frac := f.order.Uint32(b), f.order.Uint32(b[4:])
	size, wire := f.order.Uint32(b[8:]), f.order.Uint32(b[12:])
	if size > maxRecord || wire > maxRecord || int64(frac)*f.unit >= 1e9 {
		return fmt.Errorf("damaged: it claims %d of %d bytes", size, wire)
	}
	*r = record{wireLen: int(max(wire, size)), time: int64(sec)*1e9 + int64(frac)*f.unit, link: f.link}
	if r.data, err = take(f.br, int(size)); err != nil {
		return inside(err)
	}
	return nil
}
