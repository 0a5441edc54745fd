//go:build netns

package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"flowtwin/internal/e2e/rig"
	"flowtwin/internal/e2e/traffic"
	"flowtwin/internal/testnet"
)

// A doorman is an HTTP server that knows who came, by the requests' paths.
type doorman struct {
	mu   sync.Mutex
	came map[string]bool
	open int
}

func (s *scene) doorman(ns *testnet.NS, addrs ...string) *doorman {
	s.t.Helper()
	d := &doorman{came: make(map[string]bool)}
	srv := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			d.mu.Lock()
			d.came[r.URL.Path+" from "+r.RemoteAddr] = true
			d.mu.Unlock()
			fmt.Fprintln(w, "come in")
		}),
		ConnState: func(_ net.Conn, state http.ConnState) {
			d.mu.Lock()
			defer d.mu.Unlock()
			switch state {
			case http.StateNew:
				d.open++
			case http.StateClosed:
				d.open--
			default:
			}
		},
	}
	for _, addr := range addrs {
		ln := ns.Listen(s.t, addr)
		go func() { _ = srv.Serve(ln) }()
	}
	s.t.Cleanup(func() { _ = srv.Close() })
	return d
}

// book returns who came, and how many are there.
func (d *doorman) book() (came []string, open int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for guest := range d.came {
		came = append(came, guest)
	}
	slices.Sort(came)
	return came, d.open
}

// sameGuests waits until both doormen have the same book and everybody has left.
func (s *scene) sameGuests(online, target *doorman) {
	s.t.Helper()
	ok := rig.Until(s.within(), func() bool {
		a, na := online.book()
		b, nb := target.book()
		return len(a) > 0 && slices.Equal(a, b) && na == 0 && nb == 0
	})
	if ok {
		return
	}
	a, na := online.book()
	b, nb := target.book()
	s.t.Errorf("%d are at online's, %d at the target's; online saw\n%s\ntarget saw\n%s", na, nb, strings.Join(a, "\n"), strings.Join(b, "\n"))
}

// addressBooks is what the responder's report says of clients' addresses.
func (s *scene) addressBooks() (moved, pooled uint64) {
	s.t.Helper()
	var books struct {
		TuplesMoved  uint64 `json:"tuples_moved"`
		TuplesPooled uint64 `json:"tuples_pooled"`
	}
	s.responderBooks(&books)
	return books.TuplesMoved, books.TuplesPooled
}

