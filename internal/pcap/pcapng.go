package pcap

import (
	"encoding/binary"
	"fmt"
)

// Block types and options of pcapng (draft-ietf-opsawg-pcapng).
const (
	ngSection   = 0x0a0d0d0a
	ngInterface = 1
	ngEnhanced  = 6

	optComment     = 1
	optName        = 2
	optApplication = 4
	optResolution  = 9
)

// A Part says which file of a longer recording one is, from 1 on. Packets need not be in
// the order of time; those behind a part are in the next one. The zero value is none.
type Part struct {
	Recording string // a name that no other recording has, without spaces
	Number    uint64
}

const partFormat = "recording %s part %d"

// ParsePart reads the comment of a section's header that says it.
func ParsePart(comment string) (p Part, ok bool) {
	_, err := fmt.Sscanf(comment, partFormat, &p.Recording, &p.Number)
	return p, err == nil
}

// AppendSection appends what a pcapng file begins with; application is the program
// that writes it.
func AppendSection(b []byte, application string, part Part) []byte {
	b, at := begin(b, ngSection)
	b = binary.LittleEndian.AppendUint32(b, 0x1a2b3c4d)
	b = append(b, 1, 0, 0, 0)                           // version 1.0
	b = binary.LittleEndian.AppendUint64(b, ^uint64(0)) // length not known
	if part != (Part{}) {
		b = appendOption(b, optComment, fmt.Appendf(nil, partFormat, part.Recording, part.Number))
	}
	b = appendOption(b, optApplication, []byte(application)) // as shb_userappl
	return end(appendOption(b, 0, nil), at)
}

// AppendInterface appends an interface, whose number is how many stand before it.
func AppendInterface(b []byte, name string) []byte {
	b, at := begin(b, ngInterface)
	b = binary.LittleEndian.AppendUint32(b, LinkRaw) // and 2 reserved bytes
	b = binary.LittleEndian.AppendUint32(b, Snap)
	b = appendOption(b, optName, []byte(name))
	b = appendOption(b, optResolution, []byte{9})
	return end(appendOption(b, 0, nil), at)
}

// AppendEnhanced appends a packet to a pcapng file: data is what is left of wireLen
// bytes. time is in ns since the epoch.
func AppendEnhanced(b []byte, iface uint32, time int64, data []byte, wireLen int) []byte {
	b, at := begin(b, ngEnhanced)
	b = binary.LittleEndian.AppendUint32(b, iface)
	b = binary.LittleEndian.AppendUint32(b, uint32(uint64(time)>>32))
	b = binary.LittleEndian.AppendUint32(b, uint32(time))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(data)))
	b = binary.LittleEndian.AppendUint32(b, uint32(max(wireLen, len(data))))
	return end(pad(append(b, data...), len(data)), at)
}

// EnhancedLen returns how long a packet of n bytes is in a pcapng file.
func EnhancedLen(n int) int { return 32 + (n+3)&^3 }

func begin(b []byte, kind uint32) (out []byte, at int) {
	at = len(b)
	b = binary.LittleEndian.AppendUint32(b, kind)
	return append(b, 0, 0, 0, 0), at
}

// end writes the length of the block that begins at at, before and behind it.
func end(b []byte, at int) []byte {
	n := uint32(len(b) - at + 4)
	binary.LittleEndian.PutUint32(b[at+4:], n)
	return binary.LittleEndian.AppendUint32(b, n)
}

func appendOption(b []byte, code uint16, value []byte) []byte {
	b = binary.LittleEndian.AppendUint16(b, code)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(value)))
	return pad(append(b, value...), len(value))
}

// pad adds what n bytes miss of whole words.
func pad(b []byte, n int) []byte {
	for ; n%4 != 0; n++ {
		b = append(b, 0)
	}
	return b
}
