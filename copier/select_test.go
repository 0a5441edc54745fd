package copier

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"flowtwin/copier/report"
	"flowtwin/internal/http1"
)

// newSifting returns a bench that selects requests.
func newSifting(t *testing.T, c http1.Config, pass bool) *bench {
	t.Helper()
	rules, err := http1.Compile(c)
	if err != nil {
		t.Fatal(err)
	}
	b := newBench(t)
	b.sieve = newSieve(rules, pass, 1)
	return b
}

// shop selects the host that ask asks when it is given a name beginning with k.
func shop() http1.Config { return http1.Config{Hosts: []string{"k*"}} }

func ask(host string) string {
	return "GET /" + host + " HTTP/1.1\r\nHost: " + host + "\r\n\r\n"
}

func post(host, body string) string {
	return fmt.Sprintf("POST /%s HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n\r\n%s", host, host, len(body), body)
}

// Requests that are not selected must leave no trace: neither bytes nor, in what
// the gate is told, their answers. Else the target's answers would be waited for in
// vain, a second each.
func TestSelectSerial(t *testing.T) {
	t.Parallel()
	b := newSifting(t, shop(), false)
	c := newConn()
	b.feed(c.handshake()...)
	b.feed(c.data(ask("l1")), c.answer(1000), c.ack())
	if len(b.lane.sessions) != 0 {
		t.Fatal("a session was opened before anything was selected")
	}
	b.feed(c.data(ask("k1")), c.answer(100))
	b.feed(c.data(post("l2", "12345")), c.answer(2000))
	b.feed(c.data(ask("l3")), c.answer(4000))
	b.feed(c.data(post("k2", "67890")), c.answer(30))
	b.feed(c.data(ask("k3")), c.answer(7))
	b.feed(c.data(ask("l4")), c.answer(1))
	s := b.session()
	b.wantData(s, ask("k1")+post("k2", "67890")+ask("k3"))
	if want := []uint64{0, 100, 130}; !slices.Equal(s.seens, want) {
		t.Errorf("seen %d, want %d", s.seens, want)
	}
	b.feed(c.fin(), c.serverFin(), c.ack())
	if fin := s.finSeen; fin != 137 {
		t.Errorf("FIN after %d answer bytes, want 137", fin)
	}
	b.wantDropped(report.HTTPUnselected, uint64(len(ask("l1")+post("l2", "12345")+ask("l3")+ask("l4"))))
	if h := b.book.HTTP; h != (report.HTTP{Selected: 3, LeftOut: 4}) {
		t.Errorf("%+v", h)
	}
	if a := b.book.Flows; a.Admitted != 1 || a.Ended[report.ClientFirst] != 1 {
		t.Errorf("%+v", a)
	}
}

// A flow of which nothing is selected must not be opened, and is no loss.
func TestSelectNothing(t *testing.T) {
	t.Parallel()
	b := newSifting(t, shop(), true)
	c := newConn()
	b.feed(c.handshake()...)
	b.feed(c.data(ask("l1")), c.answer(10), c.data("GET /half HTTP/1.1\r\nHost: k"), c.fin(), c.serverFin(), c.ack())
	if len(b.lane.sessions) != 0 {
		t.Error("a session was opened")
	}
	if f := b.book.Flows; f.Refused[report.HTTPUnselected] != 1 || f.Waiting != 0 || len(b.book.Losses()) != 0 {
		t.Errorf("%+v, losses %v", f, b.book.Losses())
	}
	b.wantDropped(report.HTTPUnselected, b.book.Client.Captured.Bytes)
}

// In one segment, and in pieces of every size, the same must come out.
func TestSelectSplit(t *testing.T) {
	t.Parallel()
	chunks := "POST /k HTTP/1.1\r\nHost: k\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: y\r\n\r\n"
	parts := []string{ask("l1"), ask("k1"), post("l2", "12345"), post("k2", "67890"), strings.Replace(chunks, "Host: k", "Host: l", 1), chunks, ask("k3"), ask("l3")}
	whole := strings.Join(parts, "")
	want := ask("k1") + post("k2", "67890") + chunks + ask("k3")
	for size := 1; size < len(whole)+1; size += 1 + size/20 {
		b := newSifting(t, shop(), false)
		c := newConn()
		b.feed(c.handshake()...)
		for rest := whole; rest != ""; {
			n := min(size, len(rest))
			b.feed(c.data(rest[:n]))
			rest = rest[n:]
		}
		b.wantData(b.session(), want)
		b.feed(c.fin(), c.serverFin(), c.ack())
		b.wantDropped(report.HTTPUnselected, uint64(len(whole)-len(want)))
		if b.sieve.held != (report.Count{}) {
			t.Errorf("in pieces of %d: %+v are held", size, b.sieve.held)
		}
	}
}

