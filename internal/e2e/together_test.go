//go:build netns

package e2e

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"flowtwin/internal/e2e/rig"
	"flowtwin/internal/e2e/traffic"
	"flowtwin/internal/flow"
	"flowtwin/internal/packet"
	"flowtwin/internal/testnet"
)

// Options that a user combines, and what comes to a target then by their definitions.
type together struct {
	name    string
	args    []string
	live    bool // or of a recording
	two     bool // targets
	split   bool
	percent float64 // 0: all
	copies  float64 // 0: once
	loops   int     // 0: once
	only    string  // requests below this path, "": all
	path    string  // that only becomes, "": as it was
	taken   int     // connections that a rate takes, 0: all
}

// A mixture is a scene with two targets, and what clients did there.
type mixture struct {
	*scene
	online   *traffic.Server
	targets  [2]*traffic.Server
	seen     [2]int // connections of the rows before
	invites  []string
	file     string
	recorded traffic.Log
	from     []netip.AddrPort
}

const (
	keepPath  = "/keep/"
	leavePath = "/leave/"
)

// visitors make requests of two kinds on each connection, but for some that make one
// kind only, and returns what was met of them.
func (m *mixture) visitors() (traffic.Log, []netip.AddrPort) {
	m.t.Helper()
	before := len(m.online.Log())
	const connections, requests = 24, 6
	m.users(connections, m.dialer(port), func(i int, u *user) error {
		for n := range requests {
			path := []string{keepPath, leavePath}[n%2]
			if i%8 == 0 {
				path = leavePath
			}
			if err := u.exchangeHTTP(post("online", fmt.Sprintf("%s%d/%d", path, i, n), strings.Repeat("b", 700*(n%3)))); err != nil {
				return err
			}
		}
		return nil
	})
	return m.online.Log()[before:], m.online.Remotes()[before:]
}

// wants returns what must come to a target, of how many connections and, beside the
// first of each, how many copies; and how many requests were selected.
func (c *together) wants(target int, met traffic.Log, from []netip.AddrPort) (want traffic.Log, flows, copies, requests uint64) {
	for i, all := range met {
		client, p := packet.AddrFrom(from[i].Addr().Unmap()), from[i].Port()
		var conv traffic.Conversation
		for _, r := range all {
			if rest, ok := strings.CutPrefix(r.Path, c.only); ok {
				if c.path != "" {
					r.Path = c.path + rest
				}
				conv = append(conv, r)
			}
		}
		if len(conv) == 0 || c.split && !flow.Split(target, 2).Takes(&client, p) || c.percent > 0 && !flow.Sampled(c.percent).Takes(&client, p) {
			continue
		}
		n := int(max(c.copies, 1))
		if c.copies > 0 && flow.Fraction(c.copies).Takes(&client, p) {
			n++
		}
		for range max(c.loops, 1) {
			flows++
			copies += uint64(n - 1)
			requests += uint64(len(conv))
			for range n {
				want = append(want, conv)
			}
		}
	}
	return want, flows, copies, requests
}

// run copies as a row says, and returns what was met online meanwhile, and the ledgers.
func (m *mixture) run(c *together) (met traffic.Log, from []netip.AddrPort, reports []*rig.Report) {
	m.t.Helper()
	file := filepath.Join(m.t.TempDir(), "report.json")
	argv := m.Copier("-x", httpMap, "--invite-file", m.invites[0], "--report", file)
	if c.two {
		argv = append(argv, "-x", secondMap, "--invite-file", m.invites[1])
	}
	met, from = m.recorded, m.from
	if !c.live {
		argv = append(argv, "-i", m.file, "--pace=target")
	}
	p := m.keep(rig.Start(m.Lab.Online, "copier", append(argv, c.args...)...))
	if c.live {
		n := 1
		if c.two {
			n = 2
		}
		if err := p.WaitOutputTimes(m.within(), rig.TunnelUp, n); err != nil {
			m.t.Fatal(err)
		}
		met, from = m.visitors()
		m.arrives(c, met, from)
		m.stops(p)
	} else if code, err := p.Wait(m.within()); err != nil || code != 0 {
		m.t.Fatalf("the replay ends with %d, %v:\n%s", code, err, p.Output())
	}
	if !c.two {
		r, err := rig.ReadReport(file)
		if err != nil {
			m.t.Fatal(err)
		}
		return met, from, []*rig.Report{r}
	}
	reports, err := rig.ReadReports(file)
	if err != nil {
		m.t.Fatal(err)
	}
	return met, from, reports
}

