package offline

import (
	"net/netip"

	"flowtwin/internal/flow"
	"flowtwin/internal/packet"
)

// matches reports whether a server of the list has this address.
func (f *Feed) matches(addr packet.Addr, port uint16) bool {
	for _, m := range f.cfg.Matches {
		if m.Port == port && (m.Addr == netip.Addr{} || packet.AddrFrom(m.Addr) == addr) {
			return true
		}
	}
	return false
}

// direction says whether a packet goes to a server. Where both of its ends could be
// one, from port 80 to port 80, the handshake tells.
func (f *Feed) direction(v *packet.View) (toServer, ok bool) {
	to, from := f.matches(v.Dst, v.DstPort), f.matches(v.Src, v.SrcPort)
	if !to || !from {
		return to, to || from
	}
	t := flow.Tuple{Client: v.Src, Server: v.Dst, ClientPort: v.SrcPort, ServerPort: v.DstPort}
	return f.both.toServer(t, v.Flags), true
}

// maxSides bounds how many connections between two servers are remembered.
const maxSides = 1 << 14

// sides remembers of connections between two servers which of them opened it.
type sides map[flow.Tuple]struct{}

func (s *sides) toServer(t flow.Tuple, flags packet.Flags) bool {
	back := flow.Tuple{Client: t.Server, Server: t.Client, ClientPort: t.ServerPort, ServerPort: t.ClientPort}
	if flags&packet.SYN != 0 {
		opener := t
		if flags&packet.ACK != 0 {
			opener = back
		}
		if *s == nil || len(*s) >= maxSides {
			*s = make(sides)
		}
		delete(*s, t)
		delete(*s, back)
		(*s)[opener] = struct{}{}
	}
	_, answered := (*s)[back]
	return !answered
}

// sums judges a recording's checksums. What a host recorded of itself may have
// sums that were never computed, and tools that change packets leave wrong ones
// behind; but where sums are right, a wrong one is a packet that its server dropped.
type sums struct{ right, wrong uint64 }

// trust is how many right sums stand behind each wrong one in recordings that
// have real ones.
const trust = 16

// mergedLen is what is longer than any frame: such packets were put together by
// the recording host.
const mergedLen = 9100

// checked reports whether the checksum of a packet needs no look.
func (f *Feed) checked(p *record, toServer bool) bool {
	v := &f.view
	if f.fault != packet.OK || !toServer || !v.Whole() || p.wireLen > mergedLen {
		return true
	}
	if v.ChecksumOK() {
		f.sums.right++
		return true
	}
	if v.ChecksumPartial() {
		return true
	}
	f.sums.wrong++
	return f.sums.right < trust*f.sums.wrong
}
