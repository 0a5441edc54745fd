package netstack

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/ports"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// What Dial refuses.
var (
	// ErrTarget says that a target cannot be reached through a TUN device.
	ErrTarget = errors.New("unusable target")
	// ErrStackFull says that the stack has no room for one more session.
	ErrStackFull = errors.New("stack is full")
)

const (
	nicID = 1
	// A session's memory is used as bytes come, so that windows may be large: the
	// owner absorbs at once, and what it absorbs is not even kept (see reader).
	receiveBuffer = 4 << 20
	sendBuffer    = 256 << 10
	maxSendBuffer = 1 << 20
	// A target that takes connections and does not read leaves here what is written
	// to them. A new conn beside many gets its share of sendRoom, and always something.
	sendRoom        = 64 << 20
	leastSendBuffer = 16 << 10
	// deadPeer is how long the target may leave bytes unacknowledged, or unread by
	// its application with a closed window: gVisor does not tell the two apart.
	deadPeer = 2 * time.Minute
	// lingerTime is how long a released conn waits for the target's FIN.
	lingerTime = 5 * time.Second
	// lifetime of our packets, in hops. A target is on this host. When its address
	// has gone, or a firewall changes it, a host that forwards would send the
	// packet on with a client's address; no router forwards a packet's last hop.
	lifetime = 1
)

// A Stack is one shard: one gVisor stack and one TUN queue. Its methods, and those
// of its Conns, are for one goroutine unless said otherwise.
type Stack struct {
	net     *Net
	index   int
	gv      *stack.Stack
	link    *linkEndpoint
	out     *out
	lines   *lines // nil: no network is emulated
	ready   readyList
	dialing dialing
	tapping sync.Mutex
	tap     Tap
	v4, v6  slots
	outward outwardTable
	payload bytes.Reader // of the Write that runs
	dead    tcpip.TCPUserTimeoutOption

	shaking  map[netip.AddrPort]*handshakes // by target
	inLine   int                            // conns whose SYN waits
	launcher *time.Timer
}

// Tap is told of every packet the target sends to a conn: user is what Dial was
// given, headers the IP and TCP headers with outward addresses, lent until it
// returns, and time the Unix time in ns. It runs on a TUN reader's goroutine and
// must be quick; calls of one stack do not overlap.
type Tap func(user uint64, time int64, headers []byte, payloadLen int)

func newStack(n *Net, index int, tun io.Writer) (*Stack, error) {
	s := &Stack{net: n, index: index, dead: tcpip.TCPUserTimeoutOption(deadPeer)}
	s.ready.wake = make(chan struct{}, 1)
	s.outward.conns = make(map[tupleKey]*Conn)
	s.shaking = make(map[netip.AddrPort]*handshakes)
	s.dialing = dialing{stack: s, now: n.now, timeout: connectTimeout}
	s.link = &linkEndpoint{owner: s, mtu: uint32(n.cfg.MTU), single: n.cfg.Line.single()}
	s.out = newOut(tun, n.cfg.MTU, n.lost)
	if n.cfg.Line.on() {
		s.lines = newLines(s, n.cfg.Line, n.now)
		s.out.line = s.lines
	}
	s.gv = stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol},
	})
	if terr := s.setUp(); terr != nil {
		s.gv.Close()
		return nil, fmt.Errorf("set up stack %d: %v", index, terr)
	}
	return s, nil
}

func (s *Stack) setUp() tcpip.Error {
	if terr := setOptions(s.gv); terr != nil {
		return terr
	}
	if terr := s.gv.CreateNIC(nicID, s.link); terr != nil {
		return terr
	}
	s.gv.SetRouteTable([]tcpip.Route{
		{Destination: header.IPv4EmptySubnet, NIC: nicID},
		{Destination: header.IPv6EmptySubnet, NIC: nicID},
	})
	return nil
}