// got returns the connections of this row at a target.
func (m *mixture) got(target int) traffic.Log { return m.targets[target].Log()[m.seen[target]:] }

// arrives waits until the targets have as many requests as they must.
func (m *mixture) arrives(c *together, met traffic.Log, from []netip.AddrPort) {
	rig.Until(m.within(), func() bool {
		for i, target := range m.targets {
			want, flows, _, _ := c.wants(i, met, from)
			n := want.Requests()
			switch {
			case i == 1 && !c.two:
				n = 0
			case c.taken > 0 && flows > 0:
				n = n / int(flows) * c.taken
			}
			if _, _, open := target.Counts(); m.got(i).Requests() < n || open > 0 {
				return false
			}
		}
		return true
	})
}

// check compares what came with what a row says.
func (m *mixture) check(t *testing.T, c *together, met traffic.Log, from []netip.AddrPort, reports []*rig.Report) {
	t.Helper()
	for i, r := range reports {
		want, flows, copies, requests := c.wants(i, met, from)
		got := m.got(i)
		t.Logf("target %d: %d connections with %d requests", i, len(got), got.Requests())
		for _, problem := range r.Check() {
			t.Errorf("ledger %d: %s", i, problem)
		}
		if r.Sessions.Opened != flows || r.Copies.Asked != copies {
			t.Errorf("ledger %d: %d sessions and %d copies, want %d and %d", i, r.Sessions.Opened, r.Copies.Asked, flows, copies)
		}
		if n := r.HTTP.Selected; (c.only != "" || c.path != "") && n != requests {
			t.Errorf("ledger %d: %d requests selected, want %d", i, n, requests)
		}
		if c.taken > 0 {
			refused := flows - uint64(c.taken)
			if r.Sessions.Closed["rate"] != refused || r.Copies.Closed["rate"] != copies/flows*refused {
				t.Errorf("ledger %d: sessions %+v, copies %+v, want %d refused for the rate", i, r.Sessions.Closed, r.Copies.Closed, refused)
			}
			if n := len(want) / int(flows) * c.taken; len(got) != n || got.Requests() != want.Requests()/int(flows)*c.taken {
				t.Errorf("target %d has %d connections with %d requests, want %d", i, len(got), got.Requests(), n)
			}
			continue
		}
		if len(want) == 0 {
			t.Errorf("target %d gets nothing: the row tests nothing", i)
		}
		if diff := traffic.Compare(want, got); len(diff) > 0 {
			t.Errorf("target %d differs from what the options say:\n%s", i, traffic.Describe(diff))
		}
		if c := r.Copies; len(r.Sent.Dropped) > 0 || c.Dropped.Bytes+c.Lost+c.Missing > 0 {
			t.Errorf("ledger %d: dropped %+v, copies %+v", i, r.Sent.Dropped, c)
		}
	}
}

