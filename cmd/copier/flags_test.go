package main

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"flowtwin/copier"
	"flowtwin/tunnel"
)

// fakeNames resolves the names of the tests.
type fakeNames map[string][]netip.Addr

func (f fakeNames) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	if a, ok := f[host]; ok {
		return a, nil
	}
	return nil, errors.New("no such host")
}

func names() fakeNames {
	a := netip.MustParseAddr
	return fakeNames{
		"web":       {a("10.0.0.1")},
		"web-1":     {a("10.0.0.1")},
		"db-2":      {a("2001:db8::2"), a("10.0.0.2")},
		"two":       {a("10.0.0.3"), a("10.0.0.4")},
		"addrless":  {},
		"localhost": {a("::1"), a("127.0.0.1")},
	}
}

func testInvite() tunnel.Invite {
	return tunnel.Invite{Addrs: []string{"192.0.2.1:7443"}, Fingerprint: [32]byte{1}, Secret: [32]byte{2}}
}

func noEnv(string) string { return "" }

func TestParseMaps(t *testing.T) {
	tests := []struct {
		name string
		args []string
		want string // of the maps, or a part of the error
	}{
		{"tcpcopy's short form", []string{"80-192.168.44.137:8080"}, "*:80>192.168.44.137:8080"},
		{"local address", []string{"10.1.1.1:80-192.168.44.137:80"}, "10.1.1.1:80>192.168.44.137:80"},
		{"several in one", []string{"80-1.2.3.4:80,443-1.2.3.4:443"}, "*:80>1.2.3.4:80 *:443>1.2.3.4:443"},
		{"several flags", []string{"80-1.2.3.4:80", "443-1.2.3.4:443"}, "*:80>1.2.3.4:80 *:443>1.2.3.4:443"},
		{"IPv6", []string{"[2001:db8::1]:80-[2001:db8::2]:81"}, "2001:db8::1:80>[2001:db8::2]:81"},
		{"mapped IPv4 is IPv4", []string{"[::ffff:10.0.0.9]:80-1.2.3.4:80"}, "10.0.0.9:80>1.2.3.4:80"},
		{"any address, said", []string{"0.0.0.0:80-1.2.3.4:80"}, "*:80>1.2.3.4:80"},
		{"any address, by star", []string{"*:80-1.2.3.4:80"}, "*:80>1.2.3.4:80"},
		{"name", []string{"80-web:80"}, "*:80>10.0.0.1:80"},
		{"names with hyphens, IPv4 first", []string{"web-1:80-db-2:81"}, "10.0.0.1:80>10.0.0.2:81"},
		{"local name of two addresses", []string{"two:80-web:80"}, "10.0.0.3:80>10.0.0.1:80 10.0.0.4:80>10.0.0.1:80"},
		{"any address beside one of them", []string{"80-1.2.3.4:80,10.0.0.1:80-1.2.3.4:81"}, "*:80>1.2.3.4:80 10.0.0.1:80>1.2.3.4:81"},

		{"tcpcopy#367: no port became target 0.0.0.0:192", []string{"10008-192.168.237.128"}, `target "192.168.237.128": no port`},
		{"no target", []string{"80"}, "no hyphen"},
		{"empty between commas", []string{"80-1.2.3.4:80,,81-1.2.3.4:81"}, "empty map"},
		{"port too large", []string{"70000-1.2.3.4:80"}, `local side "70000": "70000" is not a port`},
		{"port 0", []string{"80-1.2.3.4:0"}, `target "1.2.3.4:0": "0" is not a port`},
		{"bare IPv6", []string{"80-2001:db8::2:80"}, "needs brackets"},
		{"not an address", []string{"80-1.2.3.400:80"}, `target "1.2.3.400": not an IPv4 address`},
		{"unknown name", []string{"80-nowhere:80"}, `target "nowhere": no such host`},
		{"unknown local name", []string{"nowhere:80-web:80"}, `local side "nowhere"`},
		{"name without address", []string{"80-addrless:80"}, "has no address"},
		{"target is any address", []string{"80-0.0.0.0:80"}, "no address of a host"},
		{"target is a multicast group", []string{"80-224.0.0.1:80"}, "no address of a host"},
		{"target is a port only", []string{"80-8080"}, `target "8080"`},
		{"zone", []string{"[fe80::1%eth0]:80-1.2.3.4:80"}, "zones"},
		{"twice", []string{"80-1.2.3.4:80,80-1.2.3.5:80"}, "port 80 of any local address is given twice, to 1.2.3.4:80 and to 1.2.3.5:80"},
		{"twice by name", []string{"web:80-1.2.3.4:80", "10.0.0.1:80-1.2.3.5:80"}, "10.0.0.1:80 is given twice"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			maps, err := parseMaps(t.Context(), tt.args, names())
			if err != nil {
				if !strings.Contains(err.Error(), tt.want) {
					t.Errorf("error %q, want %q in it", err, tt.want)
				}
				return
			}
			var got []string
			for _, m := range maps {
				server := "*"
				if m.Server.IsValid() {
					server = m.Server.String()
				}
				got = append(got, server+":"+itoa(m.Port)+">"+m.Target.String())
			}
			if s := strings.Join(got, " "); s != tt.want {
				t.Errorf("maps %q, want %q", s, tt.want)
			}
		})
	}
}

