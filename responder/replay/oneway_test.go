package replay

import (
	"strings"
	"testing"
	"time"

	"flowtwin/tunnel/frame"
)

// Logs and metrics: nobody answers, so no turn ever begins behind the first. What
// the target took is not given to it again, and the rest goes to another connection,
// from the beginning of a line or behind a pause on.
func TestOneWayStreamReconnects(t *testing.T) {
	lines := func(r *rig, n int) {
		for range n {
			r.turn(0, "line\n")
			r.ack()
			r.pass(100 * time.Millisecond)
		}
	}
	for _, tt := range []struct {
		name string
		rest func(r *rig)
		want string
	}{
		{"at a line", func(r *rig) { r.turn(0, "the end of one\n"); r.turn(0, "next\n"); r.turn(0, "more\n") }, "next\nmore\n"},
		{"at once", func(r *rig) { r.turn(0, "next\n"); r.turn(0, "more\n") }, "next\nmore\n"},
		{"behind a pause", func(r *rig) {
			r.turn(0, "binary")
			r.pass(time.Second)
			r.turn(0, "more of it")
		}, "more of it"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := again(t, Config{}, accepting(t))
			lines(r, 20)
			if tt.name != "at once" {
				r.turn(0, "half a line, ")
			}
			r.resets()
			if r.s.State() != "Parted" {
				t.Fatalf("%s, target has %q", r.s.State(), r.conn.got)
			}
			r.now += int64(time.Second) / 2
			tt.rest(r)
			r.s.News(r.now)
			r.want("Sending", tt.want)
			r.ack()
			r.last()
			a := r.log.closed[0]
			if a.Resent != 0 || a.Reconnects != 1 || a.DeliveredBytes != 100+uint64(len(tt.want)) || a.GapBytes != a.DroppedBytes {
				t.Errorf("account %+v", a)
			}
		})
	}
}

// What a client sends behind the beginning of a request is none, wherever its lines
// end.
func TestHalfARequestGoesNowhere(t *testing.T) {
	r := again(t, Config{}, accepting(t))
	r.turn(0, "POST /bulk HTTP/1.1\r\nContent-Length: 100000\r\n\r\n")
	r.turn(0, strings.Repeat("x", 2*keepBytes)+"\n")
	r.ack()
	r.resets()
	r.pass(10 * time.Second)
	r.turn(0, "a line\n")
	r.turn(0, "another\n")
	if r.s.State() != "Parted" {
		t.Errorf("%s, target has %q", r.s.State(), r.conn.got)
	}
	r.turn(10, "GET / HTTP/1.1\r\n\r\n")
	r.s.News(r.now)
	r.want("Sending", "GET / HTTP/1.1\r\n\r\n")
}

// A turn that the target has had for a while is most likely under way there: it is
// not given to it again, or it would be done twice.
func TestOldTurnIsNotWrittenAgain(t *testing.T) {
	for name, tt := range map[string]struct {
		age   time.Duration
		again uint64
	}{"new": {time.Duration(keepFor - 1), 1}, "old": {time.Duration(keepFor + 1), 0}} {
		t.Run(name, func(t *testing.T) {
			r := again(t, Config{}, accepting(t), accepting(t))
			r.turn(0, "one")
			r.answer(10)
			r.turn(10, "INCR")
			r.ack()
			r.pass(tt.age)
			first := r.conn
			r.conn.fin = true
			r.s.News(r.now)
			r.pass(5 * time.Second) // what it was when the target closed counts
			r.turn(10, "two")
			r.finishes(first)
			r.s.News(r.now)
			if tt.again > 0 {
				r.answer(10)
			}
			r.answer(10)
			r.last()
			if a := r.log.closed[0]; a.Resent != tt.again || a.Reconnects != 1 || a.DroppedBytes != 0 {
				t.Errorf("account %+v", a)
			}
		})
	}
}

// A target that closes and then is not heard of any more, not even of our FIN, is
// left for another connection as well.
func TestTargetGoesSilentBehindItsFin(t *testing.T) {
	r := again(t, Config{}, accepting(t))
	first := r.conn
	r.turn(0, "one")
	r.answer(10)
	r.ack()
	first.fin = true
	r.s.News(r.now)
	r.turn(10, "two")
	r.want("LastAck", "one")
	r.pass(10 * time.Second)
	if !first.aborted || !first.released {
		t.Errorf("the first connection is aborted: %v, released: %v", first.aborted, first.released)
	}
	r.s.News(r.now)
	r.want("Sending", "two")
	r.answer(10)
	r.last()
	r.account(frame.Closed{
		How: frame.ClosedBoth, DeliveredBytes: 6, DeliveredSegments: 2, AnswerBytes: 20, Turns: 2, Reconnects: 1,
	})
}

