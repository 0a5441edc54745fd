package cli

import "testing"

// What is no address is found out at the start, not in a name server's answers.
func TestIsHostPort(t *testing.T) {
	for s, want := range map[string]bool{
		"10.1.1.1": true, "10.1.1.1:7443": true, "host": true, "host.example:1": true, "fe80::1%eth0": true,
		"2001:db8::1": true, "[2001:db8::1]": true, "[2001:db8::1]:65535": true,
		"": false, " ": false, ":7443": false, "10.1.1.1:": false, "10.1.1.1:0": false, "10.1.1.1:65536": false, "host:https": false,
		"10.1.1.1:7443:7": false, "a b": false, "http://host": false, "-s": false, "[]": false,
	} {
		if got := IsHostPort(s); got != want {
			t.Errorf("%q: %t", s, got)
		}
	}
}