// What follows an upgrade belongs to the request that asked for it.
func TestSelectUpgrade(t *testing.T) {
	t.Parallel()
	up := func(host string) string {
		return "GET /ws HTTP/1.1\r\nHost: " + host + "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
	}
	b := newSifting(t, shop(), false)
	for i, host := range []string{"k", "l"} {
		c := newConn()
		c.client = netip.AddrPortFrom(c.client.Addr(), uint16(41000+i))
		b.feed(c.handshake()...)
		b.feed(c.data(up(host)), c.answer(120), c.data("\x81\x85....hello"), c.answer(9), c.data("\x81\x81....x"))
		b.feed(c.fin(), c.serverFin(), c.ack())
	}
	b.wantData(b.session(), up("k")+"\x81\x85....hello\x81\x81....x")
	if want := []uint64{0, 120, 129}; !slices.Equal(b.session().seens, want) {
		t.Errorf("seen %d, want %d", b.session().seens, want)
	}
}

// What is no HTTP/1 is passed or dropped as asked, from there on, and named.
func TestSelectUnparsed(t *testing.T) {
	t.Parallel()
	const ping = "*1\r\n$4\r\nPING\r\n"
	for _, c := range []struct {
		name string
		pass bool
		in   []string
		want string // "": no session
		drop int
	}{
		{"redis, drop", false, []string{ping, ping}, "", 2 * len(ping)},
		{"redis, pass", true, []string{ping, ping}, ping + ping, 0},
		{"redis in pieces, pass", true, []string{"P", "ING\r\n", "PING\r\n"}, "PING\r\nPING\r\n", 0},
		{"behind a request, drop", false, []string{ask("k") + ping, ping}, ask("k"), 2 * len(ping)},
		{"behind a request, pass", true, []string{ask("k") + ping, ping}, ask("k") + ping + ping, 0},
		{"behind one left out, drop", false, []string{ask("l"), ping, ping}, "", 2 * len(ping)},
		{"behind one left out, pass", true, []string{ask("l"), ping, ping}, ping + ping, 0},
		{"inside one left out, pass", true, []string{ask("k") + "PUT / HTTP/1.1\r\nHost: l\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab", "cd"}, ask("k"), 3},
		{"two lengths, drop", false, []string{"POST / HTTP/1.1\r\nHost: k\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\n"}, "", 66},
		{"incomplete, drop", false, []string{ask("k"), "GET / HT"}, ask("k"), 8},
		{"incomplete, pass", true, []string{ask("k"), "GET / HT"}, ask("k") + "GET / HT", 0},
		{"empty lines behind", false, []string{post("k", "1"), "\r\n"}, post("k", "1") + "\r\n", 0},
	} {
		b := newSifting(t, shop(), c.pass)
		conn := newConn()
		b.feed(conn.handshake()...)
		for _, in := range c.in {
			b.feed(conn.data(in), conn.answer(10), conn.ack())
		}
		b.feed(conn.fin(), conn.serverFin(), conn.ack())
		if c.want == "" {
			if len(b.lane.sessions) != 0 {
				t.Errorf("%s: a session was opened: %q", c.name, b.lane.sessions[0].data)
			}
			if b.book.Flows.Refused[report.HTTPUnparsed] != 1 {
				t.Errorf("%s: refused %v", c.name, b.book.Flows.Refused)
			}
		} else if s := b.session(); string(s.data) != c.want {
			t.Errorf("%s: %q, want %q", c.name, s.data, c.want)
		}
		if got := b.book.Client.Dropped[report.HTTPUnparsed].Bytes; got != uint64(c.drop) {
			t.Errorf("%s: %d bytes dropped, want %d", c.name, got, c.drop)
		}
	}
}

