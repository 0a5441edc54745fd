package traffic

import (
	"net"
	"sync"
	"syscall"
	"time"

	"flowtwin/internal/testnet"
)

// dialers is how many connections a Dialer opens at a time.
const dialers = 32

// dialTimeout is long enough for several lost SYNs.
const dialTimeout = 20 * time.Second

// A Dialer connects from inside a namespace to one server address, each client
// from an address of its own. It keeps a few threads inside, so that thousands of
// connections do not need thousands.
type Dialer struct {
	// Control, if set before the first Dial, changes sockets before they connect.
	Control func(network, address string, c syscall.RawConn) error

	server string
	source func(client int) string
	jobs   chan dialJob
	done   sync.WaitGroup
}

type dialJob struct {
	client int
	conn   chan<- dialResult
}

type dialResult struct {
	conn net.Conn
	err  error
}

// NewDialer returns a Dialer to server (host:port) from ns; source names each
// client's address.
func NewDialer(ns *testnet.NS, server string, source func(client int) string) *Dialer {
	d := &Dialer{server: server, source: source, jobs: make(chan dialJob)}
	for range dialers {
		d.done.Go(func() {
			ns.Do(func() {
				for job := range d.jobs {
					conn, err := d.dial(job.client)
					job.conn <- dialResult{conn, err}
				}
			})
		})
	}
	return d
}

// Dial connects the client to the server.
func (d *Dialer) Dial(client int) (net.Conn, error) {
	answer := make(chan dialResult, 1)
	d.jobs <- dialJob{client, answer}
	r := <-answer
	return r.conn, r.err
}

// Close ends the Dialer; its connections stay.
func (d *Dialer) Close() {
	close(d.jobs)
	d.done.Wait()
}

func (d *Dialer) dial(client int) (net.Conn, error) {
	local := &net.TCPAddr{IP: net.ParseIP(d.source(client))}
	nd := net.Dialer{LocalAddr: local, Timeout: dialTimeout, KeepAlive: -1, Control: d.Control}
	return nd.Dial("tcp", d.server)
}
