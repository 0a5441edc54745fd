//go:build netns

package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"flowtwin/internal/e2e/rig"
	"flowtwin/internal/e2e/traffic"
	"flowtwin/internal/testnet"
)

// Each recipe of the document must do what it says, by the commands that stand
// there, and none may be without a test.
func TestRecipes(t *testing.T) {
	tests := map[string]func(*kitchen){
		"Stress one target from several servers":       cookStress,
		"Rehearse a release":                           cookRehearsal,
		"Compare two versions":                         cookComparison,
		"Amplify the load":                             cookAmplified,
		"Give a load tool the network of real clients": cookDistance,
		"Keep a hot standby":                           cookStandby,
		"Drill with a recording":                       cookDrill,
	}
	for _, r := range readCookbook(t) {
		cook := tests[r.title]
		if cook == nil {
			t.Errorf("nothing tests the recipe %q", r.title)
			continue
		}
		delete(tests, r.title)
		t.Run(r.title, func(t *testing.T) { cook(newKitchen(t, r)) })
	}
	for title := range tests {
		t.Errorf("there is no recipe %q", title)
	}
}

// nginx starts a server that its reader has already.
func (k *kitchen) nginx(host string) (dir string) {
	k.t.Helper()
	p, dir := k.scene.nginx(k.hosts[host], "nginx-"+host)
	k.nginxes = append(k.nginxes, p)
	return dir
}

// closes ends the servers of nginx, so that their logs are whole: they are written
// some time behind what is served.
func (k *kitchen) closes() {
	k.t.Helper()
	for _, p := range k.nginxes {
		k.stops(p)
	}
}

var answered = regexp.MustCompile(`(?m)^Complete requests: +([0-9]+)|^ +([0-9]+) requests in`)

// completed returns how many requests the load tools have had answers to.
func (k *kitchen) completed() (sum int) {
	for _, p := range k.ended {
		for _, m := range answered.FindAllStringSubmatch(p.Output(), -1) {
			n, _ := strconv.Atoi(m[1] + m[2])
			sum += n
		}
	}
	return sum
}

// conversations returns each connection that servers saw as a line, with the number of its
// requests where they are alike, sorted.
func (k *kitchen) conversations(dirs ...string) (lines []string) {
	k.t.Helper()
	for _, dir := range dirs {
		log, err := traffic.NginxLog(dir)
		if err != nil {
			k.t.Fatal(err)
		}
		for _, c := range log {
			var line strings.Builder
			for i := 0; i < len(c); {
				n := i
				for i < len(c) && c[i] == c[n] {
					i++
				}
				fmt.Fprintf(&line, "%d × %v ", i-n, c[n])
			}
			lines = append(lines, line.String())
		}
	}
	slices.Sort(lines)
	return lines
}

// requests returns how many requests are in the logs of servers.
func (k *kitchen) requests(dirs ...string) (sum int) {
	k.t.Helper()
	for _, dir := range dirs {
		log, err := traffic.NginxLog(dir)
		if err != nil {
			k.t.Fatal(err)
		}
		sum += log.Requests()
	}
	return sum
}

// alike sets what is waited for before a program is ended, that the target has had n
// times what the online servers have, and returns the check of it.
func (k *kitchen) alike(n int, target string, online ...string) (check func()) {
	k.settled = func() bool {
		made := k.requests(online...)
		return made > 0 && made >= k.completed() && k.requests(target) == n*made
	}
	return func() {
		k.t.Helper()
		k.closes()
		var want []string
		for _, line := range k.conversations(online...) {
			want = append(want, slices.Repeat([]string{line}, n)...)
		}
		got := k.conversations(target)
		k.t.Logf("online saw %d connections with %d requests, the target %d with %d", len(want)/n, k.requests(online...), len(got), k.requests(target))
		if !slices.Equal(got, want) || len(want) == 0 {
			k.t.Errorf("the target has not had %d times what the online servers had:\n%s\nbut\n%s", n, tail(strings.Join(want, "\n"), 10), tail(strings.Join(got, "\n"), 10))
		}
	}
}

