package main

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/spf13/pflag"

	"flowtwin/responder"
)

func TestParseFlags(t *testing.T) {
	defaults := responder.Config{
		Listen: ":7443", Sessions: 200_000, MaxHold: responder.DefaultMaxHold, Settle: responder.DefaultSettle,
		Drain: 5 * time.Second,
	}
	with := func(change func(c *responder.Config)) options {
		c := defaults
		change(&c)
		return options{config: c}
	}
	prefix := netip.MustParsePrefix
	tests := []struct {
		args string
		want options
	}{
		{"", options{config: defaults}},
		{"--listen 10.0.0.1:99 --invite-file invite --invite-ttl 24h", with(func(c *responder.Config) {
			c.Listen, c.InviteFile, c.InviteTTL = "10.0.0.1:99", "invite", 24*time.Hour
		})},
		{"--on-target-close=end", with(func(c *responder.Config) { c.End = true })},
		{"--on-target-close=reconnect", with(func(*responder.Config) {})},
		{"--listen 7444 --gate=off --max-hold 2s --settle 20ms --drain 0", with(func(c *responder.Config) {
			c.Listen, c.GateOff, c.MaxHold, c.Settle, c.Drain = ":7444", true, 2*time.Second, 20*time.Millisecond, 0
		})},
		{"--allow 192.168.44.137:80,10.0.0.0/8 --allow [2001:db8::7]:443", with(func(c *responder.Config) {
			c.Allow = []responder.Rule{
				{Prefix: prefix("192.168.44.137/32"), Port: 80},
				{Prefix: prefix("10.0.0.0/8")},
				{Prefix: prefix("2001:db8::7/128"), Port: 443},
			}
		})},
		{"-c 192.168.50.x", with(func(c *responder.Config) { c.Pool = []netip.Prefix{prefix("192.168.50.0/24")} })},
		{"-c 198.51.100.0/25,198.51.100.200 --client-pool 2001:2::/64", with(func(c *responder.Config) {
			c.Pool = []netip.Prefix{prefix("198.51.100.0/25"), prefix("198.51.100.200/32"), prefix("2001:2::/64")}
		})},
		{"--advertise target.example.net,10.1.1.1:99,[2001:db8::1]:7443", with(func(c *responder.Config) {
			c.Advertise = []string{"target.example.net", "10.1.1.1:99", "[2001:db8::1]:7443"}
		})},
		{"--state-dir /s --shards 3 --max-sessions 10 --report r.json", with(func(c *responder.Config) {
			c.StateDir, c.Shards, c.Sessions, c.ReportFile = "/s", 3, 10, "r.json"
		})},
		{"--client-address=original --client-address-force", with(func(c *responder.Config) { c.Original, c.Force = true, true })},
		{"--rate-connections 500 --rate-bytes 10M/s", with(func(c *responder.Config) { c.RateConnections, c.RateBytes = 500, 10e6 })},
		{"--rtt 40ms --bandwidth 1.5Mbit --loss 0.5%", with(func(c *responder.Config) {
			c.Line = responder.Line{RTT: 40 * time.Millisecond, Bandwidth: 1_500_000, Loss: 0.005}
		})},
		{"--rtt 40ms±10ms", with(func(c *responder.Config) {
			c.Line = responder.Line{RTT: 40 * time.Millisecond, Jitter: 10 * time.Millisecond}
		})},
		{"--rtt 1s+-100ms", with(func(c *responder.Config) {
			c.Line = responder.Line{RTT: time.Second, Jitter: 100 * time.Millisecond}
		})},
		{"--rtt=client", with(func(c *responder.Config) { c.Line.Leased = true })},
		{"-d -l log -P pid --json", options{config: defaults, daemon: true, logFile: "log", pidFile: "pid", json: true}},
	}
	for _, tt := range tests {
		t.Run(tt.args, func(t *testing.T) {
			got, err := parseFlags(strings.Fields(tt.args))
			if err != nil {
				t.Fatal(err)
			}
			opts := cmp.Options{
				cmp.AllowUnexported(options{}), cmpopts.EquateComparable(netip.Prefix{}), cmpopts.EquateEmpty(),
				cmpopts.IgnoreFields(responder.Config{}, "Log", "Out", "Status", "Ready"),
			}
			if d := cmp.Diff(tt.want, got, opts); d != "" {
				t.Errorf("-want +got:\n%s", d)
			}
		})
	}
}

// Who mistypes an option must read which one.
func TestParseFlagsNamesTheFlag(t *testing.T) {
	for args, want := range map[string]string{
		"--gate maybe":              "--gate",
		"--on-target-close no":      "--on-target-close",
		"--listen 10.0.0.1:port":    "--listen",
		"--listen 1:2:3":            "--listen",
		"--allow example.com:80":    "--allow",
		"--allow 10.0.0.1:0":        "--allow",
		"-c 198.18.0.0/150":         "-c",
		"-c 198.18.0.1/15":          "198.18.0.0/15",
		"-c 192.168.x.x":            "-c",
		"-c ::ffff:10.0.0.0/112":    "-c",
		"-c 10.0.0.0/8,10.1.0.0/16": "overlap",
		"--advertise a:b:c":         "--advertise",
		"--advertise host:0":        "--advertise",
		"--max-hold 0":              "--max-hold",

		"--advertise " + strings.Repeat("host,", 16) + "host": "17",
		"--advertise " + strings.Repeat("x", 256):             "256 bytes",
		"--settle -1s":            "--settle",
		"--rate-connections many": "--rate-connections",
		"--rate-bytes 0":          "--rate-bytes",
		"--drain -1s":             "--drain",
		"--invite-ttl 0":          "--invite-ttl",
		"--shards 0":              "--shards",
		"--max-sessions 0":        "--max-sessions",
		"--no-such-flag":          "--no-such-flag; see --help",
		"-i eth0":                 "-i: not needed",
		"-p 36524":                "-p: the UDP port",
		"--midstream skip":        "--midstream: is a flag of copier",
		"--rate 5":                "--rate: of what? --rate-connections",
		"extra":                   "extra",
		"--drain soon":            "drain",

		"--client-address=own":   "--client-address",
		"--client-address-force": "--client-address=original",

		"--rtt 40":          "--rtt",
		"--rtt 40ms+-":      "--rtt",
		"--rtt 10ms±20ms":   "jitter",
		"--rtt 1m":          "2s",
		"--rtt -1ms":        "--rtt",
		"--bandwidth 10":    "--bandwidth",
		"--bandwidth 0mbit": "--bandwidth",
		"--bandwidth 1bit":  "8000",
		"--loss 1":          "--loss",
		"--loss 60%":        "50 %",
		"--loss NaN%":       "loss",
	} {
		if _, err := parseFlags(strings.Fields(args)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want one with %q", args, err, want)
		}
	}
}

func TestHelpAndVersion(t *testing.T) {
	if _, err := parseFlags([]string{"--help"}); !errors.Is(err, pflag.ErrHelp) {
		t.Errorf("--help: %v", err)
	}
	var out, errOut strings.Builder
	if code := run([]string{"--help"}, &out, &errOut); code != 0 || !strings.Contains(out.String(), "Examples:") {
		t.Errorf("--help: code %d, %q", code, &out)
	}
	out.Reset()
	if code := run([]string{"--version"}, &out, &errOut); code != 0 || out.String() != "responder devel\n" {
		t.Errorf("--version: code %d, %q", code, &out)
	}
	if code := run([]string{"--gate", "x"}, &out, &errOut); code != 2 || !strings.Contains(errOut.String(), "--gate") {
		t.Errorf("bad flag: code %d, %q", code, &errOut)
	}
}
