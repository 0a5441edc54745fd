package responder

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"flowtwin/tunnel"
)

func TestAdvertised(t *testing.T) {
	var local []hostAddr
	for _, s := range []string{
		"lo 127.0.0.1", "lo ::1", "docker0 172.17.0.1", "eth1 10.0.0.5", "eth1 fe80::1", "br-12ab 172.18.0.1",
		"eth0 192.0.2.7", "eth1 2001:db8::5", "eth0 2001:db8:1::7",
	} {
		name, addr, _ := strings.Cut(s, " ")
		local = append(local, hostAddr{netip.MustParseAddr(addr), name})
	}
	first := []netip.Addr{netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("2001:db8:1::7")}
	many := make([]string, maxAdvertised+1)
	for i := range many {
		many[i] = "host"
	}
	both := []string{
		"192.0.2.7:7443", "[2001:db8:1::7]:7443", "10.0.0.5:7443", "[2001:db8::5]:7443", "172.17.0.1:7443", "172.18.0.1:7443",
	}
	any6 := "[::]:7443" // what a socket for all addresses says that it is bound to
	for _, tt := range []struct {
		listen, bound string
		given         []string
		want          []string
		says          string
	}{
		{listen: ":7443", bound: any6, want: both},
		{listen: "[::]:7443", bound: any6, want: both},
		{listen: "0.0.0.0:7443", bound: any6, want: []string{
			"192.0.2.7:7443", "10.0.0.5:7443", "172.17.0.1:7443", "172.18.0.1:7443",
		}},
		{listen: "10.0.0.5:0", bound: "10.0.0.5:9", want: []string{"10.0.0.5:9"}},
		{listen: ":7443", bound: any6, given: []string{"target.example.net", "10.1.1.1:5", "[2001:db8::9]", "2001:db8::8"}, want: []string{
			"target.example.net:7443", "10.1.1.1:5", "[2001:db8::9]:7443", "[2001:db8::8]:7443",
		}},
		{listen: ":7443", bound: any6, given: many, says: "17 addresses"},
		{listen: ":7443", bound: any6, given: []string{strings.Repeat("x", 251)}, says: "256 bytes"},
	} {
		cfg := Config{Listen: tt.listen, Advertise: tt.given}
		got, err := advertised(&cfg, netip.MustParseAddrPort(tt.bound), local, first)
		if !slices.Equal(got, tt.want) || (err == nil) != (tt.says == "") || err != nil && !strings.Contains(err.Error(), tt.says) {
			t.Errorf("listening on %s, given %.20q: advertised %v, %v; want %v, %q", tt.listen, tt.given, got, err, tt.want, tt.says)
		}
	}
}

// The invite holds a secret, and copiers are started as soon as it appears.
func TestInviteFile(t *testing.T) {
	dir := t.TempDir()
	id, err := tunnel.LoadIdentity(filepath.Join(dir, "state"))
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "invite")
	if err := os.WriteFile(file, []byte("an older one"), 0o644); err != nil {
		t.Fatal(err)
	}
	want := id.Invite([]string{"10.0.0.1:7443"}, time.Time{})
	if err := writeInvite(file, want); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := tunnel.ParseInvite(string(b)); err != nil || got.String() != want.String() {
		t.Errorf("file holds %q, %v", b, err)
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v; want 0600", info.Mode(), err)
	}
	if err := writeInvite(filepath.Join(dir, "none", "invite"), want); err == nil {
		t.Error("wrote into a folder that is not there")
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".invite*")); len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
}

// What cannot be written is said before the host has a device and a key.
func TestInviteFileIsTriedAtTheStart(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{filepath.Join(dir, "none", "invite"), filepath.Join(file, "invite"), dir} {
		err := Run(ctx, Config{Listen: "127.0.0.1:0", InviteFile: f, StateDir: filepath.Join(dir, "state")})
		if err == nil || !strings.Contains(err.Error(), "invite file") {
			t.Errorf("%s: %v", f, err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "state")); err == nil {
		t.Error("a key was made before")
	}
	if err := checkInvite(filepath.Join(dir, "invite")); err != nil {
		t.Error(err)
	}
}

// Hours of replaying must not end with a report that cannot be written.
func TestReportFileIsTriedAtTheStart(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, file := range []string{filepath.Join(dir, "none", "report"), dir} {
		err := Run(ctx, Config{Listen: "127.0.0.1:0", ReportFile: file, StateDir: filepath.Join(dir, "state")})
		if err == nil || !strings.Contains(err.Error(), "report file") {
			t.Errorf("%s: %v", file, err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "state")); err == nil {
		t.Error("a key was made before")
	}
	file := filepath.Join(dir, "report")
	if err := os.WriteFile(file, []byte("an older one"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := checkReport(file); err != nil {
		t.Error(err)
	}
	if b, err := os.ReadFile(file); string(b) != "an older one" {
		t.Errorf("the older report is %q, %v", b, err)
	}
}