func TestSelectRewrites(t *testing.T) {
	t.Parallel()
	b := newSifting(t, http1.Config{
		NotHosts: []string{"l*"}, SetHeaders: []string{"X-Copied: 1"}, SetHost: "target", RewritePaths: []string{"^/k=/"},
	}, false)
	c := newConn()
	b.feed(c.handshake()...)
	b.feed(c.data(post("k1", "abc")+ask("l")+ask("kilometre.example")), c.answer(10), c.data("GET /k2 HT"), c.data("TP/1.1\r\nHost: k2\r\n\r\n"))
	b.wantData(b.session(), "POST /1 HTTP/1.1\r\nHost: target\r\nContent-Length: 3\r\nX-Copied: 1\r\n\r\nabc"+
		"GET /ilometre.example HTTP/1.1\r\nHost: target\r\nX-Copied: 1\r\n\r\n"+"GET /2 HTTP/1.1\r\nHost: target\r\nX-Copied: 1\r\n\r\n")
	if w := b.book.Client.Rewritten; w.Added.Bytes == 0 || w.Removed.Segments != 1 {
		t.Errorf("%+v", w)
	}
	b.feed(c.fin(), c.serverFin(), c.ack())
	if got, want := b.book.Headline(), "copied 100.00 %"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// Behind bytes that were not captured the next request is looked for.
func TestSelectBehindHole(t *testing.T) {
	t.Parallel()
	b := newSifting(t, shop(), false)
	c := newConn()
	b.feed(c.handshake()...)
	b.feed(c.data(ask("k1")), c.answer(100), c.ack())
	half := post("k2", "0123456789")
	b.feed(c.data(half[:55]))
	c.data(half[55:58]) // not captured
	b.feed(c.data(half[58:]), c.answer(100), c.ack())
	b.feed(c.data(ask("l1")), c.answer(100), c.ack(), c.data(ask("k3")), c.answer(100), c.ack())
	b.feed(c.fin(), c.serverFin(), c.ack())
	if len(b.lane.sessions) != 2 {
		t.Fatalf("%d sessions, want 2", len(b.lane.sessions))
	}
	b.wantData(b.lane.sessions[1], ask("k3"))
	if s := b.lane.sessions[1]; s.seens[0] != 0 || s.finSeen != 100 {
		t.Errorf("seen %d and %d, want 0 and 100", s.seens, s.finSeen)
	}
}

// When there is no room for beginnings of requests, flows end whole and by name.
func TestSelectHeadsFull(t *testing.T) {
	t.Parallel()
	b := newSifting(t, shop(), true)
	b.sieve.heads.room = 4 << 10
	open := ask("k")
	for i := range 4 {
		c := newConn()
		c.client = netip.AddrPortFrom(c.client.Addr(), uint16(41000+i))
		b.feed(c.handshake()...)
		b.feed(c.data(open), c.answer(1), c.data(open+"GET / HTTP/1.1\r\nHost"))
		if i < 2 {
			continue
		}
		b.wantData(b.lane.sessions[i], open+open)
	}
	if got := b.book.Flows.GivenUp[report.HTTPHeads]; got != 2 {
		t.Errorf("%d flows given up, want 2", got)
	}
	if got := b.book.Client.Dropped[report.HTTPHeads]; got != (report.Count{Segments: 0, Bytes: 2 * 20}) {
		t.Errorf("%+v dropped", got)
	}
}

// Without a tunnel requests are dropped whole; when it is back, the next one that is
// selected begins a session.
func TestSelectTunnelDown(t *testing.T) {
	t.Parallel()
	b := newSifting(t, shop(), false)
	c := newConn()
	b.feed(c.handshake()...)
	b.lane.up = false
	half := post("k1", "0123456789")
	b.feed(c.data(ask("l1")), c.answer(7), c.data(half[:55]))
	b.lane.up = true
	b.lane.crash()
	b.feed(c.data(half[55:]), c.answer(50), c.data(ask("k2")), c.answer(9), c.data(ask("k3")))
	b.wantData(b.session(), ask("k2")+ask("k3"))
	if want := []uint64{0, 9}; !slices.Equal(b.session().seens, want) {
		t.Errorf("seen %d, want %d", b.session().seens, want)
	}
	b.wantDropped(report.TunnelDown, uint64(len(half)))
}

// A connection that began before the copier is followed from a request on, and copied
// from the first that is selected.
func TestSelectMidstream(t *testing.T) {
	t.Parallel()
	for _, pass := range []bool{false, true} {
		b := newSifting(t, shop(), pass)
		c := newConn()
		c.sent, c.answered = 500, 900
		b.feed(c.data("the rest of a body"), c.answer(40), c.ack())
		if !pass {
			b.feed(c.data("of another"), c.answer(40), c.ack())
		}
		b.feed(c.data(ask("l1")), c.answer(40), c.ack())
		if len(b.lane.sessions) != 0 {
			t.Fatal("a session was opened before anything was selected")
		}
		b.feed(c.data(ask("k1")), c.answer(30), c.data(ask("l2")), c.answer(20), c.data(ask("k2")), c.answer(10), c.fin(), c.serverFin(), c.ack())
		s := b.session()
		b.wantData(s, ask("k1")+ask("k2"))
		if want := []uint64{0, 30}; !slices.Equal(s.seens, want) || s.finSeen != 40 {
			t.Errorf("seen %d, %d at the end; want %d, 40", s.seens, s.finSeen, want)
		}
		if f := b.book.Flows; f.Adopted != 1 || f.Admitted != 1 || f.Observed != 0 {
			t.Errorf("%+v", f)
		}
	}
}

// A copier that is paused opens nothing, and goes on with the next request.
func TestSelectPaused(t *testing.T) {
	t.Parallel()
	b := newSifting(t, shop(), false)
	c := newConn()
	b.feed(c.handshake()...)
	b.feed(c.data(ask("k1")), c.answer(50))
	running, paused := b.orders, *b.orders
	paused.paused = true
	b.tell(&paused)
	b.feed(c.data(ask("k2")), c.answer(9), c.data(ask("l2")), c.answer(9))
	b.tell(running)
	b.feed(c.data(ask("l3")), c.answer(9), c.data(ask("k3")), c.answer(8), c.data(ask("k4")))
	if len(b.lane.sessions) != 2 {
		t.Fatalf("%d sessions, want 2", len(b.lane.sessions))
	}
	b.wantData(b.lane.sessions[0], ask("k1"))
	b.wantData(b.lane.sessions[1], ask("k3")+ask("k4"))
	if want := []uint64{0, 8}; !slices.Equal(b.lane.sessions[1].seens, want) {
		t.Errorf("seen %d, want %d", b.lane.sessions[1].seens, want)
	}
	b.wantDropped(report.Paused, uint64(len(ask("k2"))))
}
