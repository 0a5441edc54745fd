package testnet

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// A Watch records under which source addresses a namespace sends packets on one
// of its devices. Packets with the device's own addresses are passed over by the
// kernel, so that watching a busy device costs little.
type Watch struct {
	file *os.File
	done sync.WaitGroup

	mu      sync.Mutex
	strange map[netip.Addr]int
}

// NewWatch watches dev until Close. Addresses that dev gets later are strange to
// it.
func NewWatch(ns *NS, dev string) (*Watch, error) {
	w := &Watch{strange: make(map[netip.Addr]int)}
	var err error
	ns.Do(func() { w.file, err = openWatch(dev) })
	if err != nil {
		return nil, fmt.Errorf("watch %s in %s: %w", dev, ns.name, err)
	}
	w.done.Go(w.read)
	return w, nil
}

// Close ends the watch and returns the strange addresses with how many packets
// each sent.
func (w *Watch) Close() (map[netip.Addr]int, error) {
	err := w.file.Close()
	w.done.Wait()
	return w.strange, err
}

// Packets returns how many packets with strange addresses were sent so far.
func (w *Watch) Packets() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for _, packets := range w.strange {
		n += packets
	}
	return n
}

func (w *Watch) read() {
	buf := make([]byte, 64)
	for {
		n, err := w.file.Read(buf)
		if err != nil {
			return
		}
		if src, ok := source(buf[:n]); ok && !src.IsLinkLocalUnicast() && !src.IsUnspecified() {
			w.mu.Lock()
			w.strange[src]++
			w.mu.Unlock()
		}
	}
}

// source returns the source address of an IP packet.
func source(p []byte) (netip.Addr, bool) {
	switch {
	case len(p) >= 20 && p[0]>>4 == 4:
		return netip.AddrFromSlice(p[12:16])
	case len(p) >= 40 && p[0]>>4 == 6:
		return netip.AddrFromSlice(p[8:24])
	default:
		return netip.Addr{}, false
	}
}

func openWatch(dev string) (*os.File, error) {
	iface, err := net.InterfaceByName(dev)
	if err != nil {
		return nil, err
	}
	addrs, err := iface.Addrs()
	if err != nil {
		return nil, err
	}
	var own []netip.Addr
	for _, a := range addrs {
		prefix, err := netip.ParsePrefix(a.String())
		if err != nil {
			return nil, err
		}
		own = append(own, prefix.Addr())
	}
	filter, err := bpf.Assemble(strangeSource(own))
	if err != nil {
		return nil, err
	}
	// Protocol 0 receives nothing yet: the filter is there before the first packet.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if err := attach(fd, filter, iface.Index); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), "watch "+dev), nil
}

func attach(fd int, filter []bpf.RawInstruction, ifindex int) error {
	prog := make([]unix.SockFilter, len(filter))
	for i, f := range filter {
		prog[i] = unix.SockFilter{Code: f.Op, Jt: f.Jt, Jf: f.Jf, K: f.K}
	}
	fprog := unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &fprog); err != nil {
		return err
	}
	const allProtocols = uint16(unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8) // network order
	return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: allProtocols, Ifindex: ifindex})
}

// strangeSource is a filter that lets outgoing IP packets through whose source
// is none of own. The packet begins with its network header.
func strangeSource(own []netip.Addr) []bpf.Instruction {
	const keep = 64
	drop, accept := bpf.RetConstant{Val: 0}, bpf.RetConstant{Val: keep}
	prog := []bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtType},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.PACKET_OUTGOING, SkipTrue: 1},
		drop,
	}
	for _, addr := range own {
		proto, at := uint32(unix.ETH_P_IP), uint32(12)
		if addr.Is6() {
			proto, at = unix.ETH_P_IPV6, 8
		}
		words := slices.Collect(slices.Chunk(addr.AsSlice(), 4))
		// For each address: unless the protocol and all its words are equal, go on
		// behind this part.
		size := uint8(2 + 2*len(words) + 1)
		prog = append(prog, bpf.LoadExtension{Num: bpf.ExtProto},
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: proto, SkipFalse: size - 2})
		for i, word := range words {
			val := uint32(word[0])<<24 | uint32(word[1])<<16 | uint32(word[2])<<8 | uint32(word[3])
			prog = append(prog, bpf.LoadAbsolute{Off: at + uint32(4*i), Size: 4},
				bpf.JumpIf{Cond: bpf.JumpEqual, Val: val, SkipFalse: size - uint8(4+2*i)})
		}
		prog = append(prog, drop)
	}
	return append(prog, accept)
}