func cookStress(k *kitchen) {
	check := k.alike(1, k.nginx("target"), k.nginx("online"), k.nginx("online2"))
	k.makes("")
	check()
}

// lines counts the requests for a path in an access log of the document's nginx.
func (k *kitchen) lines(host, log, path string) (n int) {
	k.t.Helper()
	text, err := os.ReadFile(filepath.Join(k.at(host), log))
	if err != nil {
		k.t.Fatal(err)
	}
	for sc := bufio.NewScanner(bytes.NewReader(text)); sc.Scan(); {
		if strings.Contains(sc.Text(), `"GET `+path+" HTTP/") {
			n++
		}
	}
	return n
}

// delivered says whether all that the copier has selected is in the target's log of
// release 1, and how much that is.
func (k *kitchen) delivered() (n int, all bool) {
	k.t.Helper()
	out, err := k.hosts["online"].Output(filepath.Join(binaries, "copier"), "ctl", "--control", filepath.Join(k.at("online"), "copier.sock"), "status")
	var r rig.Report
	if err == nil {
		err = json.Unmarshal([]byte(out), &r)
	}
	if err != nil {
		k.t.Fatal(err)
	}
	n = k.lines("target", "v1.log", "/shop")
	return n, n > 0 && uint64(n) == r.HTTP.Selected && r.Flows.Live == 0
}

func cookRehearsal(k *kitchen) {
	k.nginx("online")
	k.makes("online copier ctl --control copier.sock percent")
	var few int
	rig.Until(k.within(), func() (all bool) {
		few, all = k.delivered()
		return all
	})
	if few < 100 || few > 300 {
		k.t.Errorf("of 2,000 connections the target got %d, of -r 10", few)
	}
	k.settled = func() bool { n, all := k.delivered(); return all && n >= few+1000 }
	k.makes("online copier ctl --control copier.sock resume")
	k.settled = func() bool { return k.lines("target", "v2.log", "/shop") == 1000 }
	k.makes("")
	r, err := rig.ReadReport(k.report())
	if err != nil {
		k.t.Fatal(err)
	}
	for _, problem := range r.Check() {
		k.t.Errorf("ledger: %s", problem)
	}
	all := uint64(k.lines("target", "v1.log", "/shop") + 1000)
	if r.HTTP.Selected != all || r.Sessions.Opened != all || r.HTTP.LeftOut == 0 {
		k.t.Errorf("ledger: %+v and %d sessions, the target had %d requests", r.HTTP, r.Sessions.Opened, all)
	}
	if n := k.lines("target", "v1.log", "/checkout"); n > 0 {
		k.t.Errorf("%d checkouts at the target", n)
	}
}

func cookComparison(k *kitchen) {
	counts := func(host string) string {
		return fmt.Sprintf("%d %d", k.lines(host, "access.log", "/"), k.lines(host, "access.log", "/moved"))
	}
	const want = "1500 300"
	k.settled = func() bool { return counts("target") == want && counts("target2") == want }
	k.makes("")
	for _, host := range []string{"online", "target", "target2"} {
		if got := counts(host); got != want {
			k.t.Errorf("%s has had %s requests, want %s", host, got, want)
		}
	}
	reports, err := rig.ReadReports(k.report())
	if err != nil {
		k.t.Fatal(err)
	}
	for i, r := range reports {
		for _, problem := range r.Check() {
			k.t.Errorf("ledger %d: %s", i, problem)
		}
	}
	one, two := reports[0], reports[1]
	if a := one.Answers; a.Different != 0 || one.Sessions.Reconnects != 0 {
		k.t.Errorf("the old version against itself: %+v, %d reconnects", a, one.Sessions.Reconnects)
	}
	// However ab spreads 1,000 requests over 5 connections, 50 for each take 20 to 24.
	if a, n := two.Answers, two.Sessions.Reconnects; a.Different != 305 || n < 15 || n > 19 {
		k.t.Errorf("the new version: %+v, %d reconnects", a, two.Sessions.Reconnects)
	}
}