func rows() []together {
	keep := []string{"--http-path", keepPath}
	with := func(base []string, more ...string) []string { return append(base[:len(base):len(base)], more...) }
	return []together{
		{name: "-i --http", args: keep, only: keepPath},
		{name: "-i --http -n", args: with(keep, "-n", "2.5"), only: keepPath, copies: 2.5},
		{name: "-i --http -r", args: with(keep, "-r", "50"), only: keepPath, percent: 50},
		{name: "-i --http --loop -n --jitter", args: with(keep, "--loop", "3", "-n", "2", "--jitter", "100ms"), only: keepPath, loops: 3, copies: 2},
		{name: "-i --http rewritten -r -n", args: with(keep, "--http-rewrite-path", "^"+keepPath+"=/kept/here/", "-r", "60", "-n", "3"), only: keepPath, path: "/kept/here/", percent: 60, copies: 3},
		{name: "-i -r -n, both of parts", args: []string{"-r", "40", "-n", "1.5"}, percent: 40, copies: 1.5},
		{name: "-i -n --rate", args: []string{"-n", "3", "--rate-connections", "0.001"}, copies: 3, taken: 1},
		{name: "-i --loop --rate", args: []string{"--loop", "2", "--rate-connections", "0.001"}, loops: 2, taken: 1},
		{name: "-i fan-out --http -n", args: with(keep, "-n", "2"), two: true, only: keepPath, copies: 2},
		{name: "-i split --http -n -r", args: with(keep, "-n", "2", "-r", "70", "--split"), two: true, split: true, only: keepPath, copies: 2, percent: 70},
		{name: "-i fan-out --rate --loop", args: []string{"--loop", "2", "--rate-connections", "0.001"}, two: true, loops: 2, taken: 1},
		{name: "fan-out --http -n -r", args: with(keep, "-n", "2", "-r", "50"), live: true, two: true, only: keepPath, copies: 2, percent: 50},
		{name: "split --http -n", args: with(keep, "--split", "-n", "2.5", "--jitter", "50ms"), live: true, two: true, split: true, only: keepPath, copies: 2.5},
		{name: "-n --rate", args: []string{"-n", "3", "--rate-connections", "0.001"}, live: true, copies: 3, taken: 1},
		{name: "-i by the clock --filter --http -n", args: with(keep, "--pace=clock", "-a", "5", "--max-gap", "10ms", "--filter", "net 10.0.0.0/8", "-n", "2"), only: keepPath, copies: 2},
		{name: "-r -n --rate of bytes, far away", args: []string{"-r", "50", "-n", "2", "--rate-bytes", "1G"}, live: true, copies: 2, percent: 50},
	}
}

// Each option has its meaning whatever it is given with: what comes to the target, and
// what the ledger says of it, follows from the definitions.
func TestOptionsTogether(t *testing.T) {
	t.Parallel()
	var second *testnet.NS
	s := newScene(t, testnet.LabConfig{}, func(l *testnet.Lab) { second = addSecond(t, l) })
	m := &mixture{scene: s, file: filepath.Join(s.Dir, "recorded.pcap")}
	m.online, m.targets[0] = s.serve(port, port)
	m.targets[1] = s.serveAt(second, port)
	tcpdump := s.record(s.Lab.Online, m.file, "-i", "eth0", "-s", "0", "tcp port 80 or udp port 9")
	m.recorded, m.from = m.visitors()
	rig.Until(s.within(), func() bool { _, _, open := m.online.Counts(); return open == 0 })
	s.recorded(map[string]*rig.Process{m.file: tcpdump})
	responder := s.keep(s.StartResponder(s.within()))
	m.invites = []string{s.InviteFile(), filepath.Join(s.Dir, "invite2")}
	argv := s.Responder("--state-dir", filepath.Join(s.Dir, "state2"), "--invite-file", m.invites[1])
	other := s.keep(rig.Start(second, "responder2", argv...))
	if err := other.WaitOutput(s.within(), rig.ResponderReady); err != nil {
		t.Fatal(err)
	}
	for _, c := range rows() {
		t.Run(c.name, func(t *testing.T) {
			for i, target := range m.targets {
				m.seen[i] = len(target.Log())
			}
			met, from, reports := m.run(&c)
			m.arrives(&c, met, from)
			m.check(t, &c, met, from, reports)
		})
	}
	m.dry(t)
	m.again(t)
	m.told(t)
	s.stops(responder)
	s.stops(other)
	s.untouched()
}

