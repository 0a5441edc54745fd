package netstack

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
)

func (h *host) kernelDial(target netip.AddrPort) (c net.Conn, err error) {
	h.ns.Do(func() { c, err = new(net.Dialer).DialContext(context.Background(), "tcp", target.String()) })
	return c, err
}

// benchKernel is benchNet with kernel sockets, a goroutine for each connection. It
// runs in a process of its own, all threads of which are in the namespace.
func benchKernel(b *testing.B, request string, conns int, each bool) {
	b.Helper()
	h := open(b, Config{})
	target := h.benchTarget(b)
	w := kernelWork{Target: target.String(), Request: request, Conns: conns, Each: each, N: b.N, Want: answerSize(b, h, target, request)}
	work, err := json.Marshal(w)
	if err != nil {
		b.Fatal(err)
	}
	cmd := h.ns.Command(os.Args[0])
	cmd.Env = append(os.Environ(), kernelEnv+"="+string(work))
	cmd.Stderr = b.Output()
	b.ResetTimer()
	out, err := cmd.Output()
	if err != nil {
		b.Fatal(err)
	}
	b.StopTimer()
	var cost kernelCost
	if err := json.Unmarshal(out, &cost); err != nil {
		b.Fatal(err)
	}
	if request == bulk {
		b.SetBytes(bulkSize)
	}
	b.ReportMetric(float64(cost.CPU.Nanoseconds())/1000/float64(b.N), "cpu-µs/op")
	b.ReportMetric(float64(b.N)/cost.Elapsed.Seconds(), "op/s")
	b.ReportMetric(float64(cost.Elapsed.Nanoseconds())/float64(b.N), "ns/op")
}

const kernelEnv = "FLOWTWIN_BENCH_KERNEL"

type kernelWork struct {
	Target, Request string
	Conns, N, Want  int
	Each            bool
}

type kernelCost struct{ CPU, Elapsed time.Duration }

// kernelClient is the program of the process that benchKernel runs.
func kernelClient(work string) error {
	var w kernelWork
	if err := json.Unmarshal([]byte(work), &w); err != nil {
		return err
	}
	jobs, start := make(chan struct{}, w.Conns), make(chan struct{})
	var ready sync.WaitGroup
	var group errgroup.Group
	for i := range w.Conns {
		ready.Add(1)
		group.Go(func() (err error) {
			d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, byte(1+i>>8), byte(1+i))}}
			buf := make([]byte, 64<<10)
			var c net.Conn
			if !w.Each {
				if c, err = d.DialContext(context.Background(), "tcp", w.Target); err != nil {
					return err
				}
				defer func() { _ = c.Close() }()
			}
			ready.Done()
			<-start
			for range jobs {
				if w.Each {
					if c, err = d.DialContext(context.Background(), "tcp", w.Target); err != nil {
						return err
					}
				}
				if err := w.exchange(c, buf); err != nil {
					return err
				}
			}
			return nil
		})
	}
	ready.Wait()
	before, began := cpu(), time.Now()
	close(start)
	var tick <-chan time.Time
	if w.Request == paced {
		tick = time.NewTicker(time.Millisecond).C
	}
	for range w.N {
		if tick != nil {
			<-tick
		}
		jobs <- struct{}{}
	}
	close(jobs)
	if err := group.Wait(); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(kernelCost{CPU: cpu() - before, Elapsed: time.Since(began)})
}

func (w *kernelWork) exchange(c net.Conn, buf []byte) error {
	if _, err := io.WriteString(c, w.Request); err != nil {
		return err
	}
	for got := 0; got < w.Want; {
		n, err := c.Read(buf)
		if err != nil {
			return err
		}
		got += n
	}
	if !w.Each {
		return nil
	}
	if _, err := c.Read(buf); !errors.Is(err, io.EOF) {
		return err
	}
	return c.Close()
}
