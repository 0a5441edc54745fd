package copier

import (
	"slices"
	"strings"
	"testing"

	"flowtwin/copier/report"
)

// What a session was given, the next one of the flow does not get again, unless it is
// what sets the connection up: the target would do it twice.
func TestNothingIsDoneTwice(t *testing.T) {
	const hello = preface + "\r\nSM\r\n\r\n"
	settings := "\x00\x00\x06\x04\x00\x00\x00\x00\x00" + "\x00\x03\x00\x00\x00\x64" + "\x00\x00\x04\x08\x00\x00\x00\x00\x00\x00\x01\x00\x00"
	headers := "\x00\x00\x01\x01\x05\x00\x00\x00\x01\x82"
	startup := "\x00\x00\x00\x10\x00\x03\x00\x00user\x00me\x00\x00"
	tests := []struct {
		name     string
		greets   int
		asks     []string // before the session is lost; in turns
		and      []string // after it
		want     []string
		skip     bool // as with --midstream=skip
		lost     bool // nothing of it had reached the session
		forsaken bool
	}{
		{
			name: "memcached", asks: []string{"incr a 1\r\n", "incr b 1\r\n"}, and: []string{"incr c 1\r\n"},
			want: []string{"incr a 1\r\nincr b 1\r\n", "incr c 1\r\n"},
		},
		{
			name: "memcached, never in its middle", asks: []string{"incr a 1\r\n"}, and: []string{"incr c 1\r\n"},
			want: []string{"incr a 1\r\n"}, skip: true, forsaken: true,
		},
		{
			name: "never in its middle, but nothing was done", asks: []string{"incr a 1\r\n"}, and: []string{"incr c 1\r\n"},
			want: []string{"", "incr a 1\r\nincr c 1\r\n"}, skip: true, lost: true,
		},
		{
			name: "a server that greets", greets: 70, asks: []string{"login", "insert 1", "insert 2"}, and: []string{"insert 3"},
			want: []string{"logininsert 1insert 2", "logininsert 3"},
		},
		{
			name: "a server that greets, long logins", greets: 70, asks: []string{strings.Repeat("login", 100), "insert 1", "insert 2"}, and: []string{"insert 3"},
			want: []string{strings.Repeat("login", 100) + "insert 1insert 2", strings.Repeat("login", 100) + "insert 3"},
		},
		{
			name: "a server that greets, the login only", greets: 70, asks: []string{"login"}, and: []string{"insert 3"},
			want: []string{"login", "logininsert 3"},
		},
		{
			name: "PostgreSQL", asks: []string{startup, "insert 1"}, and: []string{"insert 2"},
			want: []string{startup + "insert 1", startup + "insert 2"},
		},
		{
			name: "HTTP/2, requests were made", asks: []string{hello + settings, headers}, and: []string{headers},
			want: []string{hello + settings + headers}, forsaken: true,
		},
		{
			name: "HTTP/2, none was made", asks: []string{hello + settings}, and: []string{headers},
			want: []string{hello + settings, hello + settings + headers},
		},
		{name: "redis, inline", asks: []string{"INCR a\r\n"}, and: []string{"INCR b\r\n"}, want: []string{"INCR a\r\n", "INCR b\r\n"}},
	}
	for _, tt := range tests {
		for _, how := range []string{"the tunnel breaks", "a pause"} {
			t.Run(tt.name+"/"+how, func(t *testing.T) {
				b, c := newBench(t), newConn()
				b.skip = tt.skip
				b.feed(c.handshake()...)
				if tt.greets > 0 {
					b.feed(c.answer(tt.greets), c.ack())
				}
				b.lane.full = tt.lost
				for _, ask := range tt.asks {
					b.does(c, ask, 10)
				}
				b.lane.full = false
				if how == "a pause" {
					b.orders = &orders{paused: true}
					b.pause()
					b.orders = &orders{}
				} else if !tt.lost {
					b.lane.crash()
				}
				for _, ask := range tt.and {
					b.does(c, ask, 10)
				}
				var got []string
				for _, s := range b.lane.sessions {
					got = append(got, string(s.data))
				}
				if !slices.Equal(got, tt.want) {
					t.Errorf("sessions got %q, want %q", got, tt.want)
				}
				if tt.greets > 0 {
					s := b.lane.sessions[1]
					if want := []uint64{uint64(tt.greets), uint64(tt.greets) + 10}; s.seens[0] != want[0] || s.seens[len(s.seens)-1] != want[1] {
						t.Errorf("seen %v, want %v", s.seens, want)
					}
				}
				if given := b.book.Flows.GivenUp[report.TunnelLost] + b.book.Flows.GivenUp[report.Paused]; tt.forsaken != (given == 1 && b.book.Flows.Suspended == 0 && len(got) == 1) {
					t.Errorf("flows %+v", b.book.Flows)
				}
				b.feed(c.fin(), c.serverFin(), c.ack())
				if n := b.chunks(); n != 0 {
					t.Errorf("%d chunks are left", n)
				}
			})
		}
	}
}