// A target may be down for an hour while its clients stay connected online.
func TestTargetIsMetAgainHoweverLate(t *testing.T) {
	up := false
	r := again(t, Config{})
	r.log.redial = func() *fakeConn {
		if r.conn = refusing(t); up {
			r.conn = accepting(t)
		}
		return r.conn
	}
	r.turn(0, "one")
	r.answer(10)
	r.ack()
	r.resets()
	for range 3600 {
		r.turn(10, "two")
		r.s.News(r.now)
		r.pass(time.Second)
	}
	up = true
	r.pass(maxPause)
	r.turn(10, "three")
	r.s.News(r.now)
	r.want("Sending", "three")
}

func TestFirstTurnOfUnknownSeen(t *testing.T) {
	r := connected(t, Config{})
	r.s.Data(&frame.Data{Seen: SeenUnknown, Time: r.now, Payload: []byte("one")}, r.now)
	r.want("Sending", "one")
	if r.s.bound {
		t.Error("bound to its connection")
	}
}

// Where it is not known what the client had seen, a turn that begins another
// connection waits for nothing either: nothing was asked there yet.
func TestReconnectWithUnknownSeen(t *testing.T) {
	for name, held := range map[string]bool{"comes later": false, "was held": true} {
		t.Run(name, func(t *testing.T) {
			r := again(t, Config{}, accepting(t))
			r.turn(0, "one")
			r.answer(10)
			r.turn(10, "two")
			r.ack()
			two := func() { r.s.Data(&frame.Data{Seen: SeenUnknown, Time: r.now, Payload: []byte("three")}, r.now) }
			if held {
				two()
				r.want("Holding", "onetwo")
				r.conn.answers = 1
			}
			first := r.conn
			first.fin = true
			r.s.News(r.now)
			if !held {
				r.answer(1)
				two()
			}
			r.finishes(first)
			r.s.News(r.now)
			if !strings.HasSuffix(string(r.conn.got), "three") || r.s.State() != "Sending" {
				t.Errorf("%s, target has %q", r.s.State(), r.conn.got)
			}
		})
	}
}

// What a client that nobody answers has sent is not kept for good.
func TestOneWayStreamIsNotKept(t *testing.T) {
	r := again(t, Config{})
	r.turn(0, "line\n")
	if r.sh.Queued() == 0 {
		t.Error("the first line is not kept")
	}
	r.pass(2 * time.Second)
	r.turn(0, "line\n")
	if n := r.sh.Queued(); n != 0 {
		t.Errorf("%d bytes are kept", n)
	}
}

// A connection that began with a login, or the choice of a database, is not replaced:
// what follows would be refused, or written elsewhere.
func TestLoginBindsTheConnection(t *testing.T) {
	for name, tt := range map[string]struct {
		first string
		want  string
	}{
		"PostgreSQL":          {"\x00\x00\x00\x29\x00\x03\x00\x00user\x00u\x00", "Discarding"},
		"PostgreSQL with TLS": {"\x00\x00\x00\x08\x04\xd2\x16\x2f", "Discarding"},
		"AMQP":                {"AMQP\x00\x00\x09\x01", "Discarding"},
		"MQTT":                {"\x10\x0e\x00\x04MQTT\x04\x02\x00\x3c\x00\x02id", "Discarding"},
		"MQTT 3.1, long":      {"\x10\x8e\x01\x00\x06MQIsdp\x03\x02\x00\x3c\x00\x02id", "Discarding"},
		"LDAP":                {"\x30\x1b\x02\x01\x01\x60\x16\x02\x01\x03\x04\x09cn=a,dc=x\x80\x06secret", "Discarding"},
		"LDAP, long lengths":  {"\x30\x84\x00\x00\x00\x1b\x02\x02\x01\x01\x60\x84\x00\x00\x00\x10\x02\x01\x03", "Discarding"},
		"LDAP, search":        {"\x30\x25\x02\x01\x01\x63\x20\x04\x04dc=x\x0a\x01\x02", "Parted"},
		"LDAP, cut":           {"\x30\xff\x02\x01\x01\x60\x16\x02", "Parted"},
		"SSH":                 {"SSH-2.0-OpenSSH_9.2\r\n", "Discarding"},
		"redis, AUTH":         {"*2\r\n$4\r\nAUTH\r\n$1\r\nx\r\n", "Discarding"},
		"redis, HELLO":        {"*5\r\n$5\r\nhello\r\n$1\r\n3\r\n$4\r\nauth\r\n$1\r\nu\r\n$1\r\nx\r\n", "Discarding"},
		"redis, SELECT":       {"*2\r\n$6\r\nSELECT\r\n$1\r\n5\r\n", "Discarding"},
		"redis without":       {"*2\r\n$3\r\nGET\r\n$6\r\nSELECT\r", "Parted"},
		"HTTP":                {"GET /login HTTP/1.1\r\n\r\n", "Parted"},
		"short":               {"AMQP", "Parted"},
	} {
		t.Run(name, func(t *testing.T) {
			r := again(t, Config{})
			r.turn(0, tt.first)
			r.answer(10)
			r.turn(10, "*2\r\n$4\r\nAUTH\r\n$1\r\nx\r\n") // not what it begins with
			r.answer(10)
			r.ack()
			r.resets()
			if got := r.s.State(); got != tt.want {
				t.Errorf("%s, want %s", got, tt.want)
			}
		})
	}
}
