package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"flowtwin/internal/e2e/rig"
	"flowtwin/internal/e2e/traffic"
	"flowtwin/internal/testnet"
)

// patience bounds each wait of the demo.
const patience = 20 * time.Second

const scenery = `FlowTwin: what clients ask the online server, the target is asked too.

   clients %s… ──── router ──── online %s:80   + copier
                                │
                                └────── target %s:80   + responder

`

// loads is what the clients do: a bit of everything.
func loads() []traffic.Load {
	return []traffic.Load{
		{Name: "keepalive", Clients: 30, Requests: 100, Rate: 1500},
		{Name: "short", Clients: 20, Requests: 1, Rate: 200},
		{Name: "post", Clients: 10, Requests: 20, Rate: 100, Bodies: []int{1, 500, 20_000, 65_536}},
		{Name: "upload", Clients: 2, Requests: 3, Rate: 4, Bodies: []int{1 << 20}},
		{Name: "download", Clients: 4, Requests: 5, Rate: 20, Answer: 200_000},
		{Name: "slow", Clients: 20, Requests: 2, Rate: 10, Bodies: []int{2000}, Pieces: 4, Pause: 200 * time.Millisecond},
		{Name: "reset", Clients: 5, Requests: 4, Rate: 40, Reset: true},
	}
}

// A show is the demo's network with what runs in it.
type show struct {
	rig            rig.Rig
	online, target *traffic.Server
	copier         *rig.Process
	responder      *rig.Process
}

func newShow(bin, dir string) (*show, error) {
	lab, err := testnet.NewLab(testnet.LabConfig{})
	if err != nil {
		return nil, err
	}
	return &show{rig: rig.Rig{Lab: lab, Bin: bin, Dir: dir}}, nil
}

// close takes everything away, in the reverse order.
func (s *show) close() error {
	for _, p := range []*rig.Process{s.copier, s.responder} {
		if p != nil {
			p.Kill()
		}
	}
	var errs []error
	for _, srv := range []*traffic.Server{s.online, s.target} {
		if srv != nil {
			errs = append(errs, srv.Close())
		}
	}
	return errors.Join(append(errs, s.rig.Lab.Close())...)
}

func (s *show) perform(ctx context.Context, duration time.Duration) error {
	fmt.Printf(scenery, testnet.ClientAddr(0), testnet.OnlineAddr, testnet.TargetAddr)
	if err := s.start(ctx); err != nil {
		return err
	}
	clients, err := s.clients(ctx, duration)
	if err != nil {
		return err
	}
	if err := s.stop(ctx); err != nil {
		return err
	}
	fmt.Println("\nThe copier's ledger:")
	for line := range strings.Lines(s.copier.Stdout()) {
		if line != "\n" {
			fmt.Print("   ", line)
		}
	}
	fmt.Println()
	return s.compare(clients)
}

// start starts servers and programs.
func (s *show) start(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if s.online, err = rig.Serve(s.rig.Lab.Online, ":80"); err != nil {
		return err
	}
	if s.target, err = rig.Serve(s.rig.Lab.Target, ":80"); err != nil {
		return err
	}
	fmt.Println("   target$ responder --listen :7443 --invite-file invite")
	if s.responder, err = s.rig.StartResponder(ctx); err != nil {
		return err
	}
	maps := "80-" + testnet.TargetAddr + ":80"
	fmt.Printf("   online$ copier -x %s --invite-file invite\n\n", maps)
	s.copier, err = s.rig.StartCopier(ctx, maps)
	return err
}

// clients lets the clients work and shows how far all three are.
func (s *show) clients(ctx context.Context, duration time.Duration) (traffic.Stats, error) {
	fmt.Printf("Clients work for %v: keep-alive and short connections, bodies of 1 byte to 1 MB,\n"+
		"downloads, slow senders, resets.\n\n", duration)
	dialer := traffic.NewDialer(s.rig.Lab.Clients, testnet.OnlineAddr+":80", testnet.ClientAddr)
	defer dialer.Close()
	working, cancel := context.WithTimeout(ctx, duration)
	defer cancel()
	var mu sync.Mutex
	var all traffic.Stats
	var wg sync.WaitGroup
	for _, l := range loads() {
		wg.Go(func() {
			stats := l.Run(working, dialer.Dial)
			mu.Lock()
			defer mu.Unlock()
			all.Add(stats)
		})
	}
	wg.Go(func() { s.progress(working) })
	wg.Wait()
	return all, ctx.Err()
}

// progress prints a line from time to time until ctx ends.
func (s *show) progress(ctx context.Context) {
	start := time.Now()
	tick := time.NewTicker(3 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		_, online, _ := s.online.Counts()
		_, target, _ := s.target.Counts()
		fmt.Printf("   %2.0f s   online has answered %7s requests, target %7s\n",
			time.Since(start).Seconds(), grouped(online), grouped(target))
	}
}

// stop waits until the copy has arrived, and ends both programs.
func (s *show) stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	// Whether it was reached is the comparison's to say.
	rig.Until(ctx, func() bool {
		oc, or, _ := s.online.Counts()
		tc, tr, open := s.target.Counts()
		return oc == tc && or == tr && open == 0
	})
	ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	for _, p := range []*rig.Process{s.copier, s.responder} {
		code, err := p.Stop(ctx)
		if err != nil {
			return err
		}
		if code != 0 {
			return fmt.Errorf("%s exits with %d:\n%s", p.Name, code, p.Output())
		}
	}
	return nil
}

// compare prints what the three saw; a difference is an error.
func (s *show) compare(clients traffic.Stats) error {
	online, target := s.online.Log(), s.target.Log()
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 3, ' ', tabwriter.AlignRight)
	_, _ = fmt.Fprintln(w, "\tconnections\trequests\tbody bytes\t")
	row := func(who string, connections, requests int, bytes int64) {
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t\n", who, grouped(connections), grouped(requests), grouped(int(bytes)))
	}
	row("clients made", int(clients.Connections), int(clients.Requests), clients.BodyBytes)
	row("online saw", len(online), online.Requests(), online.Bytes())
	row("target saw", len(target), target.Requests(), target.Bytes())
	if err := w.Flush(); err != nil {
		return err
	}
	diff := traffic.Compare(online, target)
	if clients.Errors > 0 {
		diff = append(diff, fmt.Sprintf("clients met %d errors: %v", clients.Errors, clients.FirstError))
	}
	if int(clients.Requests) != online.Requests() {
		diff = append(diff, "online saw another number of requests than clients made")
	}
	if len(diff) > 0 {
		return fmt.Errorf("the copy differs:\n%s", traffic.Describe(diff))
	}
	fmt.Println("\nExactly the same: each connection, each request, in order, each body by its SHA-256.")
	return nil
}

// grouped writes n with separators between thousands.
func grouped(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
