package copier

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"flowtwin/copier/report"
)

// A flow that begins while there is no tunnel: its session begins as it did.
func TestLateSession(t *testing.T) {
	auth := redis("AUTH", "secret")
	tests := map[string]struct {
		before, after []string
		want          string
	}{
		"HTTP/1":                     {[]string{request(1), request(2)}, []string{request(3), request(4)}, request(3) + request(4)},
		"redis":                      {[]string{auth, redis("GET", "a")}, []string{redis("GET", "b")}, auth + redis("GET", "b")},
		"redis, only set up so far":  {[]string{auth}, []string{redis("GET", "b")}, auth + redis("GET", "b")},
		"not known, short":           {[]string{"one", "two"}, []string{"three"}, "onetwothree"},
		"not known, long":            {[]string{"one", strings.Repeat("x", prologueMost)}, []string{"three"}, "onethree"},
		"nothing was said before":    {nil, []string{"one", "two"}, "onetwo"},
		"HTTP/2, only its beginning": {[]string{preface}, []string{"more"}, preface + "more"},
		"HTTP/2, more":               {[]string{preface, strings.Repeat("x", prologueMost)}, []string{"more"}, ""},
		"TLS":                        {[]string{"\x16\x03\x01\x02\x00\x01\x00"}, []string{"more"}, ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			b, c := newBench(t), newConn()
			b.lane.up = false
			b.feed(c.handshake()...)
			for _, ask := range tt.before {
				b.does(c, ask, 5)
			}
			if f := &b.book.Flows; f.Waiting != 1 || f.Admitted != 0 {
				t.Errorf("flows %+v", f)
			}
			b.lane.up = true
			for _, ask := range tt.after {
				b.does(c, ask, 5)
			}
			if tt.want == "" {
				b.feed(c.fin())
				if f := &b.book.Flows; f.Refused[report.TunnelDown] != 1 || len(b.lane.sessions) != 0 {
					t.Errorf("flows %+v, %d sessions", f, len(b.lane.sessions))
				}
				return
			}
			b.wantData(b.session(), tt.want)
			if f := &b.book.Flows; f.Late != 1 || f.Admitted != 1 || f.Waiting != 0 {
				t.Errorf("flows %+v", f)
			}
		})
	}
}

// The gate needs to know which of the answers belong to the prologue.
func TestSeenBehindAPrologue(t *testing.T) {
	b, c := newBench(t), newConn()
	b.feed(c.handshake()...)
	b.feed(c.answer(30), c.ack()) // a greeting
	b.does(c, "login", 7)
	b.does(c, strings.Repeat("x", prologueMost), 1000)
	b.does(c, "middle", 1000)
	b.lane.crash()
	b.does(c, "next", 11)
	b.does(c, "last", 5)
	if got := b.lane.sessions[1].seens; !slices.Equal(got, []uint64{30, 37, 48}) {
		t.Errorf("seen %v, want 30, 37, 48", got)
	}
	b.feed(c.fin(), c.serverFin(), c.ack())
}

// Where servers greet, what an adopted connection says first waits for that.
func TestAdoptedWaitForTheGreeting(t *testing.T) {
	b, c := newBench(t), newConn()
	b.feed(c.handshake()...)
	b.feed(c.answer(30), c.ack())
	b.does(c, "login", 7)
	old := underWay()
	old.client = caller(9).client
	b.feed(old.answer(10))
	b.does(old, "one", 70)
	b.does(old, "two", 5)
	if s := b.lane.sessions[1]; !slices.Equal(s.seens, []uint64{30, 100}) {
		t.Errorf("seen %v, want 30, 100", s.seens)
	}
}

// Beginnings are kept within a budget; without room a flow goes on at its next turn.
func TestPrologueBudget(t *testing.T) {
	b := newBench(t)
	b.prologues = newPrologues(4 * chunkCost)
	b.lane.full = true
	var conns []*conn
	for n := range 6 {
		c := caller(n)
		conns = append(conns, c)
		b.feed(c.handshake()...)
		b.does(c, fmt.Sprintf("hello %d\r\n", n), 5)
	}
	if got := b.book.Flows.PrologueFull; got != 2 || b.chunks() != 4 {
		t.Errorf("%d flows found no room, %d chunks", got, b.chunks())
	}
	b.lane.full = false
	for n, c := range conns {
		b.does(c, "next", 5)
		want := fmt.Sprintf("hello %d\r\nnext", n)
		if n >= 4 {
			want = "next"
		}
		b.wantData(b.lane.sessions[len(b.lane.sessions)-1], want)
	}
}