func itoa(n uint16) string {
	return strings.TrimPrefix(netip.AddrPortFrom(netip.IPv4Unspecified(), n).String(), "0.0.0.0:")
}

func TestParseFlags(t *testing.T) {
	invite := testInvite().String()
	file := filepath.Join(t.TempDir(), "invite")
	if err := os.WriteFile(file, []byte(invite+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	env := func(string) string { return invite }
	x := []string{"-x", "80-1.2.3.4:80"}
	tests := []struct {
		name  string
		args  []string
		env   func(string) string
		check func(o options) bool
		err   string // part of it
	}{
		{name: "invite file", args: []string{"--invite-file", file}, check: func(o options) bool {
			return o.config.Invite.Secret == testInvite().Secret && o.config.Drain == 5*time.Second && !o.openInvite
		}},
		{name: "invite from the environment", env: env, check: func(o options) bool { return o.config.Invite.Secret[0] == 2 }},
		{name: "invite as argument warns", args: []string{"-s", invite}, check: func(o options) bool {
			return o.openInvite && o.config.Server == "" && o.config.Invite.Secret[0] == 2
		}},
		{name: "server as a tcpcopy user types it", args: []string{"-s", "192.168.44.137"}, env: env, check: func(o options) bool {
			return o.config.Server == "192.168.44.137"
		}},
		{name: "server that is called like an invite", args: []string{"-s", "flowtwin1:7443"}, env: env, check: func(o options) bool {
			return o.config.Server == "flowtwin1:7443"
		}},
		{name: "server that is none", args: []string{"-s", "10.1.1.1:0"}, env: env, err: `-s: "10.1.1.1:0" is not host or host:port`},
		{name: "empty invite file", args: []string{"--invite-file", os.DevNull}, env: env, err: "--invite-file /dev/null: no invite, the file is empty: copy the one that the responder wrote"},
		{name: "interfaces", args: []string{"--interface", "eth0,eth1", "--interface", "lo"}, env: env, check: func(o options) bool {
			return slices.Equal(o.config.Interfaces, []string{"eth0", "eth1", "lo"})
		}},
		{name: "daemon", args: []string{"-d", "-l", "log", "-P", "pid", "--json"}, env: env, check: func(o options) bool {
			return o.daemon && o.logFile == "log" && o.pidFile == "pid" && o.json
		}},
		{name: "version needs nothing else", args: []string{"--version"}, check: func(o options) bool { return o.version }},

		{name: "no invite", err: "no invite"},
		{name: "no such file", args: []string{"--invite-file", file + "x"}, err: "--invite-file: open"},
		{name: "broken invite", args: []string{"-s", invite[:len(invite)-2] + "AA"}, err: "-s: invite is malformed"},
		{name: "half an invite", args: []string{"-s", invite[:40]}, err: "-s: invite is malformed"},
		{name: "two invites", args: []string{"-s", invite, "--invite-file", file}, err: "give one of the two"},
		{name: "record", args: []string{"--record", "/tmp/x", "--record-size", "1M", "--record-cap", "3G"}, env: env, check: func(o options) bool {
			return *o.config.Record == copier.Record{Dir: "/tmp/x", Size: 1e6, Every: time.Hour, Cap: 3e9}
		}},
		{name: "record alone", args: []string{"--record", "/tmp/x"}, check: func(o options) bool { return o.config.Record.Alone }},
		{name: "small files", args: []string{"--record", "/tmp/x", "--record-size", "10k"}, env: env, err: "--record-size"},
		{name: "small cap", args: []string{"--record", "/tmp/x", "--record-cap", "300M"}, env: env, err: "--record-cap"},
		{name: "no bytes", args: []string{"--record", "/tmp/x", "--record-cap", "9999999999999T"}, env: env, err: "--record-cap"},
		{name: "record what is recorded", args: []string{"--record", "/tmp/x", "-i", file}, env: env, err: "--record: what is replayed"},
		{name: "cap of nothing", args: []string{"--record-cap", "3G"}, env: env, err: "--record-cap: is for recording"},
		{name: "no file to replay", args: []string{"-i", "no*.pcap"}, env: env, err: "-i: no*.pcap: no such file"},
		{name: "a file to replay", args: []string{"-i", file, "-a", "10", "--loop", "forever", "--max-gap", "2s"}, env: env, check: func(o options) bool {
			r := o.config.Replay
			return r != nil && slices.Equal(r.Files, []string{file}) && r.Speed == 10 && r.Loops == -1 && r.MaxGap == 2*time.Second
		}},
		{name: "dry run needs no invite", args: []string{"-i", file, "--dry-run"}, check: func(o options) bool { return o.config.Replay.DryRun }},
		{name: "pace", args: []string{"-i", file, "--pace", "fast"}, env: env, err: "--pace"},
		{name: "two paces", args: []string{"-i", file, "--pace", "target", "-a", "2"}, env: env, err: "the target sets the pace"},
		{name: "no speed", args: []string{"-i", file, "-a", "0"}, env: env, err: "-a: 0"},
		{name: "loops", args: []string{"-i", file, "--loop", "0"}, env: env, err: "--loop"},
		{name: "loops of standard input", args: []string{"-i", "-", "--loop", "2"}, env: env, err: "read only once"},
		{name: "filter", args: []string{"-i", file, "--filter", "host"}, env: env, err: "--filter"},
		{name: "start", args: []string{"-i", file, "--start", "tomorrow"}, env: env, err: "--start"},
		{name: "live flag with a file", args: []string{"-i", file, "--interface", "lo"}, env: env, err: "--interface: is for live packets"},
		{name: "file's flag without one", args: []string{"-a", "10"}, env: env, err: "--accelerate: is for replaying files"},
		{name: "shards", args: []string{"--shards", "0"}, env: env, err: "--shards"},
		{name: "connections", args: []string{"--connections", "99"}, env: env, err: "--connections"},
		{name: "drain", args: []string{"--drain", "-1s"}, env: env, err: "--drain"},
		{name: "a sample of nothing", args: []string{"-r", "0"}, env: env, err: "-r, --sample: 0 is not above 0 and up to 100 percent"},
		{name: "a sample of more than all", args: []string{"--sample", "100.1"}, env: env, err: "-r, --sample: 100.1"},
		{name: "a sample of a word", args: []string{"-r", "NaN"}, env: env, err: "-r, --sample: NaN"},
		{name: "ramp", args: []string{"--ramp", "-1s"}, env: env, err: "--ramp: -1s is negative"},
		{name: "rates", args: []string{"--rate-connections", "0.5/s", "--rate-bytes", "10M"}, env: env, check: func(o options) bool {
			return o.config.Rates == tunnel.Rates{Connections: 0.5, Bytes: 10e6}
		}},
		{name: "no rate", args: []string{"--rate-bytes", "much"}, env: env, err: `--rate-bytes: "much" is not a positive number`},
		{name: "rate of what", args: []string{"--rate", "5"}, env: env, err: "--rate-connections or --rate-bytes"},
		{name: "sample and ramp", args: []string{"-r", "0.5", "--ramp", "10m", "--control", "/run/c"}, env: env, check: func(o options) bool {
			return o.config.Sample == 0.5 && o.config.Ramp == 10*time.Minute && o.config.Control == "/run/c"
		}},
		{name: "midstream", args: []string{"--midstream", "maybe"}, env: env, err: "--midstream"},
		{name: "stray argument", args: []string{"80"}, env: env, err: `"80": not a flag`},
		{name: "unknown flag", args: []string{"--spoof"}, env: env, err: "unknown flag: --spoof; see --help"},
		{name: "unknown letter", args: []string{"-z"}, env: env, err: "in -z; see --help"},
		{name: "tcpcopy's whole sessions", args: []string{"-O"}, env: env, err: "-O: connections that were open before are left out by --midstream skip"},
		{name: "tcpcopy's pool", args: []string{"-c", "62.135.200.x"}, env: env, err: "-c: the addresses that the target sees clients at belong to the responder"},
		{name: "tcpcopy's copies", args: []string{"-n", "2.5", "--jitter", "2s"}, env: env, check: func(o options) bool {
			return o.config.Copies == 2.5 && o.config.Jitter == 2*time.Second
		}},
		{name: "less than one copy", args: []string{"-n", "0.5"}, env: env, err: "-r 50"},
		{name: "no copy", args: []string{"-n", "0"}, env: env, err: "not within 1..1000"},
		{name: "too many copies", args: []string{"-n", "1000.5"}, env: env, err: "not within 1..1000"},
		{name: "copies that are no number", args: []string{"-n", "NaN"}, env: env, err: "not within 1..1000"},
		{name: "jitter", args: []string{"--jitter", "-1s"}, env: env, err: "--jitter"},
		{name: "tcpcopy's letters together", args: []string{"-dL"}, env: env, err: "-L: not needed"},
		{name: "the responder's flag", args: []string{"--gate=off"}, env: env, err: "--gate: is a flag of responder"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.env == nil {
				tt.env = noEnv
			}
			args := tt.args
			if tt.name != "version needs nothing else" {
				args = append(slices.Clone(x), args...)
			}
			o, err := parseFlags(args, tt.env, names())
			switch {
			case err == nil && tt.err != "":
				t.Errorf("accepted, want an error with %q", tt.err)
			case err != nil && (tt.err == "" || !strings.Contains(err.Error(), tt.err)):
				t.Errorf("error %q, want %q in it", err, tt.err)
			case err == nil && !tt.check(o):
				t.Errorf("options are %+v", o)
			}
		})
	}
}

func TestMapIsNeeded(t *testing.T) {
	if _, err := parseFlags(nil, noEnv, names()); err == nil || !strings.Contains(err.Error(), "-x") {
		t.Errorf("error %v, want one that names -x", err)
	}
}

// What the user gets to see, and the exit codes that scripts go by.
func TestRun(t *testing.T) {
	tests := []struct {
		args           []string
		code           int
		stdout, stderr string
	}{
		{[]string{"--help"}, 0, "Examples:", ""},
		{[]string{"--version"}, 0, "copier devel", ""},
		{[]string{"-x", "80"}, 2, "", "copier: -x \"80\": no hyphen"},
		{[]string{"-x", "80-1.2.3.4:80", "-s", testInvite().String(), "-l", "/nonexistent/log"}, 1, "", "copier: log file"},
	}
	for _, tt := range tests {
		var stdout, stderr strings.Builder
		code := run(tt.args, noEnv, &stdout, &stderr)
		if code != tt.code || !strings.Contains(stdout.String(), tt.stdout) || !strings.Contains(stderr.String(), tt.stderr) {
			t.Errorf("%q: exit code %d, want %d; stdout %q, stderr %q", tt.args, code, tt.code, &stdout, &stderr)
		}
		if n := strings.Count(stderr.String(), "\n"); n > 1 {
			t.Errorf("%q: %d lines on stderr, want one: %q", tt.args, n, &stderr)
		}
	}
}
