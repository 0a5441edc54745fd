package tunnel

import (
	"syscall"
	"testing"
	"time"

	"flowtwin/tunnel/frame"
)

// drain reads a lane until it ends.
func drain(l *PeerLane, got chan<- int) {
	n := 0
	for {
		b, err := l.Read()
		if err != nil {
			got <- n
			return
		}
		n += len(b)
	}
}

// BenchmarkThroughput sends as fast as the tunnel takes it; sender and receiver
// share the process.
func BenchmarkThroughput(b *testing.B) {
	c, p := pair(b, ClientConfig{})
	go drain(p.Lane(0), make(chan int, 1))
	l, payload := c.Lane(0), make([]byte, 292)
	b.SetBytes(316)
	b.ReportAllocs()
	for b.Loop() {
		for !l.Data(1, 1, 2, payload) {
			l.Flush()
		}
	}
	l.Flush()
}

// BenchmarkFlushPaced sends one frame of 300 bytes per flush, 5,000 a second: the
// usual work of a copier. The figure is CPU of the whole process, both ends.
func BenchmarkFlushPaced(b *testing.B) {
	c, p := pair(b, ClientConfig{})
	go drain(p.Lane(0), make(chan int, 1))
	l, payload := c.Lane(0), make([]byte, 292)
	tick := time.NewTicker(200 * time.Microsecond)
	defer tick.Stop()
	b.ReportAllocs()
	before := cpu()
	for b.Loop() {
		<-tick.C
		if !l.Data(1, 1, 2, payload) {
			b.Fatal("queue full")
		}
		l.Flush()
	}
	b.ReportMetric(float64(cpu()-before)/float64(b.N), "cpu-ns/op")
}

func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkReturns sends target headers back as fast as they are taken.
func BenchmarkReturns(b *testing.B) {
	c, p := pair(b, ClientConfig{})
	l, out := c.Lane(0), p.Lane(0)
	h := frame.AppendTargetHeader(nil, 1, &frame.TargetHeader{Headers: make([]byte, 52)})
	b.SetBytes(int64(len(h)))
	b.ReportAllocs()
	for b.Loop() {
		for !out.Return(h, false, false) {
			l.Returns()
		}
		l.Returns()
	}
}
