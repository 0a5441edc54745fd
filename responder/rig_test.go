package responder

import (
	"context"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"flowtwin/internal/flow"
	"flowtwin/internal/packet"
	"flowtwin/tunnel"
	"flowtwin/tunnel/frame"
)

// A rig is a responder on a fake network, and a copier's tunnel to it.
type rig struct {
	t      *testing.T
	net    *fakeNet
	server *server
	client *tunnel.Client
	out    strings.Builder
	stop   func()                // as SIGTERM
	copier func() *tunnel.Client // one more
	ended  chan struct{}

	closed map[uint32]frame.Closed // of lane 0, by flow
	heads  map[uint32]uint64       // TargetHeaders so far
	estab  int
	moved  frame.Moved
	told   uint64 // bytes, by accounts
	said   bool   // ReturnBye... of lane 0
	copies frame.Copies
}

// newRig's copier has one map, or one for each of the targets.
func newRig(t *testing.T, cfg Config, n *fakeNet, targets ...string) *rig {
	t.Helper()
	id, err := tunnel.LoadIdentity(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	srv, err := tunnel.Listen(tunnel.ServerConfig{Addr: "127.0.0.1:0", Identity: id})
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{
		t: t, net: n, ended: make(chan struct{}),
		closed: make(map[uint32]frame.Closed), heads: make(map[uint32]uint64),
	}
	cfg.Listen, cfg.Out = "unused", &r.out
	if cfg, err = cfg.populate(); err != nil {
		t.Fatal(err)
	}
	r.server = newServer(cfg, n)
	ctx, cancel := context.WithCancel(t.Context())
	r.stop = cancel
	go func() {
		defer close(r.ended)
		if err := r.server.serve(ctx, func(ctx context.Context) (peer, error) {
			p, err := srv.Accept(ctx)
			if err != nil {
				return nil, err
			}
			return &realPeer{Peer: p}, nil
		}); err != nil {
			t.Error(err)
		}
	}()
	r.copier = func() *tunnel.Client {
		c, err := tunnel.NewClient(tunnel.ClientConfig{
			Invite: id.Invite([]string{srv.Addr().String()}, time.Time{}), Lanes: 1, Name: "test",
			Maps: maps(targets),
		})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	r.client = r.copier()
	if err := r.client.Connect(ctx); err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() { _ = r.client.Run(ctx) })
	wait(t, "the lane", func() bool { r.lane().Epoch(); return r.lane().Up() })
	t.Cleanup(func() {
		cancel()
		<-r.ended
		if !strings.Contains(r.out.String(), "sums       ok") {
			t.Errorf("summary says\n%s", &r.out)
		}
		_ = r.client.Close()
		running.Wait()
		if err := srv.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func oneTarget(h *host) *targets {
	t := &targets{watches: &h.watches}
	t.grow(maps(nil))
	return t
}

func maps(targets []string) (m []tunnel.Map) {
	if len(targets) == 0 {
		targets = []string{"127.0.0.1:1"}
	}
	for i, t := range targets {
		m = append(m, tunnel.Map{Port: uint16(80 + i), Target: netip.MustParseAddrPort(t)})
	}
	return m
}

func (r *rig) lane() *tunnel.Lane { return r.client.Lane(0) }

// client returns the address of the client of a flow.
func client(flow uint32) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr("10.9.8.7"), uint16(1000+flow))
}

func (r *rig) open(f uint32) { r.t.Helper(); r.openMap(f, 0) }

func (r *rig) openMap(f uint32, m uint16) { r.t.Helper(); r.openAs(f, frame.Open{Map: m}) }

// openAs opens a flow with the options of o.
func (r *rig) openAs(f uint32, o frame.Open) {
	r.t.Helper()
	c := client(f)
	o.Key = flow.Key{Tuple: flow.Tuple{
		Client: packet.AddrFrom(c.Addr()), ClientPort: c.Port(), ServerPort: 80,
	}}
	if !r.lane().Open(f, &o) {
		r.t.Fatal("lane takes no Open")
	}
}

func (r *rig) data(f uint32, seen uint64, p string) {
	r.t.Helper()
	if !r.lane().Data(f, seen, time.Now().UnixNano(), []byte(p)) {
		r.t.Fatal("lane takes no Data")
	}
}

// read takes the returns that have come.
func (r *rig) read() {
	r.t.Helper()
	frames, _ := r.lane().Returns()
	for len(frames) > 0 {
		t, flow, body, rest, err := frame.Next(frames)
		if err != nil {
			r.t.Fatal(err)
		}
		frames = rest
		_, over := r.closed[flow]
		switch t {
		case frame.TypeClosed:
			c, _ := frame.ParseClosed(body)
			if over {
				r.t.Errorf("flow %d: two accounts", flow)
			}
			if c.HeadersReturned != r.heads[flow] {
				r.t.Errorf("flow %d: account says %d headers, %d have come", flow, c.HeadersReturned, r.heads[flow])
			}
			r.closed[flow] = c
			r.told += c.DeliveredBytes + c.DroppedBytes
		case frame.TypeTargetHeader:
			if over {
				r.t.Errorf("flow %d: header behind its account", flow)
			}
			r.heads[flow]++
		case frame.TypeEstablished:
			e, _ := frame.ParseEstablished(body)
			if over || e.Client != client(flow) || e.Connect != 250 {
				r.t.Errorf("flow %d: established %+v, over %v", flow, e, over)
			}
			r.estab++
		case frame.TypeProgress:
		case frame.TypeMoved:
			m, _ := frame.ParseMoved(body)
			r.moved.Segments += m.Segments
			r.moved.Bytes += m.Bytes
			if r.net.target.refuse && r.moved.Bytes > r.told {
				r.t.Errorf("%d bytes that the target refused are told as done with before their account: the copier would take them for delivered", r.moved.Bytes-r.told)
			}
		case frame.TypeCopies:
			r.copies, _ = frame.ParseCopies(body)
		case frame.TypeReturnBye:
			r.said = true
		default:
			r.t.Errorf("frame of type %s", t)
		}
	}
}

func (r *rig) wait(what string, cond func() bool) {
	r.t.Helper()
	wait(r.t, what, func() bool { r.read(); return cond() })
}
