package netstack

import (
	"bufio"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The benchmarks set a client on a Net against one on kernel sockets, doing the
// same to the same nginx. What counts is cpu-µs/op, the CPU time of this process:
//
//	go test -run '^$' -bench . -benchtime 100000x ./netstack

const (
	benchConns = 50
	bulkSize   = 1 << 20
	nginxConf  = `
daemon off; master_process on; worker_processes 1; pid %[1]s/pid; error_log %[1]s/error crit;
events { worker_connections 20000; }
http {
  access_log off; sendfile on; tcp_nodelay on; keepalive_requests 100000000; keepalive_timeout 600;
  client_body_temp_path %[1]s/a; proxy_temp_path %[1]s/b; fastcgi_temp_path %[1]s/c; uwsgi_temp_path %[1]s/d; scgi_temp_path %[1]s/e;
  server { listen 10.9.0.1:8080 backlog=4096; root %[1]s; }
}`
)

// benchTarget runs nginx in h's namespace, with a page of 600 bytes and a file of
// 1 MiB.
func (h *host) benchTarget(b *testing.B) netip.AddrPort {
	b.Helper()
	if _, err := exec.LookPath("nginx"); err != nil {
		b.Skip("nginx is not installed")
	}
	dir := b.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		b.Fatal(err)
	}
	for name, content := range map[string][]byte{
		"conf": fmt.Appendf(nil, nginxConf, dir), "page": make([]byte, 600), "bulk": make([]byte, bulkSize),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			b.Fatal(err)
		}
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		b.Fatal(err)
	}
	cmd := h.ns.Command("nginx", "-c", filepath.Join(dir, "conf"), "-e", filepath.Join(dir, "error"))
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = cmd.Process.Signal(unix.SIGTERM)
		_ = cmd.Wait()
	})
	target := netip.MustParseAddrPort("10.9.0.1:8080")
	end := time.After(deadline)
	for {
		if c, err := h.kernelDial(target); err == nil {
			_ = c.Close()
			return target
		}
		select {
		case <-end:
			b.Fatal("nginx does not answer")
		case <-time.After(10 * time.Millisecond):
		}
	}
}

const (
	keepAlive = "GET /page HTTP/1.1\r\nHost: bench\r\n\r\n"
	paced     = "GET /page HTTP/1.1\r\nHost: bench\r\nX-Pace: 1ms\r\n\r\n"
	short     = "GET /page HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n"
	bulk      = "GET /bulk HTTP/1.1\r\nHost: bench\r\n\r\n"
)

func BenchmarkKeepAlive(b *testing.B) {
	for _, conns := range []int{benchConns, 2000} {
		b.Run(fmt.Sprintf("conns=%d/client=kernel", conns), func(b *testing.B) { benchKernel(b, keepAlive, conns, false) })
		b.Run(fmt.Sprintf("conns=%d/client=netstack", conns), func(b *testing.B) { benchNet(b, Config{}, keepAlive, conns, false) })
	}
}

// BenchmarkPaced is BenchmarkKeepAlive at 1,000 requests a second, where waking
// goroutines costs more than packets.
func BenchmarkPaced(b *testing.B) {
	b.Run("client=kernel", func(b *testing.B) { benchKernel(b, paced, benchConns, false) })
	b.Run("client=netstack", func(b *testing.B) { benchNet(b, Config{}, paced, benchConns, false) })
}

func BenchmarkShort(b *testing.B) {
	b.Run("client=kernel", func(b *testing.B) { benchKernel(b, short, benchConns, true) })
	b.Run("client=netstack", func(b *testing.B) { benchNet(b, Config{}, short, benchConns, true) })
}

func BenchmarkAbsorb(b *testing.B) {
	b.Run("client=kernel", func(b *testing.B) { benchKernel(b, bulk, 8, false) })
	for _, mtu := range []int{65535, 1500} {
		b.Run(fmt.Sprintf("client=netstack/mtu=%d", mtu), func(b *testing.B) { benchNet(b, Config{MTU: mtu}, bulk, 8, false) })
	}
}

// BenchmarkIdle opens b.N connections and reports what each keeps in memory.
func BenchmarkIdle(b *testing.B) {
	h := open(b, Config{})
	target := h.serveOutside(b, "10.9.0.1:7007", 4)
	heap := func() float64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return float64(m.HeapAlloc + m.StackInuse)
	}
	before := heap()
	ready := 0
	var all []*Conn
	for i := range b.N {
		c := h.dial(b, client(i*31), target, 0)
		s := &sender{data: []byte("request")}
		c.Session = func(c *Conn) {
			if s.event(c); s.got == 7 {
				c.Session = nil
				ready++
			}
		}
		all = append(all, c)
		if i%100 == 0 || i == b.N-1 {
			h.await(b, "echo", func() bool { return ready == i+1 })
		}
	}
	b.ReportMetric((heap()-before)/float64(b.N), "B/conn")
	runtime.KeepAlive(all)
}