func cookAmplified(k *kitchen) {
	check := k.alike(10, k.nginx("target"), k.nginx("online"))
	k.makes("")
	check()
}

func cookDistance(k *kitchen) {
	online, target := k.nginx("online"), k.nginx("target")
	check := k.alike(1, target, online)
	k.settled = func() bool { return k.requests(target) >= k.completed() }
	k.makes("")
	// wrk ends in the middle of requests. Whether a server still reads one whose
	// connection is reset, is chance; all others are at both.
	if resets := k.resets(); resets == 0 {
		check()
	} else {
		k.closes()
		if a, b := k.requests(online), k.requests(target); a < b-resets || b < a-resets {
			k.t.Errorf("online saw %d requests, the target %d, %d connections were reset", a, b, resets)
		}
	}
	for _, p := range k.ended {
		if p.name != "ss" {
			continue
		}
		for _, m := range regexp.MustCompile(`minrtt:([0-9]+)`).FindAllStringSubmatch(p.Output(), -1) {
			if ms, _ := strconv.Atoi(m[1]); ms < 30 {
				k.t.Errorf("the target measures %s, want at least 35 ms", m[0])
			}
		}
	}
}

// resets returns how many sessions a client's reset has ended, by the ledger.
func (k *kitchen) resets() (sum int) {
	for _, p := range k.ended {
		if m := regexp.MustCompile(`closed: client_reset +([0-9]+)`).FindStringSubmatch(p.Stdout()); m != nil {
			n, _ := strconv.Atoi(m[1])
			sum += n
		}
	}
	return sum
}

func cookStandby(k *kitchen) {
	// 5,000 of each command, after those that made the first data.
	commands := []string{"set", "incr", "lpush", "rpush", "sadd", "hset", "mset"}
	k.settled = func() bool {
		out, err := k.hosts["target"].Output("redis-cli", "INFO", "commandstats")
		n := 0
		for _, c := range commands {
			n += strings.Count(out, "cmdstat_"+c+":calls=5000,")
		}
		return err == nil && n == len(commands)
	}
	k.makes("")
	var digests []string
	for _, p := range k.ended {
		if d := strings.TrimSpace(p.Stdout()); p.name == "redis-cli" && len(d) == 40 {
			digests = append(digests, d)
		}
	}
	if len(digests) != 2 || digests[0] != digests[1] || strings.Trim(digests[0], "0") == "" {
		k.t.Errorf("digests of online and target: %q", digests)
	}
}

func cookDrill(k *kitchen) {
	online, target := k.nginx("online"), k.nginx("target")
	// tcpdump is behind; a request of our own is the last thing it has to have.
	k.makes("online ^C copier")
	conn := k.dialIn(k.hosts["clients"], testnet.OnlineAddr+port)
	const last = "GET /last HTTP/1.1\r\nHost: online\r\n\r\n"
	if _, err := conn.Write([]byte(last)); err != nil {
		k.t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); err != nil {
		k.t.Fatal(err)
	}
	_ = conn.Close()
	k.settled = func() bool {
		b, err := os.ReadFile(filepath.Join(k.at("online"), "monday.pcap"))
		return err == nil && bytes.Contains(b, []byte(last))
	}
	k.makes("")
	k.closes()
	recorded := k.conversations(online)
	var want []string
	for _, line := range recorded {
		want = append(want, slices.Repeat([]string{line}, 1+3+4)...)
	}
	if got := k.conversations(target); !slices.Equal(got, want) {
		k.t.Errorf("the target has not had 8 times what was recorded:\n%s\nbut\n%s", tail(strings.Join(want, "\n"), 10), tail(strings.Join(got, "\n"), 10))
	}
}
