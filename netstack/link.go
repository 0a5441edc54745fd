package netstack

import (
	"encoding/binary"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// linkEndpoint is where a gVisor stack ends and the TUN begins. Packets of the
// stack are queued with their session, never written here: the session's endpoint
// is locked now, a TUN write runs the kernel's whole receive path, and the answer
// would meet the lock.
//
// gVisor's own channel endpoint does not do: it drops uncounted when full and
// caps segments at 32 KiB.
type linkEndpoint struct {
	owner      *Stack
	mtu        uint32
	single     bool // each packet is to be one of the wire's
	dispatcher atomic.Pointer[stack.NetworkDispatcher]
}

var (
	_ stack.LinkEndpoint = (*linkEndpoint)(nil)
	_ stack.GSOEndpoint  = (*linkEndpoint)(nil)
)

// WritePackets implements stack.LinkWriter. Packets of no session are the stack's
// own ideas, such as a reset for a stray segment; nobody is answered these.
func (l *linkEndpoint) WritePackets(pkts stack.PacketBufferList) (int, tcpip.Error) {
	all := pkts.AsSlice()
	for _, pkt := range all {
		if c, tcp := l.sessionOf(pkt); c != nil {
			l.owner.out.add(c, pkt, tcp)
		}
	}
	return len(all), nil
}

// sessionOf finds the session by the inner source address and port, and returns
// the TCP header too, which gVisor takes long to find.
func (l *linkEndpoint) sessionOf(pkt *stack.PacketBuffer) (*Conn, header.TCP) {
	t := pkt.TransportHeader().Slice()
	if pkt.TransportProtocolNumber != header.TCPProtocolNumber || len(t) < tcpHeader {
		return nil, nil
	}
	ip := pkt.NetworkHeader().Slice()
	var last byte
	slots := &l.owner.v4
	if pkt.NetworkProtocolNumber == header.IPv4ProtocolNumber {
		last = ip[15]
	} else {
		last, slots = ip[23], &l.owner.v6
	}
	return slots.at(slotID(last-innerLocal)<<16 | slotID(binary.BigEndian.Uint16(t))), t
}

// deliver gives a packet of the target to the stack; it takes over the caller's
// reference.
func (l *linkEndpoint) deliver(proto tcpip.NetworkProtocolNumber, pkt *stack.PacketBuffer) {
	if d := l.dispatcher.Load(); d != nil {
		(*d).DeliverNetworkPacket(proto, pkt)
	}
	pkt.DecRef()
}

// Attach implements stack.LinkEndpoint.
func (l *linkEndpoint) Attach(d stack.NetworkDispatcher) {
	if d == nil {
		l.dispatcher.Store(nil)
		return
	}
	l.dispatcher.Store(&d)
}

// IsAttached implements stack.LinkEndpoint.
func (l *linkEndpoint) IsAttached() bool { return l.dispatcher.Load() != nil }

// MTU implements stack.LinkEndpoint.
func (l *linkEndpoint) MTU() uint32 { return l.mtu }

// Capabilities implements stack.LinkEndpoint: the stack need not compute a
// checksum in either direction, see path.outward and inward.
func (*linkEndpoint) Capabilities() stack.LinkEndpointCapabilities {
	return stack.CapabilityTXChecksumOffload | stack.CapabilityRXChecksumOffload
}

// gsoMTU is the MTU from which packets are large enough by themselves.
const gsoMTU = 32 << 10

// SupportedGSO implements stack.GSOEndpoint: with a small MTU the kernel cuts
// large packets into segments.
func (l *linkEndpoint) SupportedGSO() stack.SupportedGSO {
	if l.mtu >= gsoMTU || l.single {
		return stack.GSONotSupported
	}
	return stack.HostGSOSupported
}

// GSOMaxSize implements stack.GSOEndpoint.
func (*linkEndpoint) GSOMaxSize() uint32 { return 1<<16 - 1 }

// The rest of stack.LinkEndpoint has no meaning for a TUN.

// SetMTU implements stack.LinkEndpoint.
func (*linkEndpoint) SetMTU(uint32) {}

// MaxHeaderLength implements stack.LinkEndpoint.
func (*linkEndpoint) MaxHeaderLength() uint16 { return 0 }

// LinkAddress implements stack.LinkEndpoint.
func (*linkEndpoint) LinkAddress() tcpip.LinkAddress { return "" }

// SetLinkAddress implements stack.LinkEndpoint.
func (*linkEndpoint) SetLinkAddress(tcpip.LinkAddress) {}

// Wait implements stack.LinkEndpoint.
func (*linkEndpoint) Wait() {}

// ARPHardwareType implements stack.LinkEndpoint.
func (*linkEndpoint) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareNone }

// AddHeader implements stack.LinkEndpoint.
func (*linkEndpoint) AddHeader(*stack.PacketBuffer) {}

// ParseHeader implements stack.LinkEndpoint.
func (*linkEndpoint) ParseHeader(*stack.PacketBuffer) bool { return true }

// Close implements stack.LinkEndpoint.
func (*linkEndpoint) Close() {}

// SetOnCloseAction implements stack.LinkEndpoint.
func (*linkEndpoint) SetOnCloseAction(func()) {}