// cpu returns the CPU time this process has used.
func cpu() time.Duration {
	var ru unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &ru); err != nil {
		return 0
	}
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}

// measure reports what the operations between its call and that of the function
// it returns have cost.
func measure(b *testing.B, request string) func() {
	b.Helper()
	if request == bulk {
		b.SetBytes(bulkSize)
	}
	b.ResetTimer()
	before := cpu()
	return func() {
		b.StopTimer()
		b.ReportMetric(float64((cpu()-before).Nanoseconds())/1000/float64(b.N), "cpu-µs/op")
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "op/s")
	}
}

// benchNet runs b.N requests through a Net, on conns connections at a time; with
// each, every request has a connection of its own.
func benchNet(b *testing.B, cfg Config, request string, conns int, each bool) {
	b.Helper()
	h := open(b, cfg)
	target := h.benchTarget(b)
	st := h.net.Stack(0)
	want := answerSize(b, h, target, request)
	type session struct{ got int }
	started, done, opened := 0, 0, 0
	dial := func() {
		opened++
		c := h.dial(b, client(opened*31), target, 0)
		c.Session = &session{got: -1}
		if each {
			started++
		}
	}
	send := func(c *Conn, s *session) {
		s.got = 0
		if n, err := c.Write([]byte(request)); n != len(request) || err != nil {
			b.Fatal(n, err)
		}
	}
	event := func(c *Conn) {
		s := c.Session.(*session)
		if s.got < 0 {
			if st := c.State(); st == Connecting {
				return
			} else if st != Established {
				b.Fatal(st)
			}
			if !each {
				if started++; started > b.N {
					return
				}
			}
			send(c, s)
			return
		}
		n, eof, err := c.Absorb()
		if err != nil {
			b.Fatal(err)
		}
		s.got += n
		switch {
		case s.got < want || each && !eof:
		case each:
			done++
			c.Release()
			if started < b.N {
				dial()
			}
		default:
			done++
			if s.got = -2; started < b.N {
				started++
				send(c, s)
			}
		}
	}
	var ready []*Conn
	if !each {
		idle := 0
		for range conns {
			dial()
			for ready = st.Ready(ready[:0]); len(ready) > 0; ready = st.Ready(ready[:0]) {
				idle += len(ready)
			}
		}
		started = b.N // no requests yet
		h.await(b, "handshakes", func() bool { return h.net.Stats().TunPacketsOut >= uint64(2*conns) })
		started = 0
	}
	stop := measure(b, request)
	before := h.net.Stats()
	switch {
	case each:
		for range min(conns, b.N) {
			dial()
		}
	case request == paced:
		all, next := st.v4.all(), 0
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for done < b.N {
			select {
			case <-tick.C:
				if c := all[next%len(all)]; next < b.N {
					send(c, c.Session.(*session))
					next++
				}
			case <-st.Wake():
			}
			started = b.N // event must not send
			ready = st.Ready(ready[:0])
			for _, c := range ready {
				if c.Session.(*session).got >= 0 {
					event(c)
				}
			}
		}
	default:
		for _, c := range st.v4.all() {
			event(c)
		}
	}
	for done < b.N {
		<-st.Wake()
		ready = st.Ready(ready[:0])
		for _, c := range ready {
			if c.Session.(*session).got != -2 {
				event(c)
			}
		}
	}
	stop()
	after := h.net.Stats()
	b.ReportMetric(float64(after.TunPacketsOut-before.TunPacketsOut)/float64(b.N), "out/op")
	b.ReportMetric(float64(after.TunPacketsIn-before.TunPacketsIn)/float64(b.N), "in/op")
}

// answerSize returns how many bytes nginx answers.
func answerSize(b *testing.B, h *host, target netip.AddrPort, request string) int {
	b.Helper()
	c, err := h.kernelDial(target)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if _, err := io.WriteString(c, request); err != nil {
		b.Fatal(err)
	}
	r := bufio.NewReader(c)
	size, body := 0, 600
	if request == bulk {
		body = bulkSize
	}
	for line := ""; line != "\r\n"; {
		if line, err = r.ReadString('\n'); err != nil {
			b.Fatal(err)
		}
		size += len(line)
	}
	return size + body
}
