package capture

import (
	"encoding/binary"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"flowtwin/internal/packet"
)

// Layout of a block and of the packets in it (linux/if_packet.h,
// tpacket_block_desc and tpacket3_hdr with the sockaddr_ll behind it).
const (
	blockStatus = 8
	blockCount  = 12
	blockFirst  = 16
	blockHeader = 48

	pktNext    = 0
	pktSec     = 4
	pktNsec    = 8
	pktSnapLen = 12
	pktLen     = 16
	pktStatus  = 20
	pktMAC     = 24
	pktProto   = unix.SizeofTpacket3Hdr + 2 // big endian
	pktIface   = unix.SizeofTpacket3Hdr + 4
	pktType    = unix.SizeofTpacket3Hdr + 10
	pktHeader  = unix.SizeofTpacket3Hdr + unix.SizeofSockaddrLinklayer
)

// blocks is the memory of a ring, shared with the kernel. A block belongs to the
// kernel or to the reader, as the status word in it says; the kernel fills and
// hands over blocks one after the other, and stops at one that is not its own.
type blocks struct {
	mem  []byte
	size int

	at   int    // offset of the block that is the reader's next or present one
	left uint32 // packets of the present block not yet walked
	pkt  int    // offset of the next of them
}

// status is the word by which a block changes hands. The mapping is page aligned
// and blocks are whole pages, so the word is aligned too. The kernel puts a
// barrier between a block's contents and its status (prb_flush_block), and Go's
// atomics are sequentially consistent.
func (b *blocks) status() *uint32 {
	return (*uint32)(unsafe.Pointer(&b.mem[b.at+blockStatus]))
}

// take begins with the next block if the kernel has handed it over.
func (b *blocks) take() bool {
	if atomic.LoadUint32(b.status())&unix.TP_STATUS_USER == 0 {
		return false
	}
	h := b.mem[b.at : b.at+blockHeader]
	b.left = binary.NativeEndian.Uint32(h[blockCount:])
	b.pkt = b.at + int(binary.NativeEndian.Uint32(h[blockFirst:]))
	return true
}

// release hands the present block back.
func (b *blocks) release() {
	b.left = 0
	atomic.StoreUint32(b.status(), unix.TP_STATUS_KERNEL)
	if b.at += b.size; b.at == len(b.mem) {
		b.at = 0
	}
}

// next fills p with the next packet of the block.
func (b *blocks) next(p *Packet) (info packetInfo, ok bool) {
	if b.left == 0 {
		return info, false
	}
	h := b.mem[b.pkt : b.pkt+pktHeader]
	b.left--
	start := b.pkt + int(binary.NativeEndian.Uint16(h[pktMAC:]))
	end := start + int(binary.NativeEndian.Uint32(h[pktSnapLen:]))
	b.pkt += int(binary.NativeEndian.Uint32(h[pktNext:]))

	p.Data = b.mem[start:end:end]
	p.WireLen = int(binary.NativeEndian.Uint32(h[pktLen:]))
	p.Time = int64(binary.NativeEndian.Uint32(h[pktSec:]))*1e9 + int64(binary.NativeEndian.Uint32(h[pktNsec:]))
	p.Iface = int32(binary.NativeEndian.Uint32(h[pktIface:]))
	p.ToServer = h[pktType] != typeOutgoing
	status := binary.NativeEndian.Uint32(h[pktStatus:])
	p.Fault = packet.OK
	p.Checked = status&(unix.TP_STATUS_CSUM_VALID|unix.TP_STATUS_CSUMNOTREADY) != 0
	return packetInfo{
		proto:  binary.BigEndian.Uint16(h[pktProto:]),
		tagged: status&unix.TP_STATUS_VLAN_VALID != 0,

		unfinished: status&unix.TP_STATUS_CSUMNOTREADY != 0,
	}, true
}