// responderBooks reads the part of the responder's report that is the network's, and
// returns how many turns the settle time has released.
func (s *scene) responderBooks(books any) (settled uint64) {
	s.t.Helper()
	var r struct {
		Settled uint64
		Net     json.RawMessage
	}
	b, err := os.ReadFile(s.responderReport())
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	if err == nil {
		err = json.Unmarshal(r.Net, books)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return r.Settled
}

func (s *scene) responderReport() string { return filepath.Join(s.Dir, "responder.json") }

// The target's application sees each client's own address and port, of both
// families, although the host's route to the clients is another; a killed
// responder leaves one rule, which lets packets pass and which the next one takes
// away, and in the end the host is as before.
func TestClientsOwnAddresses(t *testing.T) {
	t.Parallel()
	s := newScene(t, testnet.LabConfig{})
	online := s.doorman(s.Lab.Online, ":80", ":81")
	target := s.doorman(s.Lab.Target, ":80")
	args := []string{
		"--client-address=original", "--report", s.responderReport(),
		"--allow", testnet.TargetAddr + ":80,[" + testnet.TargetAddr6 + "]:80",
	}
	copier, responder := s.copies(httpMap+",81-["+testnet.TargetAddr6+"]:80", args...)
	make := func(name string) {
		s.make(traffic.Load{Name: name + "v4", Clients: 20, Rounds: 3, Requests: 2}, s.dialer(":80"))
		s.make(traffic.Load{Name: name + "v6", Clients: 20, Rounds: 3, Requests: 2}, s.dialerTo("["+testnet.OnlineAddr6+"]:81", testnet.ClientAddr6))
		s.sameGuests(online, target)
	}
	make("first")

	// One that is connected all the time: what is left of it at the target must not
	// pass for a user of its own.
	left, err := s.dialFrom(testnet.ClientAddr(3)+":23456", testnet.OnlineAddr+port)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(left, "GET /left HTTP/1.1\r\nHost: x\r\n\r\n")
	arrived := rig.Until(s.within(), func() bool {
		came, _ := target.book()
		return slices.ContainsFunc(came, func(c string) bool { return strings.HasPrefix(c, "/left ") })
	})
	if !arrived {
		t.Fatal("the target has not got what came before the kill")
	}
	responder.Kill()
	if rules := s.Lab.Target.Run(t, "ip", "rule"); !strings.Contains(rules, "proto 74") {
		t.Errorf("no rule is left by the killed responder, the test has tested nothing: %s", rules)
	}
	if way := s.Lab.Target.Run(t, "ip", "route", "get", testnet.ClientAddr(0), "from", testnet.TargetAddr, "ipproto", "tcp", "sport", "80"); !strings.Contains(way, "dev eth0") {
		t.Errorf("behind a dead rule the target's answers go %s", way)
	}
	responder = s.keep(s.StartResponder(s.within(), args...))
	if err := copier.WaitOutputTimes(s.within(), rig.TunnelUp, 2); err != nil {
		t.Fatal(err)
	}
	if err := left.Close(); err != nil {
		t.Error(err)
	}
	make("again")
	s.end(copier, responder)
	if moved, pooled := s.addressBooks(); moved != 0 || pooled != 0 {
		t.Errorf("%d clients have another port, %d an address of the pool", moved, pooled)
	}
}

// Two copiers with the same clients, each of which has its own connection at the
// target: the second gets another port. Where the target is of the other family,
// the pool's address it is. All are counted.
func TestClientsOwnAddressesTwice(t *testing.T) {
	t.Parallel()
	s := newScene(t, testnet.LabConfig{})
	s.doorman(s.Lab.Online, ":80")
	target := s.doorman(s.Lab.Target, ":80")
	copier, responder := s.copies(httpMap, "--client-address=original", "--report", s.responderReport())
	argv := s.Copier("-x", httpMap, "--invite-file", s.InviteFile())
	other := s.keep(rig.Start(s.Lab.Online, "second copier", argv...))
	if err := other.WaitOutput(s.within(), rig.TunnelUp); err != nil {
		t.Fatal(err)
	}
	stats := s.make(traffic.Load{Name: "v4", Clients: 10, Rounds: 1, Requests: 2}, s.dialer(":80"))
	s.make(traffic.Load{Name: "v6", Clients: 5, Rounds: 1, Requests: 2}, s.dialerTo("["+testnet.OnlineAddr6+"]:80", testnet.ClientAddr6))
	rig.Until(s.within(), func() bool {
		came, open := target.book()
		return len(came) == 2*2*15 && open == 0
	})
	s.stops(other)
	s.exactDelivery(s.end(copier, responder))
	if moved, pooled := s.addressBooks(); moved < uint64(stats.Connections) || pooled != 2*5 {
		t.Errorf("%d clients have another port, want %d; %d an address of the pool, want 10", moved, stats.Connections, pooled)
	}
}

func (s *scene) exactDelivery(r *rig.Report) {
	s.t.Helper()
	if r.Sent.Delivered != r.Client.Sent {
		s.t.Errorf("sent %v, delivered %v", r.Client.Sent, r.Sent.Delivered)
	}
}

// A port with users of its own is not taken from them; unless told.
func TestClientsOwnAddressesAtATargetWithUsers(t *testing.T) {
	t.Parallel()
	s := newScene(t, testnet.LabConfig{})
	s.doorman(s.Lab.Target, ":80")
	var user net.Conn
	var err error
	s.Lab.Online.Do(func() { user, err = net.Dial("tcp", testnet.TargetAddr+":80") })
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = user.Close() }()
	args := []string{"--client-address=original", "--allow", testnet.TargetAddr + ":80"}
	p := s.keep(rig.Start(s.Lab.Target, "responder", s.Responder(args...)...))
	if code, err := p.Wait(s.within()); err != nil || code != 1 || !strings.Contains(p.Output(), "--client-address-force") {
		t.Errorf("exit code %d, %v, says: %s", code, err, p.Output())
	}
	s.untouched()
	s.stops(s.keep(s.StartResponder(s.within(), append(args, "--client-address-force")...)))
	s.untouched()
}

// Clients of one family reach a target of the other.
func TestClientsOfTheOtherFamily(t *testing.T) {
	t.Parallel()
	s := newScene(t, testnet.LabConfig{})
	online, target := s.serve(":80", ":80")
	online6, target6 := s.serve(":81", ":8081")
	copier, responder := s.copies(httpMap + ",81-[" + testnet.TargetAddr6 + "]:8081")
	a := s.make(traffic.Load{Name: "from6to4", Clients: 20, Rounds: 3, Requests: 5, Bodies: []int{10, 30000}}, s.dialerTo("["+testnet.OnlineAddr6+"]:80", testnet.ClientAddr6))
	b := s.make(traffic.Load{Name: "from4to6", Clients: 20, Rounds: 3, Requests: 5, Bodies: []int{10, 30000}}, s.dialer(":81"))
	s.same(online, target)
	s.same(online6, target6)
	a.Add(b)
	s.exact(s.end(copier, responder), a)
}
