// Package pcap writes recorded packets: the bytes of pcap and pcapng files, times in
// nanoseconds, packets that begin with their IP header (LINKTYPE_RAW).
//
// Append… adds to a buffer; nothing here does I/O or keeps bytes.
package pcap

import "encoding/binary"

// LinkRaw is LINKTYPE_RAW: packets begin with an IPv4 or IPv6 header.
const LinkRaw = 101

// Snap is the snap length that the headers state, the most that libpcap accepts: no
// packet is longer.
const Snap = 256 << 10

// HeaderLen is the length of what [AppendHeader] appends, and PacketOverhead what a
// packet takes beyond its bytes in a pcap file.
const (
	HeaderLen      = 24
	PacketOverhead = 16
)

// AppendHeader appends the header of a pcap file.
func AppendHeader(b []byte) []byte {
	b = binary.LittleEndian.AppendUint32(b, 0xa1b23c4d) // times in ns
	b = binary.LittleEndian.AppendUint16(b, 2)
	b = binary.LittleEndian.AppendUint16(b, 4)
	b = append(b, 0, 0, 0, 0, 0, 0, 0, 0)
	b = binary.LittleEndian.AppendUint32(b, Snap)
	return binary.LittleEndian.AppendUint32(b, LinkRaw)
}

// AppendPacket appends a packet to a pcap file: data is what is left of wireLen
// bytes. time is in ns since the epoch.
func AppendPacket(b []byte, time int64, data []byte, wireLen int) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(time/1e9))
	b = binary.LittleEndian.AppendUint32(b, uint32(time%1e9))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(data)))
	b = binary.LittleEndian.AppendUint32(b, uint32(max(wireLen, len(data))))
	return append(b, data...)
}
