package frame

import (
	"encoding/binary"
	"net/netip"
)

// Established reports the handshake with the target.
type Established struct {
	Time    int64          // ns since the epoch, the responder's clock
	Connect uint32         // µs from SYN to SYN-ACK
	Client  netip.AddrPort // the outward client address that the target sees
}

// establishedLen: time 8, connect 4, port 2, address 16 (IPv4 as IPv4-mapped).
const establishedLen = 30

// AppendEstablished appends an Established frame. Zones are dropped.
func AppendEstablished(b []byte, flow uint32, e *Established) []byte {
	b = appendHeader(b, TypeEstablished, flow, establishedLen)
	b = binary.BigEndian.AppendUint64(b, uint64(e.Time))
	b = binary.BigEndian.AppendUint32(b, e.Connect)
	b = binary.BigEndian.AppendUint16(b, e.Client.Port())
	a := e.Client.Addr().As16()
	return append(b, a[:]...)
}

// ParseEstablished reads the body of an Established frame. IPv4-mapped addresses
// become plain IPv4.
func ParseEstablished(body []byte) (e Established, ok bool) {
	if len(body) != establishedLen {
		return Established{}, false
	}
	addr := netip.AddrFrom16([16]byte(body[14:30])).Unmap()
	return Established{
		Time:    int64(binary.BigEndian.Uint64(body)),
		Connect: binary.BigEndian.Uint32(body[8:]),
		Client:  netip.AddrPortFrom(addr, binary.BigEndian.Uint16(body[12:])),
	}, true
}
