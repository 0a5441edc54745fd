package copier

import (
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"flowtwin/tunnel/frame"
)

// An operator who sees connections refused must read that somebody has paused the
// responder, once; and accounts of the past that come late must not say it again.
func TestResponderThatTakesNothingIsSaidOnce(t *testing.T) {
	for how, want := range map[frame.CloseHow]string{
		frame.ClosedPaused: "somebody has paused or stopped it",
		frame.ClosedDrain:  "it is shutting down",
	} {
		t.Run(how.String(), func(t *testing.T) {
			b := newBench(t)
			b.lane.answers = false
			var log syncBuffer
			r := refusals{log: slog.New(slog.NewTextHandler(&log, nil))}
			says := func(when string, warns, infos int) {
				t.Helper()
				r.look(b.taking, "")
				if w, i := strings.Count(log.String(), want), strings.Count(log.String(), "takes connections again"); w != warns || i != infos {
					t.Errorf("%s it is said %d times, and the end %d times, want %d and %d:\n%s", when, w, i, warns, infos, &log)
				}
			}
			var conns []*conn
			open := func() *fakeSession {
				t.Helper()
				c := newConn()
				c.client = netip.AddrPortFrom(clientAddr.Addr(), uint16(20_000+len(conns)))
				conns = append(conns, c)
				b.feed(c.handshake()...)
				b.feed(c.data("hello"))
				return b.lane.sessions[len(b.lane.sessions)-1]
			}
			accept := func(s *fakeSession) {
				b.lane.returns = frame.AppendEstablished(b.lane.returns, s.flow, &frame.Established{})
				b.feed()
			}
			// refuse is what comes of a session that was refused when its client ends.
			refuse := func(s *fakeSession) {
				for _, c := range conns {
					if c.client.Port() == s.open.Key.ClientPort {
						b.feed(c.fin(), c.serverFin(), c.ack())
					}
				}
				b.lane.close(s, how)
				b.feed()
			}
			slow, lives := open(), open()
			accept(lives)
			says("while it takes connections", 0, 0)
			refused, first, second := open(), open(), open()
			refuse(first)
			says("when it refuses", 1, 0)
			accept(slow) // the target was
			refuse(second)
			says("after more of it", 1, 0)
			accept(open())
			says("when it takes the next", 1, 1)
			refuse(refused)
			says("after a late account", 1, 1)
			b.lane.close(lives, how) // cut
			b.feed()
			says("when it ends a session that lives", 2, 1)
		})
	}
}

// Where no client connects anew, the sessions that open connections go on with tell
// that the responder takes them again.
func TestResponderThatTakesOpenConnectionsAgainIsSaid(t *testing.T) {
	for _, selects := range []bool{false, true} {
		t.Run(fmt.Sprintf("of selected requests %v", selects), func(t *testing.T) {
			b := newSifting(t, shop(), false)
			if !selects {
				b.sieve = nil
			}
			b.lane.answers = false
			var log syncBuffer
			r := refusals{log: slog.New(slog.NewTextHandler(&log, nil))}
			c := newConn()
			b.feed(c.handshake()...)
			b.does(c, ask("k"), 10)
			accept := func() {
				t.Helper()
				s := b.lane.sessions[len(b.lane.sessions)-1]
				b.lane.returns = frame.AppendEstablished(b.lane.returns, s.flow, &frame.Established{})
				b.feed()
				r.look(b.taking, "")
			}
			accept()
			b.lane.close(b.session(), frame.ClosedDrain)
			b.feed()
			r.look(b.taking, "")
			b.takeDown()
			b.lane.up = true
			b.does(c, ask("k"), 10)
			if n := len(b.lane.sessions); n != 2 {
				t.Fatalf("%d sessions, want a second one", n)
			}
			accept()
			if got := log.String(); strings.Count(got, "shutting down") != 1 || strings.Count(got, "takes connections again") != 1 {
				t.Errorf("log says\n%s", got)
			}
		})
	}
}

// Two may look at a time, and the one that was first to add up be the last to look.
func TestOlderNewsOfRefusalsIsNone(t *testing.T) {
	var log syncBuffer
	r := refusals{log: slog.New(slog.NewTextHandler(&log, nil))}
	before := taking{established: 1}
	now := taking{established: 1, paused: 2}
	for _, told := range []taking{before, now, before, now} {
		r.look(told, "")
	}
	if got := log.String(); strings.Count(got, "msg=") != 1 {
		t.Errorf("log says\n%s", got)
	}
}
