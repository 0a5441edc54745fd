package copier

import (
	"strings"
	"testing"
)

// mysqlLogin is what MariaDB's client answers to the greeting.
func mysqlLogin(password string) string {
	b := "\x8c\xa2\xbf\x00\x00\x00\x10\x00!" + strings.Repeat("\x00", 19) + "\x1d\x00\x00\x00pw\x00" +
		string(rune(len(password))) + password + "d\x00mysql_native_password\x00"
	return string(rune(len(b))) + "\x00\x00\x01" + b
}

// A user is told why the target refuses what production accepts.
func TestSecretsAreNoticed(t *testing.T) {
	const startup, hello = "\x00\x00\x00\x10\x00\x03\x00\x00user\x00u\x00\x00", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc"
	for name, tt := range map[string]struct {
		greeting int
		said     []string
		want     secret
	}{
		"TLS":                   {0, []string{hello}, secretTLS},
		"SMTP, TLS":             {20, []string{"EHLO a\r\n", "STARTTLS\r\n", hello}, secretTLS},
		"PostgreSQL, TLS":       {0, []string{"\x00\x00\x00\x08\x04\xd2\x16\x2f", hello}, secretTLS},
		"SSH":                   {0, []string{"SSH-2.0-OpenSSH_9.2\r\n"}, secretSSH},
		"MySQL":                 {95, []string{mysqlLogin("12345678901234567890")}, secretMySQL},
		"MySQL, no password":    {95, []string{mysqlLogin(""), "\x07\x00\x00\x00\x03BEGIN"}, 0},
		"PostgreSQL, MD5":       {0, []string{startup, "p\x00\x00\x00\x28md543b47ea62fb59ad91041849fddd82744\x00"}, secretPostgres},
		"PostgreSQL, SCRAM":     {0, []string{startup, "p\x00\x00\x00\x1fSCRAM-SHA-256\x00\x00\x00\x00\x09n,,n=,r=x"}, secretSCRAM},
		"PostgreSQL, password":  {0, []string{startup, "p\x00\x00\x00\x06x\x00"}, 0},
		"SMTP":                  {20, []string{"EHLO a\r\n", "AUTH PLAIN AHgAeQ==\r\n"}, 0},
		"HTTP about SCRAM-SHA-": {0, []string{"GET /SCRAM-SHA-256 HTTP/1.1\r\n\r\n", "GET /SCRAM-SHA-256 HTTP/1.1\r\n\r\n"}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			b, c := newBench(t), newConn()
			b.feed(c.handshake()...)
			if tt.greeting > 0 {
				b.feed(c.answer(tt.greeting), c.ack())
			}
			for _, s := range tt.said {
				b.feed(c.data(s), c.answer(10), c.ack())
			}
			list := b.maps.list.Load()
			if got := secret(list.secrets[0].Load()); got != tt.want {
				t.Errorf("secrets %b, want %b", got, tt.want)
			}
			if got := list.secrets[1].Load(); got != 0 {
				t.Errorf("secrets %b of another map", got)
			}
		})
	}
}

// Bytes under keys of another connection are no beginning of anything: a session
// that begins with them makes the target refuse it again and again.
func TestNothingBeginsUnderKeys(t *testing.T) {
	for name, said := range map[string][]string{
		"SSH":       {"SSH-2.0-OpenSSH_9.2\r\n"},
		"SMTP, TLS": {"EHLO a\r\n", "STARTTLS\r\n", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc"},
	} {
		t.Run(name, func(t *testing.T) {
			b, c := newBench(t), newConn()
			b.feed(c.handshake()...)
			for _, s := range said {
				b.feed(c.data(s), c.answer(10), c.ack())
			}
			b.lane.crash()
			b.feed(c.data("\x8a\x11"), c.answer(10), c.ack(), c.data("\x8a\x12"), c.answer(10), c.ack())
			if n := b.book.Flows.Admitted; n != 1 || len(b.lane.sessions) != 1 {
				t.Errorf("%d flows admitted, %d sessions, want one", n, len(b.lane.sessions))
			}
		})
	}
}
