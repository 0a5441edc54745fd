package testnet

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// WireConfig says what a Wire does to packets. Both directions suffer alike.
type WireConfig struct {
	Loss    float64       // share of IP packets lost
	Reorder float64       // share of IP packets that arrive after one to three later ones
	Seed    uint64        // of the sequence of decisions
	Delay   time.Duration // of each packet
}

// A Wire joins two namespaces as a veth pair does, and loses, reorders and delays
// packets. It forwards between two TAP devices, one at each end, which have no
// offloads: what it meets are packets of at most 1500 bytes, as on a real wire.
// (The kernel's own netem is not built everywhere.)
type Wire struct {
	a, b *os.File
	done sync.WaitGroup

	forwarded, lost, reordered atomic.Uint64
}

// wireMaxFrame is an Ethernet header, a VLAN tag and the MTU, rounded up.
const wireMaxFrame = 2048

// wireHold is how long a packet is held back when no other follows it.
const wireHold = 3 * time.Millisecond

// wireQueue is how many packets a TAP holds for us. The default of 500 is soon
// full when thousands of clients begin at once, and what it drops is not in the
// wire's account.
const wireQueue = 20000

// ConnectWire joins two namespaces by a Wire, with an address at each end, and
// sets it up. Close it before the namespaces.
func ConnectWire(a *NS, devA, cidrA string, b *NS, devB, cidrB string, cfg WireConfig) (*Wire, error) {
	w := &Wire{}
	var err error
	if w.a, err = openTap(a, devA); err != nil {
		return nil, err
	}
	if w.b, err = openTap(b, devB); err != nil {
		return nil, errors.Join(err, w.a.Close())
	}
	if err := setUpEnds(a, devA, cidrA, b, devB, cidrB); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	w.done.Go(func() { w.carry(w.a, w.sender(w.b, cfg.Delay), newFate(cfg, 1)) })
	w.done.Go(func() { w.carry(w.b, w.sender(w.a, cfg.Delay), newFate(cfg, 2)) })
	return w, nil
}

// Close takes the wire and its devices away.
func (w *Wire) Close() error {
	err := errors.Join(w.a.Close(), w.b.Close())
	w.done.Wait()
	return err
}

// Stats returns how many packets were forwarded, lost, and forwarded late.
func (w *Wire) Stats() (forwarded, lost, reordered uint64) {
	return w.forwarded.Load(), w.lost.Load(), w.reordered.Load()
}

func openTap(ns *NS, dev string) (f *os.File, err error) {
	f, err = ns.OpenTun(dev, unix.IFF_TAP)
	if err != nil {
		return nil, fmt.Errorf("tap %s in %s: %w", dev, ns.name, err)
	}
	link, err := ns.nl.LinkByName(dev)
	if err == nil {
		err = ns.nl.LinkSetTxQLen(link, wireQueue)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("tap %s in %s: %w", dev, ns.name, err), f.Close())
	}
	return f, nil
}

// OpenTun makes a TUN or TAP device in the namespace, as mode says (unix.IFF_TUN or
// IFF_TAP), which is there until the file is closed.
func (n *NS) OpenTun(dev string, mode uint16) (f *os.File, err error) {
	n.Do(func() { f, err = openTun(dev, mode) })
	return f, err
}

func openTun(dev string, mode uint16) (*os.File, error) {
	req, err := unix.NewIfreq(dev)
	if err != nil {
		return nil, err
	}
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	req.SetUint16(mode | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	// Not before TUNSETIFF: a device that is not there yet cannot be polled.
	return os.NewFile(uintptr(fd), dev), nil
}

// sender returns a function that forwards a frame, which it borrows, after the
// delay; called with nil, it ends.
func (w *Wire) sender(to *os.File, delay time.Duration) func([]byte) {
	now := func(frame []byte) {
		// A frame that the other end cannot take now is lost, as on any network.
		if _, err := to.Write(frame); err != nil {
			w.lost.Add(1)
			return
		}
		w.forwarded.Add(1)
	}
	if delay == 0 {
		return func(frame []byte) {
			if frame != nil {
				now(frame)
			}
		}
	}
	type late struct {
		frame []byte
		due   time.Time
	}
	queue := make(chan late, wireQueue)
	w.done.Go(func() {
		for l := range queue {
			<-time.After(time.Until(l.due))
			now(l.frame)
		}
	})
	return func(frame []byte) {
		if frame == nil {
			close(queue)
			return
		}
		queue <- late{bytes.Clone(frame), time.Now().Add(delay)}
	}
}

// carry forwards frames until a device is closed.
func (w *Wire) carry(from *os.File, forward func([]byte), f *fate) {
	defer forward(nil)
	buf, held := make([]byte, wireMaxFrame), make([]byte, 0, wireMaxFrame)
	overtaken := 0 // packets that are still to pass the held one
	release := func() {
		forward(held)
		held = held[:0]
		_ = from.SetReadDeadline(time.Time{})
	}
	for {
		n, err := from.Read(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			release()
			continue
		}
		if err != nil {
			return
		}
		switch f.of(buf[:n]) {
		case lose:
			w.lost.Add(1)
			continue
		case delay:
			if len(held) == 0 {
				w.reordered.Add(1)
				held = append(held, buf[:n]...)
				overtaken = 1 + f.rng.IntN(3)
				_ = from.SetReadDeadline(time.Now().Add(wireHold))
				continue
			}
		case pass:
		}
		forward(buf[:n])
		if len(held) == 0 {
			continue
		}
		if overtaken--; overtaken == 0 {
			release()
		}
	}
}

// verdict is what becomes of a frame.
type verdict uint8

const (
	pass verdict = iota
	lose
	delay
)

// fate decides over the frames of one direction.
type fate struct {
	loss, reorder float64
	rng           *rand.Rand
}

func newFate(cfg WireConfig, direction uint64) *fate {
	return &fate{loss: cfg.Loss, reorder: cfg.Reorder, rng: rand.New(rand.NewPCG(cfg.Seed, direction))}
}

// of decides over one frame. What is not IPv4 or TCP or UDP over IPv6 always
// passes: a lost neighbour solicitation takes a second to repeat and proves
// nothing about us.
func (f *fate) of(frame []byte) verdict {
	const (
		etherHeader  = 14
		ipv6NextHead = etherHeader + 6
	)
	if len(frame) <= ipv6NextHead {
		return pass
	}
	switch etherType := uint16(frame[12])<<8 | uint16(frame[13]); {
	case etherType == unix.ETH_P_IP:
	case etherType == unix.ETH_P_IPV6 && frame[ipv6NextHead] != unix.IPPROTO_ICMPV6:
	default:
		return pass
	}
	switch p := f.rng.Float64(); {
	case p < f.loss:
		return lose
	case p < f.loss+f.reorder:
		return delay
	default:
		return pass
	}
}
