package capture

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"flowtwin/internal/packet"
	"flowtwin/internal/packet/packettest"
	"flowtwin/internal/testnet"
)

// A link sends Ethernet frames made by hand.
type link struct {
	t    testing.TB
	fd   int
	peer net.HardwareAddr
}

// rawLink sends through dev of ns to eth0 of peer.
func rawLink(tb testing.TB, ns *testnet.NS, dev string, peer *testnet.NS) *link {
	tb.Helper()
	var eth *net.Interface
	var ifErr error
	peer.Do(func() { eth, ifErr = net.InterfaceByName("eth0") })
	if ifErr != nil {
		tb.Fatal(ifErr)
	}
	var fd int
	var err error
	ns.Do(func() {
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return
		}
		var req *unix.Ifreq
		if req, err = unix.NewIfreq(dev); err != nil {
			return
		}
		if err = unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, req); err != nil {
			return
		}
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: int(req.Uint32())})
	})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = unix.Close(fd) })
	return &link{tb, fd, eth.HardwareAddr}
}

// send sends an Ethernet frame with pkt behind VLAN tags, each the protocol and
// the number.
func (l *link) send(pkt []byte, tags ...[2]uint16) {
	l.t.Helper()
	l.sendTo(l.peer, pkt, tags...)
}

func (l *link) sendTo(mac net.HardwareAddr, pkt []byte, tags ...[2]uint16) {
	l.t.Helper()
	frame := append(slices.Clone(mac), 2, 0, 0, 0, 0, 1)
	for _, tag := range tags {
		frame = binary.BigEndian.AppendUint16(frame, tag[0])
		frame = binary.BigEndian.AppendUint16(frame, tag[1])
	}
	proto := uint16(etherIPv4)
	if pkt[0]>>4 == 6 {
		proto = etherIPv6
	}
	frame = append(binary.BigEndian.AppendUint16(frame, proto), pkt...)
	if _, err := unix.Write(l.fd, frame); err != nil {
		l.t.Fatal(err)
	}
}

// tcp is a packet that carries payload.
func tcp(src, dst string, payload []byte) []byte {
	return packettest.Packet{
		Src: netip.MustParseAddrPort(src), Dst: netip.MustParseAddrPort(dst),
		Flags: packet.ACK, Payload: payload,
	}.Bytes()
}

// seen waits for n packets that carry payload.
func seen(n int) func([]taken) string {
	return func(all []taken) string {
		got := 0
		for _, p := range all {
			if p.view.PayloadLen > 0 || p.fault != packet.OK {
				got++
			}
		}
		if got < n {
			return fmt.Sprintf("%d packets, want %d", got, n)
		}
		return ""
	}
}

// How many tags a frame has does not show in what the reader gets. The tags'
// priorities and numbers are chosen so that they also look like IP headers.
func TestVLANTagsAreSkipped(t *testing.T) {
	tags := map[string][][2]uint16{
		"untagged":        nil,
		"one tag":         {{etherVLAN, 100}},
		"service tag":     {{etherQinQ, 100}},
		"two tags":        {{etherQinQ, 100}, {etherVLAN, 200}},
		"two of 802.1Q":   {{etherVLAN, 100}, {etherVLAN, 200}},
		"inner like IPv4": {{etherQinQ, 100}, {etherVLAN, 0x4500}},
		"inner like IPv6": {{etherQinQ, 100}, {etherVLAN, 0x6000}},
	}
	for name, tag := range tags {
		for _, ip := range []string{"10.9.0.%d:%d", "[fd09::%d]:%d"} {
			t.Run(name+" "+ip, func(t *testing.T) {
				cli, srv := fmt.Sprintf(ip, 1, 5000), fmt.Sprintf(ip, 2, 80)
				client, server := pair(t)
				tp := startTap(t, openIn(t, server, Config{Matches: serverAt(srv), Interfaces: []string{"eth0"}}))
				request, answer := randomBytes(t, 900), randomBytes(t, 800)
				rawLink(t, client, "eth0", server).send(tcp(cli, srv, request), tag...)
				rawLink(t, server, "eth0", client).send(tcp(srv, cli, answer), tag...)

				all := tp.until(t, seen(2))
				for _, p := range all {
					if p.fault == packet.OK && p.view.PayloadLen == 0 {
						continue // the kernels do not know this flow and reset it
					}
					want, n := request, len(request)
					if !p.ToServer {
						want, n = answer[:len(p.view.Payload)], len(answer)
					}
					if p.fault != packet.OK || !bytes.Equal(p.view.Payload, want) || p.view.PayloadLen != n {
						t.Errorf("fault %v, wrong bytes; %s", p.fault, describe(all))
					}
				}
			})
		}
	}
}

// With all interfaces a VLAN's frames are left to the VLAN's own device, but a
// tag that only carries a priority is part of the interface.
func TestAllLeavesVLANsToTheirDevices(t *testing.T) {
	client, server := pair(t)
	tp := startTap(t, openIn(t, server, Config{Matches: serverAt("10.9.0.2:80")}))
	in, out := rawLink(t, client, "eth0", server), rawLink(t, server, "eth0", client)
	request, answer := tcp("10.9.0.1:5000", "10.9.0.2:80", []byte("x")), tcp("10.9.0.2:80", "10.9.0.1:5000", []byte("x"))
	in.send(request, [2]uint16{etherVLAN, 100})
	out.send(answer, [2]uint16{etherVLAN, 100})
	in.send(tcp("10.9.0.1:5001", "10.9.0.2:80", []byte("x")), [2]uint16{etherVLAN, 0xe000})
	out.send(tcp("10.9.0.2:80", "10.9.0.1:5001", []byte("x")))
	for _, p := range tp.until(t, seen(2)) {
		if p.view.SrcPort == 5000 || p.view.DstPort == 5000 {
			t.Error("captured a frame of a VLAN")
		}
	}
}

// Addresses alone bring packets with IPv6 extension headers here; only those to
// the server's port go on. Later fragments have no port: the reader counts them.
func TestPacketsWithoutVisiblePorts(t *testing.T) {
	client, server := pair(t)
	tp := startTap(t, openIn(t, server, Config{Interfaces: []string{"eth0"}, Matches: []Match{
		{Addr: netip.MustParseAddr("10.9.0.2"), Port: 80}, {Addr: netip.MustParseAddr("fd09::2"), Port: 80},
	}}))
	in := rawLink(t, client, "eth0", server)
	extended := func(port uint16) []byte {
		return packettest.Packet{
			Src: netip.MustParseAddrPort("[fd09::1]:5000"), Dst: netip.AddrPortFrom(netip.MustParseAddr("fd09::2"), port),
			Flags: packet.ACK, Payload: []byte("payload"), Extensions: []packettest.Extension{{Type: 60, Body: make([]byte, 6)}},
		}.Bytes()
	}
	fragment := tcp("10.9.0.1:5000", "10.9.0.2:81", []byte("not a header"))
	binary.BigEndian.PutUint16(fragment[6:], 100)
	in.send(extended(81))
	in.send(fragment)
	in.send(extended(80))

	all := tp.until(t, seen(2))
	if all[0].fault != packet.Fragment {
		t.Errorf("first is %v, want the fragment", all[0].fault)
	}
	if all[1].fault != packet.OK || all[1].view.DstPort != 80 || string(all[1].view.Payload) != "payload" {
		t.Errorf("second is not the packet to the port; %s", describe(all))
	}
}
