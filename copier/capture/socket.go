package capture

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"flowtwin/internal/epoll"
)

// frameBytes is the kernel's unit of ring sizes. Packets of a TPACKET_V3 ring
// may be larger, up to a block.
const frameBytes = 2048

// A socket is one AF_PACKET socket with its ring.
//
// It is waited for through the runtime's poller. That costs less than half of a
// poll(2) of our own, which disturbs the runtime's monitor at each wake: with 2,000,
// 10,000 and 20,000 packets/s 0.6, 1.3 and 1.7 % of a CPU against 1.8, 3.4 and
// 3.7 %, and one context switch a wake against three.
type socket struct {
	fd     int
	waiter *epoll.Waiter
	blocks blocks

	poll    func(uintptr) bool // s.look, made once because it would be allocated each time
	looks   int                // in the present wait
	resting bool               // it ends with time, not with a block
	got     bool
	fault   error
}

// openSocket opens a socket with a ring that does not receive anything yet.
func openSocket(cfg Config) (*socket, error) {
	// Protocol 0 keeps it deaf until bind, by when the filter is set.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	switch {
	case errors.Is(err, unix.EPERM):
		return nil, fmt.Errorf("capture: opening a packet socket needs CAP_NET_RAW: run as root, or once \"setcap cap_net_raw+ep\" on the program: %w", err)
	case errors.Is(err, unix.EAFNOSUPPORT):
		return nil, fmt.Errorf("capture: this kernel has no packet sockets (CONFIG_PACKET): %w", err)
	case err != nil:
		return nil, fmt.Errorf("capture: packet socket: %w", err)
	}
	s := &socket{fd: fd}
	s.poll = s.look
	if s.waiter, err = epoll.New(fd); err != nil {
		return nil, errors.Join(fmt.Errorf("capture: %w", err), s.close())
	}
	if err := s.addRing(cfg); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

func (s *socket) addRing(cfg Config) error {
	if err := unix.SetsockoptInt(s.fd, unix.SOL_PACKET, unix.PACKET_VERSION, unix.TPACKET_V3); err != nil {
		return fmt.Errorf("capture: this kernel has no TPACKET_V3 rings: %w", err)
	}
	n := cfg.RingBytes / cfg.Block
	req := unix.TpacketReq3{
		Block_size:     uint32(cfg.Block),
		Block_nr:       uint32(n),
		Frame_size:     frameBytes,
		Frame_nr:       uint32(cfg.Block / frameBytes * n),
		Retire_blk_tov: uint32(cfg.Retire.Milliseconds()),
	}
	if err := unix.SetsockoptTpacketReq3(s.fd, unix.SOL_PACKET, unix.PACKET_RX_RING, &req); err != nil {
		return fmt.Errorf("capture: ring of %d blocks of %d KiB: %w", n, cfg.Block>>10, err)
	}
	mem, err := unix.Mmap(s.fd, 0, n*cfg.Block, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("capture: map ring of %d KiB: %w", n*cfg.Block>>10, err)
	}
	s.blocks = blocks{mem: mem, size: cfg.Block}
	return nil
}

// setFilter gives the socket a filter in place of the one it has.
func (s *socket) setFilter(raw []bpf.RawInstruction) error {
	f := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		f[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	prog := unix.SockFprog{Len: uint16(len(f)), Filter: &f[0]}
	err := unix.SetsockoptSockFprog(s.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &prog)
	if errors.Is(err, unix.ENOMEM) {
		return fmt.Errorf("capture: filter of %d instructions: more than a socket's memory holds: raise net.core.optmem_max (sysctl) to 131072, or give fewer maps: %w", len(f), err)
	}
	if err != nil {
		return fmt.Errorf("capture: filter of %d instructions: %w", len(f), err)
	}
	return nil
}

// bind begins to receive from an interface, or from all when ifindex is 0.
func (s *socket) bind(ifindex int) error {
	all := binary.NativeEndian.Uint16([]byte{unix.ETH_P_ALL >> 8, unix.ETH_P_ALL & 0xff}) // in network order
	err := unix.Bind(s.fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: ifindex})
	if err != nil {
		return os.NewSyscallError("bind", err)
	}
	return nil
}