// setOptions sets what endpoints take over when they are made, so that none has
// to be set on each.
func setOptions(gv *stack.Stack) tcpip.Error {
	sack := tcpip.TCPSACKEnabled(true)
	// RACK has kept windows small: https://github.com/google/gvisor/issues/9778.
	recovery := tcpip.TCPRecovery(0)
	// Cubic's window grows without bound where nothing is lost, as here, and has
	// overflowed: https://github.com/google/gvisor/issues/11632.
	control := tcpip.CongestionControlOption("reno")
	receive := tcpip.TCPReceiveBufferSizeRangeOption{Min: 4 << 10, Default: receiveBuffer, Max: receiveBuffer}
	send := tcpip.TCPSendBufferSizeRangeOption{Min: 4 << 10, Default: sendBuffer, Max: maxSendBuffer}
	moderate := tcpip.TCPModerateReceiveBufferOption(false) // fixed size, see receiveBuffer
	nagle := tcpip.TCPDelayEnabled(false)
	linger := tcpip.TCPLingerTimeoutOption(lingerTime)
	// The target's late FIN is answered without the endpoint, see reader.answerFIN.
	timeWait := tcpip.TCPTimeWaitTimeoutOption(0)
	for _, o := range []tcpip.SettableTransportProtocolOption{
		&sack, &recovery, &control, &receive, &send, &moderate, &nagle, &linger, &timeWait,
	} {
		if terr := gv.SetTransportProtocolOption(tcp.ProtocolNumber, o); terr != nil {
			return terr
		}
	}
	for _, proto := range []tcpip.NetworkProtocolNumber{ipv4.ProtocolNumber, ipv6.ProtocolNumber} {
		ttl := tcpip.DefaultTTLOption(lifetime)
		if terr := gv.SetNetworkProtocolOption(proto, &ttl); terr != nil {
			return terr
		}
	}
	return nil
}

// SetTap sets the tap, before the first Dial.
func (s *Stack) SetTap(t Tap) { s.tap = t }

// Wake is signalled (capacity 1) when Ready has something.
func (s *Stack) Wake() <-chan struct{} { return s.ready.wake }

// Ready appends the conns with news since the last call, each once, and returns
// the slice.
//
// The call also says that the owner has dealt with the earlier conns: ACKs that
// found no packet of theirs to ride on leave now. Wake is signalled once more for
// that, so that a call may return nothing.
func (s *Stack) Ready(dst []*Conn) []*Conn {
	if s.out.flushSoon() {
		s.ready.signal()
	}
	for _, c := range s.ready.take() {
		c.pending.Store(false)
		c.shaken()
		switch {
		case !c.released:
			dst = append(dst, c)
		case c.over():
			s.forget(c)
		}
	}
	s.launch()
	return dst
}

// Len returns how many conns the stack has, released ones that still finish
// included.
func (s *Stack) Len() int { return s.v4.count + s.v6.count }

// over reports whether gVisor has let go of the endpoint.
func (c *Conn) over() bool {
	st := tcp.EndpointState(c.ep.State())
	return st == tcp.StateClose || st == tcp.StateError
}

// forget ends a conn that is over: no packet of it will come or go.
func (s *Stack) forget(c *Conn) {
	if c.forgotten || c.line != nil && c.line.busy() {
		return
	}
	c.forgotten = true
	c.queue.EventUnregister(&c.entry)
	s.outward.remove(c.key)
	s.slots(c.key.v6()).remove(c)
	s.net.alloc.retire(c.key)
}

func (s *Stack) slots(v6 bool) *slots {
	if v6 {
		return &s.v6
	}
	return &s.v4
}

// Dial starts a connection to target from the lease's address; it takes the lease
// over, also when it fails. It returns at once; news come through Ready.
func (s *Stack) Dial(l Lease, target netip.AddrPort, user uint64) (*Conn, error) {
	c, err := s.dial(l, target, user)
	if err != nil {
		s.net.Release(l)
		return nil, fmt.Errorf("dial %v from %v: %w", target, l.Client, err)
	}
	return c, nil
}

