package offline

import "flowtwin/copier/capture"

const (
	blockPackets = 256
	blockBytes   = 256 << 10
	blocks       = 8 // between the reader and the shard
)

// entry is a packet of a block.
type entry struct {
	at, len  int
	wireLen  int
	time     int64
	iface    int32
	toServer bool
	checked  bool
}

// A Block is some packets of a recording, in its order.
type Block struct {
	// Last says that a pass over the recording ends with this block.
	Last bool

	data    []byte
	entries []entry
	next    int
}

func (b *Block) reset() {
	b.Last = false
	b.data, b.entries, b.next = b.data[:0], b.entries[:0], 0
}

// full reports whether a packet of n bytes more would be too many.
func (b *Block) full(n int) bool {
	return len(b.entries) == blockPackets || len(b.entries) > 0 && len(b.data)+n > blockBytes
}

// add copies a packet.
func (b *Block) add(r *record, toServer, checked bool) {
	b.entries = append(b.entries, entry{
		at: len(b.data), len: len(r.data), wireLen: r.wireLen,
		time: r.time, iface: r.iface, toServer: toServer, checked: checked,
	})
	b.data = append(b.data, r.data...)
}

// Left returns how many packets are left.
func (b *Block) Left() int { return len(b.entries) - b.next }

// Peek returns the time of the next packet; false: there is none.
func (b *Block) Peek() (time int64, ok bool) {
	if b.next == len(b.entries) {
		return 0, false
	}
	return b.entries[b.next].time, true
}

// Packet fills p with the next packet, or reports false. p.Data is the block's: it
// lives until the block is given back.
func (b *Block) Packet(p *capture.Packet) bool {
	if b.next == len(b.entries) {
		return false
	}
	e := &b.entries[b.next]
	b.next++
	*p = capture.Packet{
		Data: b.data[e.at : e.at+e.len : e.at+e.len], WireLen: e.wireLen, Time: e.time,
		Iface: e.iface, ToServer: e.toServer, Checked: e.checked,
	}
	return true
}
