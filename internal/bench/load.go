package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// A load is what the clients do: requests on kept connections, or a connection
// for each request.
type load struct {
	addr     string
	conns    int
	rate     int // requests a second over all connections, 0: as fast as they can
	short    bool
	body     int // bytes POSTed with each request, 0: GET
	path     string
	duration time.Duration
	idle     bool // open the connections, send one request on each, then hold them
}

// loadResult is what the clients saw.
type loadResult struct {
	Requests int64
	Errors   int64
	Seconds  float64
	CPU      float64 // seconds, of the generator
}

// runLoad drives the load and counts. Requests are named by connection and
// number, so that two servers' logs can be compared one by one.
func runLoad(ctx context.Context, l load) loadResult {
	ctx, cancel := context.WithTimeout(ctx, l.duration)
	defer cancel()
	var requests, failures atomic.Int64
	start, cpu := time.Now(), selfCPU()
	var wg sync.WaitGroup
	for i := range l.conns {
		wg.Go(func() {
			c := &client{load: l, id: i, start: start}
			c.run(ctx, &requests, &failures)
		})
	}
	wg.Wait()
	return loadResult{requests.Load(), failures.Load(), time.Since(start).Seconds(), selfCPU() - cpu}
}

// A client is one of the load's connections.
type client struct {
	load
	id, n int
	start time.Time
	conn  net.Conn
	br    *bufio.Reader
	buf   []byte
}

func (c *client) run(ctx context.Context, requests, failures *atomic.Int64) {
	defer c.close()
	for c.pace(ctx) {
		if err := c.request(); err != nil {
			if ctx.Err() != nil {
				return
			}
			failures.Add(1)
			if failures.Load() < 4 {
				fmt.Fprintln(os.Stderr, "load:", err)
			}
			c.close()
			continue
		}
		requests.Add(1)
		if c.idle {
			<-ctx.Done()
			return
		}
	}
}

// pace waits until the next request is due.
func (c *client) pace(ctx context.Context) bool {
	if c.rate == 0 {
		return ctx.Err() == nil
	}
	gap := time.Duration(float64(time.Second) * float64(c.conns) / float64(c.rate))
	due := c.start.Add(gap*time.Duration(c.n) + gap*time.Duration(c.id)/time.Duration(c.conns))
	t := time.NewTimer(time.Until(due))
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (c *client) request() error {
	if c.conn == nil {
		conn, err := net.DialTimeout("tcp", c.addr, 5*time.Second)
		if err != nil {
			return err
		}
		c.conn, c.br = conn, bufio.NewReaderSize(conn, 4096)
	}
	c.buf = c.buf[:0]
	method := "GET "
	if c.body > 0 {
		method = "POST "
	}
	c.buf = append(append(append(c.buf, method...), c.path...), "?r="...)
	c.buf = strconv.AppendInt(append(strconv.AppendInt(c.buf, int64(c.id), 10), '-'), int64(c.n), 10)
	c.buf = append(c.buf, " HTTP/1.1\r\nHost: bench\r\nAccept-Encoding: gzip\r\n"...)
	if c.short {
		c.buf = append(c.buf, "Connection: close\r\n"...)
	}
	if c.body > 0 {
		c.buf = append(strconv.AppendInt(append(c.buf, "Content-Length: "...), int64(c.body), 10), "\r\n"...)
	}
	c.buf = append(c.buf, "\r\n"...)
	for range c.body {
		c.buf = append(c.buf, 'x')
	}
	c.n++
	_ = c.conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := c.conn.Write(c.buf); err != nil {
		return err
	}
	if err := readAnswer(c.br); err != nil {
		return err
	}
	if c.short {
		_, _ = c.br.ReadByte() // the server closes
		c.close()
	}
	return nil
}

func (c *client) close() {
	if c.conn != nil {
		_ = c.conn.Close()
		c.conn = nil
	}
}

var errAnswer = errors.New("answer has neither length nor chunks")

// readAnswer reads one HTTP/1.1 answer with a length or in chunks.
func readAnswer(br *bufio.Reader) error {
	length, chunked := -1, false
	for {
		line, err := br.ReadSlice('\n')
		if err != nil {
			return err
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			break
		}
		if v, ok := bytes.CutPrefix(line, []byte("Content-Length: ")); ok {
			length, _ = strconv.Atoi(string(v))
		}
		if bytes.Equal(line, []byte("Transfer-Encoding: chunked")) {
			chunked = true
		}
	}
	if length >= 0 {
		_, err := br.Discard(length)
		return err
	}
	if !chunked {
		return errAnswer
	}
	for {
		line, err := br.ReadSlice('\n')
		if err != nil {
			return err
		}
		n, err := strconv.ParseInt(string(bytes.TrimSpace(line)), 16, 32)
		if err != nil {
			return err
		}
		if _, err := br.Discard(int(n) + 2); err != nil || n == 0 {
			return err
		}
	}
}

// runServer is a small HTTP/1 server that notes when it read each request, for
// the lag between two of them. It writes "name nanoseconds" lines to out.
func runServer(ctx context.Context, addr string, out io.Writer) error {
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { _ = ln.Close() })
	var mu sync.Mutex
	w := bufio.NewWriterSize(out, 1<<20)
	defer func() { mu.Lock(); _ = w.Flush(); mu.Unlock() }()
	for {
		conn, err := ln.Accept()
		if err != nil {
			return nil
		}
		go func() {
			defer func() { _ = conn.Close() }()
			br := bufio.NewReaderSize(conn, 4096)
			for {
				line, err := br.ReadSlice('\n')
				if err != nil {
					return
				}
				now := time.Now().UnixNano()
				name, _, _ := bytes.Cut(line, []byte(" HTTP"))
				mu.Lock()
				fmt.Fprintf(w, "%s %d\n", bytes.TrimPrefix(name, []byte("GET ")), now)
				mu.Unlock()
				for len(bytes.TrimSpace(line)) > 0 {
					if line, err = br.ReadSlice('\n'); err != nil {
						return
					}
				}
				if _, err := conn.Write([]byte("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")); err != nil {
					return
				}
			}
		}()
	}
}
