package tunnel

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func exampleInvite() Invite {
	i := Invite{Addrs: []string{"192.0.2.7:7443", "[2001:db8::7]:7443"}, Expires: time.Unix(1_800_000_000, 0).UTC()}
	for k := range 32 {
		i.Fingerprint[k], i.Secret[k] = byte(k), byte(0x80+k)
	}
	return i
}

func TestInviteRoundTrip(t *testing.T) {
	never := exampleInvite()
	never.Expires = time.Time{}
	bare := Invite{Secret: never.Secret}
	for _, want := range []Invite{exampleInvite(), never, bare} {
		s := want.String()
		if strings.ContainsAny(s, " \t\r\n") {
			t.Errorf("%q contains white space", s)
		}
		got, err := ParseInvite("\n " + s + " \r\n")
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("differs (-want +got):\n%s", d)
		}
	}
}

// An invite is pasted, retyped and cut by terminals: every single changed, lost
// or doubled character must be noticed, and no part of the secret repeated.
func TestInviteNoticesMistakes(t *testing.T) {
	good := exampleInvite().String()
	var bad []string
	for i := range good {
		for _, c := range "aZ0_-" {
			if changed := good[:i] + string(c) + good[i+1:]; changed != good {
				bad = append(bad, changed)
			}
		}
		bad = append(bad, good[:i], good[:i]+good[i+1:], good[:i]+"\n"+good[i:], good[:i+1]+good[i:])
	}
	for _, s := range bad {
		if s == "" || strings.TrimSpace(s) == good || len(s) == len(good)+1 && s[:len(good)] == good {
			continue
		}
		_, err := ParseInvite(s)
		if !errors.Is(err, ErrBadInvite) {
			t.Fatalf("%q: err = %v, want ErrBadInvite", s, err)
		}
		if strings.Contains(err.Error(), good[len(good)-20:]) {
			t.Errorf("the error repeats the invite: %v", err)
		}
	}
}

func TestInviteKinds(t *testing.T) {
	tests := []struct {
		name, text string
		want       error
		says       string
	}{
		{"nothing", " \n", ErrNoInvite, "no invite"},
		{"another version", "flowtwin2:AAAA", ErrBadInvite, "another version"},
		{"something else", "hunter2", ErrBadInvite, "does not begin with flowtwin1:"},
		{"cut short", "flowtwin1:AAAA", ErrBadInvite, "cut short"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := ParseInvite(tt.text); !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("err = %v, want %v saying %q", err, tt.want, tt.says)
			}
		})
	}
}

func FuzzParseInvite(f *testing.F) {
	f.Add(exampleInvite().String())
	f.Add("flowtwin1:")
	f.Fuzz(func(t *testing.T, s string) {
		i, err := ParseInvite(s)
		if err != nil {
			return
		}
		if got := i.String(); got != strings.TrimSpace(s) {
			t.Fatalf("%q was written again as %q", s, got)
		}
	})
}

// The fields behind the checksum, which a fuzzer does not get past.
func FuzzParseInviteBytes(f *testing.F) {
	f.Add(make([]byte, inviteFixed))
	f.Add(append(make([]byte, inviteFixed-1), 1, 3, 'a', ':', '1'))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < inviteFixed {
			return
		}
		i, ok := parseInviteBytes(b)
		if !ok {
			return
		}
		got, err := ParseInvite(i.String())
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(i, got); d != "" {
			t.Fatalf("differs (-first +second):\n%s", d)
		}
	})
}