// dry checks that a dry run counts what a replay with the same options brings.
func (m *mixture) dry(t *testing.T) {
	t.Helper()
	c := together{percent: 50, only: keepPath, copies: 2.5}
	want, flows, copies, requests := c.wants(0, m.recorded, m.from)
	p := m.keep(rig.Start(m.Lab.Online, "dry run", m.Copier("-x", httpMap, "-i", m.file, "--dry-run", "-r", "50", "--http-path", keepPath, "-n", "2.5", "--loop", "forever")...))
	if code, err := p.Wait(m.within()); err != nil || code != 0 {
		t.Fatalf("%d, %v: %s", code, err, p.Output())
	}
	for _, text := range []string{
		fmt.Sprintf("\n%d connections, %d requests of HTTP/1, ", flows, requests),
		fmt.Sprintf("\nwith -n 2.5: %d connections, %d requests\n", flows+copies, want.Requests()),
		"\nthis again and again",
	} {
		if !strings.Contains(p.Stdout(), text) || strings.Contains(p.Stdout(), "do not add up") {
			t.Errorf("the dry run does not say %q:\n%s", text, p.Stdout())
		}
	}
}

// again checks that what is recorded while a part of it is copied holds the other part,
// too.
func (m *mixture) again(t *testing.T) {
	t.Helper()
	dir := filepath.Join(m.Dir, "recording")
	c := together{name: "record", args: []string{"-r", "50", "--http-path", keepPath, "--record", dir, "-n", "2"}, live: true, percent: 50, only: keepPath, copies: 2}
	var met traffic.Log
	var from []netip.AddrPort
	for _, c := range []*together{&c, {args: []string{"--http-path", leavePath}, percent: 50, only: leavePath}} {
		if !c.live {
			m.recorded, m.from = met, from
			files, err := filepath.Glob(filepath.Join(dir, "*"))
			if err != nil || len(files) != 1 {
				t.Fatalf("recorded %v, %v", files, err)
			}
			m.file = files[0]
		}
		for i, target := range m.targets {
			m.seen[i] = len(target.Log())
		}
		var reports []*rig.Report
		met, from, reports = m.run(c)
		m.arrives(c, met, from)
		m.check(t, c, met, from, reports)
	}
}

// told checks orders to a copier that has been given options for the same.
func (m *mixture) told(t *testing.T) {
	t.Helper()
	ctl := &control{m.scene, "copier", filepath.Join(m.Dir, "told.ctl")}
	copier := m.keep(m.StartCopier(m.within(), httpMap, "--control", ctl.path,
		"--ramp", "1000h", "-r", "50", "-n", "2", "--rate-connections", "1M", "--http-path", keepPath))
	flows, copies := uint64(0), uint64(0)
	for _, tt := range []struct {
		orders []string
		c      together
	}{
		{[]string{"percent 100"}, together{copies: 2}},
		{[]string{"percent 30", "n 1.5"}, together{percent: 30, copies: 1.5}},
		{[]string{"n 1", "rate connections off"}, together{percent: 30, copies: 1}},
		{[]string{"pause", "percent 60", "resume"}, together{percent: 60}},
	} {
		for _, o := range tt.orders {
			ctl.tell(strings.Fields(o)...)
		}
		for i, target := range m.targets {
			m.seen[i] = len(target.Log())
		}
		tt.c.only = keepPath
		met, from := m.visitors()
		m.arrives(&tt.c, met, from)
		want, f, n, _ := tt.c.wants(0, met, from)
		flows, copies = flows+f, copies+n
		if diff := traffic.Compare(want, m.got(0)); len(diff) > 0 {
			t.Errorf("after %v the target differs from what was said:\n%s", tt.orders, traffic.Describe(diff))
		}
	}
	m.stops(copier)
	r, err := rig.ReadReport(m.ReportFile())
	if err != nil {
		t.Fatal(err)
	}
	for _, problem := range r.Check() {
		t.Errorf("ledger: %s", problem)
	}
	if r.Sessions.Opened != flows || r.Copies.Asked != copies || r.SamplePercent != 60 {
		t.Errorf("ledger: %v %%, %d sessions and %d copies, want 60, %d and %d", r.SamplePercent, r.Sessions.Opened, r.Copies.Asked, flows, copies)
	}
}
