package traffic

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// A Load is a way of making HTTP requests.
type Load struct {
	Name     string  // begins each path, tells loads apart
	Clients  int     // at work at a time, each with one connection
	Rounds   int     // connections that each client opens, one behind the other; 0: until ctx ends
	Requests int     // on each connection; 0: until ctx ends
	Rate     float64 // connections (Requests: 1) or requests a second of all clients; 0: as fast as they can
	Bodies   []int   // sizes of POSTed bodies, in turn; none: GET
	Answer   int     // size of the answers; 0: the server's default
	Pieces   int     // that a request is written in, default 1
	Pause    time.Duration
	Reset    bool // connections end with RST
}

// Stats are what the clients did.
type Stats struct {
	Connections, Requests int64
	BodyBytes             int64
	Sent                  int64 // bytes in all, as TCP carries them
	Errors                int64
	FirstError            error
}

func (s Stats) String() string {
	text := fmt.Sprintf("%d connections, %d requests, %d body bytes", s.Connections, s.Requests, s.BodyBytes)
	if s.Errors > 0 {
		text += fmt.Sprintf(", %d errors (the first: %v)", s.Errors, s.FirstError)
	}
	return text
}

// Add adds other to s.
func (s *Stats) Add(other Stats) {
	s.Connections += other.Connections
	s.Requests += other.Requests
	s.BodyBytes += other.BodyBytes
	s.Sent += other.Sent
	s.Errors += other.Errors
	if s.FirstError == nil {
		s.FirstError = other.FirstError
	}
}

// Dial opens a client's connection.
type Dial func(client int) (net.Conn, error)

// Run makes the load's requests until all are made or ctx ends. A request that
// has begun is always finished: what was sent can be counted.
func (l Load) Run(ctx context.Context, dial Dial) Stats {
	r := &run{Load: l, dial: dial, start: time.Now()}
	if l.Rate > 0 {
		r.interval = time.Duration(float64(time.Second) * float64(l.Clients) / l.Rate)
	}
	var wg sync.WaitGroup
	for i := range l.Clients {
		wg.Go(func() { r.client(ctx, i) })
	}
	wg.Wait()
	return r.stats
}

// run is a Load at work.
type run struct {
	Load
	dial     Dial
	start    time.Time
	interval time.Duration // of one client
	nextConn atomic.Int64

	mu    sync.Mutex
	stats Stats
}

func (r *run) client(ctx context.Context, i int) {
	p := pacer{interval: r.interval, next: r.start}
	// Clients begin spread over the interval, not all at its beginning.
	p.next = p.next.Add(r.interval * time.Duration(i) / time.Duration(r.Clients))
	for round := 0; (r.Rounds == 0 || round < r.Rounds) && p.wait(ctx); round++ {
		var s Stats
		if err := r.connection(ctx, i, &p, &s); err != nil {
			s.Errors++
			s.FirstError = err
		}
		r.mu.Lock()
		r.stats.Add(s)
		r.mu.Unlock()
	}
}

func (r *run) connection(ctx context.Context, client int, p *pacer, s *Stats) error {
	conn, err := r.dial(client)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	if tcp, ok := conn.(*net.TCPConn); ok && r.Reset {
		_ = tcp.SetLinger(0)
	}
	s.Connections++
	id := r.nextConn.Add(1)
	br := bufio.NewReader(conn)
	var buf bytes.Buffer
	for n := 0; r.Requests == 0 || n < r.Requests; n++ {
		if n > 0 && !p.wait(ctx) {
			return nil
		}
		body := r.appendRequest(&buf, id, n)
		if err := r.write(conn, buf.Bytes()); err != nil {
			return fmt.Errorf("connection %d, request %d: %w", id, n, err)
		}
		s.Sent += int64(buf.Len())
		if err := readAnswer(br); err != nil {
			return fmt.Errorf("connection %d, answer %d: %w", id, n, err)
		}
		s.Requests++
		s.BodyBytes += int64(body)
	}
	return nil
}

// appendRequest puts request n of connection id into buf and returns its body's
// size.
func (r *run) appendRequest(buf *bytes.Buffer, id int64, n int) int {
	buf.Reset()
	query := ""
	if r.Answer > 0 {
		query = "?answer=" + strconv.Itoa(r.Answer)
	}
	if len(r.Bodies) == 0 {
		fmt.Fprintf(buf, "GET /%s/%d/%d%s HTTP/1.1\r\nHost: online\r\n\r\n", r.Name, id, n, query)
		return 0
	}
	size := r.Bodies[(int(id)+n)%len(r.Bodies)]
	fmt.Fprintf(buf, "POST /%s/%d/%d%s HTTP/1.1\r\nHost: online\r\nContent-Length: %d\r\n\r\n", r.Name, id, n, query, size)
	rng := rand.New(rand.NewPCG(uint64(id), uint64(n)))
	for size := size; size > 0; size -= 8 {
		v := rng.Uint64()
		var word [8]byte
		for i := range word {
			word[i] = byte(v >> (8 * i))
		}
		buf.Write(word[:min(size, 8)])
	}
	return size
}

func (r *run) write(w io.Writer, p []byte) error {
	pieces := max(1, r.Pieces)
	size := (len(p) + pieces - 1) / pieces
	for len(p) > 0 {
		n := min(size, len(p))
		if _, err := w.Write(p[:n]); err != nil {
			return err
		}
		if p = p[n:]; len(p) > 0 && r.Pause > 0 {
			<-time.After(r.Pause)
		}
	}
	return nil
}

// readAnswer reads one HTTP answer with a Content-Length and forgets it. It
// exists because the clients share the machine with what they measure.
func readAnswer(br *bufio.Reader) error {
	length := -1
	for first := true; ; first = false {
		line, err := br.ReadSlice('\n')
		if err != nil {
			return err
		}
		line = bytes.TrimRight(line, "\r\n")
		if first && !bytes.HasPrefix(line, []byte("HTTP/1.1 200")) {
			return fmt.Errorf("answer is %q", line)
		}
		if len(line) == 0 {
			break
		}
		name, value, _ := strings.Cut(string(line), ": ")
		if strings.EqualFold(name, "Content-Length") {
			if length, err = strconv.Atoi(value); err != nil {
				return err
			}
		}
	}
	if length < 0 {
		return errors.New("answer has no length")
	}
	_, err := br.Discard(length)
	return err
}

// pacer keeps one client to its rate.
type pacer struct {
	interval time.Duration
	next     time.Time
}

// wait waits for the client's next turn; false: ctx has ended.
func (p *pacer) wait(ctx context.Context) bool {
	if p.interval == 0 {
		return ctx.Err() == nil
	}
	delay := time.Until(p.next)
	p.next = p.next.Add(p.interval)
	if delay <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(delay)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