func (s *Stack) dial(l Lease, target netip.AddrPort, user uint64) (*Conn, error) {
	target = netip.AddrPortFrom(target.Addr().Unmap(), target.Port())
	if l.Shard != s.index {
		return nil, fmt.Errorf("lease of shard %d on stack %d", l.Shard, s.index)
	}
	if err := s.net.checkTarget(l, target); err != nil {
		return nil, err
	}
	c := &Conn{User: user, stack: s, key: l.key, target: target, path: newPath(l.Client, target)}
	ep, terr := s.gv.NewEndpoint(tcp.ProtocolNumber, c.proto(), &c.queue)
	if terr != nil {
		return nil, fmt.Errorf("endpoint: %v", terr)
	}
	c.ep = ep.(*tcp.Endpoint)
	if room := sendBufferOf(s.Len()); room < sendBuffer {
		c.ep.SocketOptions().SetSendBufferSize(room, true) // gVisor lets it grow no more
	}
	if s.lines != nil {
		c.line = s.lines.line(l.RTT)
	}
	slots := s.slots(c.path.v6)
	ok, err := slots.put(c, func(last byte) error { return s.addInner(c.path.v6, last) })
	if err == nil && !ok {
		err = ErrStackFull
	}
	if err != nil {
		c.ep.Close()
		return nil, err
	}
	s.outward.put(c.key, c)
	c.entry.Init((*connEvents)(c), waiter.EventIn|waiter.EventOut|waiter.EventErr|waiter.EventHUp|waiter.EventRdHUp)
	c.queue.EventRegister(&c.entry)
	if err := s.handshakes(c).begin(c); err != nil {
		c.queue.EventUnregister(&c.entry)
		s.outward.remove(c.key)
		slots.remove(c)
		c.ep.Close()
		return nil, err
	}
	return c, nil
}

// sendBufferOf returns how much a new conn beside so many may hold, at first.
func sendBufferOf(conns int) int64 {
	return min(max(sendRoom/int64(max(conns, 1)), leastSendBuffer), sendBuffer)
}

// connect sends the SYN, from the conn's slot.
func (c *Conn) connect() error {
	s := c.stack
	s.out.begin()
	defer s.out.done()
	local := tcpip.FullAddress{NIC: nicID, Addr: innerAddr(c.path.v6, c.slot.inner()), Port: c.slot.port()}
	remote := tcpip.FullAddress{NIC: nicID, Addr: innerAddr(c.path.v6, innerRemote), Port: c.path.dstPort}
	if terr := c.ep.SetSockOpt(&s.dead); terr != nil {
		return fmt.Errorf("connect: %v", terr)
	}
	if terr := c.ep.Bind(local); terr != nil {
		return fmt.Errorf("connect: %v", terr)
	}
	terr := c.ep.Connect(remote)
	s.gv.ReleasePort(c.reservation(local))
	if _, ok := terr.(*tcpip.ErrConnectStarted); ok {
		return nil
	}
	return fmt.Errorf("connect: %v", terr)
}

// proto is the conn's family.
func (c *Conn) proto() tcpip.NetworkProtocolNumber {
	if c.path.v6 {
		return ipv6.ProtocolNumber
	}
	return ipv4.ProtocolNumber
}

// reservation is gVisor's note that a port is in use. It is not needed, since a slot is
// one conn's alone, and takes 1.4 KB, a fifth of what a conn takes in all.
func (c *Conn) reservation(local tcpip.FullAddress) ports.Reservation {
	return ports.Reservation{
		Networks:  []tcpip.NetworkProtocolNumber{c.proto()},
		Transport: tcp.ProtocolNumber, Addr: local.Addr, Port: local.Port,
	}
}

// addInner gives the stack one more inner address.
func (s *Stack) addInner(v6 bool, last byte) error {
	addr := tcpip.ProtocolAddress{Protocol: ipv4.ProtocolNumber, AddressWithPrefix: innerAddr(v6, last).WithPrefix()}
	if v6 {
		addr.Protocol = ipv6.ProtocolNumber
	}
	if terr := s.gv.AddProtocolAddress(nicID, addr, stack.AddressProperties{}); terr != nil {
		return fmt.Errorf("add inner address: %v", terr)
	}
	return nil
}

func innerAddr(v6 bool, last byte) tcpip.Address {
	if v6 {
		return tcpip.AddrFrom16(inner6(last))
	}
	return tcpip.AddrFrom4(inner4(last))
}

// close resets what is open and stops the stack; the packets of it are written.
func (s *Stack) close() {
	s.dialing.close()
	if s.launcher != nil {
		s.launcher.Stop()
	}
	if s.lines != nil {
		s.lines.last()
	}
	for _, c := range append(s.v4.all(), s.v6.all()...) {
		s.out.begin()
		c.ep.Abort()
		s.out.done()
		c.ep.Close()
	}
	s.gv.Close()
	s.gv.Wait()
	if s.lines != nil {
		s.lines.close()
	}
	s.out.close()
}