// found makes the socket the first member of a new fanout group, and returns the
// group. The kernel gives each packet to one member, by a hash that is the same
// for both directions of a flow. (With one exception: for frames whose VLAN tag
// was put in by software on the way out, tx-vlan-offload off, the kernel hashes
// wrong bytes, and packets from the server may come by another ring.)
func (s *socket) found() (group int, err error) {
	if err := s.fanout((unix.PACKET_FANOUT_HASH | unix.PACKET_FANOUT_FLAG_UNIQUEID) << 16); err != nil {
		return 0, err
	}
	v, err := unix.GetsockoptInt(s.fd, unix.SOL_PACKET, unix.PACKET_FANOUT)
	if err != nil {
		return 0, fmt.Errorf("capture: read fanout group: %w", err)
	}
	return v & 0xffff, nil
}

// join makes the socket a member of a group.
func (s *socket) join(group int) error { return s.fanout(unix.PACKET_FANOUT_HASH<<16 | group) }

func (s *socket) fanout(arg int) error {
	if err := unix.SetsockoptInt(s.fd, unix.SOL_PACKET, unix.PACKET_FANOUT, arg); err != nil {
		return fmt.Errorf("capture: share packets between rings (PACKET_FANOUT %#x): %w", arg, err)
	}
	return nil
}

// promiscuous makes the interfaces now take frames that are addressed to others, as
// a mirror port's all are, and those of before that are not among them no more. The
// kernel undoes it when the socket is closed, or the interface removed.
func (s *socket) promiscuous(before, now []iface) error {
	set := func(opt, ifindex int) error {
		m := unix.PacketMreq{Ifindex: int32(ifindex), Type: unix.PACKET_MR_PROMISC}
		return unix.SetsockoptPacketMreq(s.fd, unix.SOL_PACKET, opt, &m)
	}
	has := func(ifs []iface, f iface) bool {
		return slices.ContainsFunc(ifs, func(o iface) bool { return o.index == f.index })
	}
	for _, f := range before {
		if !has(now, f) {
			_ = set(unix.PACKET_DROP_MEMBERSHIP, f.index) // it may be gone
		}
	}
	for _, f := range now {
		if has(before, f) {
			continue
		}
		if err := set(unix.PACKET_ADD_MEMBERSHIP, f.index); err != nil {
			return fmt.Errorf("capture: take others' frames on %s: %w", f.name, err)
		}
	}
	return nil
}

// wait waits for a block until the deadline.
func (s *socket) wait() (bool, error) {
	s.resting = false
	return s.sleep(s.waiter.Watch(true))
}

// rest lets d pass before it looks for a block.
func (s *socket) rest(d time.Duration) (bool, error) {
	s.resting = true
	return s.sleep(errors.Join(s.waiter.Watch(false), s.waiter.Alarm(d)))
}

func (s *socket) sleep(err error) (bool, error) {
	if err != nil {
		return false, fmt.Errorf("capture: wait: %w", err)
	}
	s.looks, s.got, s.fault = 0, false, nil
	err = s.waiter.Wait(s.poll)
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return false, fmt.Errorf("capture: wait: %w", err)
	}
	return s.got, s.fault
}

// look takes a block if there is one, and reports whether the wait is over.
func (s *socket) look(uintptr) bool {
	if s.looks++; s.resting {
		if s.looks == 1 && !s.waiter.Rung() {
			return false
		}
		s.got = s.blocks.take()
		return true
	}
	if s.got = s.blocks.take(); s.got {
		return true
	}
	if s.looks == 1 {
		return false
	}
	// An event that brought no block may be an error, which is read to clear it.
	errno, err := unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		s.fault = fmt.Errorf("capture: read socket error: %w", err)
		return true
	}
	// An interface that is down, or gone, may come back: the set watches for it.
	if errno != 0 && unix.Errno(errno) != unix.ENETDOWN {
		s.fault = fmt.Errorf("capture: %w", unix.Errno(errno))
		return true
	}
	return false
}

// stats reads the kernel's counts, which begins them anew.
func (s *socket) stats() Stats {
	v, err := unix.GetsockoptTpacketStatsV3(s.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil {
		return Stats{} // cannot be on a socket with a ring
	}
	return Stats{Packets: uint64(v.Packets), Drops: uint64(v.Drops), Freezes: uint64(v.Freeze_q_cnt)}
}

func (s *socket) close() error {
	var unmap error
	if s.blocks.mem != nil {
		unmap = os.NewSyscallError("munmap", unix.Munmap(s.blocks.mem))
		s.blocks.mem = nil
	}
	var wait error
	if s.waiter != nil {
		wait = s.waiter.Close()
	}
	return errors.Join(unmap, wait, os.NewSyscallError("close", unix.Close(s.fd)))
}
