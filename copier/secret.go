package copier

import (
	"bytes"
	"encoding/binary"
	"log/slog"
)

// A secret is something that a client and its server share on one connection only:
// keys, or a challenge. What the client sends then is of no use to another server.
type secret uint32

const (
	secretTLS secret = 1 << iota
	secretSSH
	secretMySQL
	secretPostgres
	secretSCRAM
)

// keys reports whether nothing that follows can be read without the connection's keys.
func (s secret) keys() bool { return s == secretTLS || s == secretSSH }

// secretOf tells by what a client sends first, or as a turn, whether it depends on a
// secret; else it is 0.
func secretOf(b []byte) secret {
	switch {
	case isClientHello(b):
		return secretTLS
	case bytes.HasPrefix(b, []byte("SSH-")):
		return secretSSH
	case isMySQLPassword(b):
		return secretMySQL
	case isMD5Password(b):
		return secretPostgres
	case len(b) <= prologueMost && bytes.Contains(b, []byte("SCRAM-SHA-")):
		return secretSCRAM
	}
	return 0
}

// isClientHello reports whether b begins with a TLS handshake record that holds
// a ClientHello (RFC 8446, 4.1.2 and 5.1).
func isClientHello(b []byte) bool {
	return len(b) >= 6 && b[0] == 22 && b[1] == 3 && b[5] == 1
}

// isMySQLPassword reports whether b is what a client of MySQL answers to the greeting
// (HandshakeResponse41), with a password: one that was scrambled with the greeting.
func isMySQLPassword(b []byte) bool {
	const header, protocol41, zeros, user = 4, 0x200, 13, 36
	if len(b) <= user || b[3] != 1 || int(b[0])|int(b[1])<<8|int(b[2])<<16 != len(b)-header {
		return false
	}
	for _, c := range b[zeros : zeros+19] {
		if c != 0 {
			return false
		}
	}
	_, rest, named := bytes.Cut(b[user:], []byte{0})
	return named && binary.LittleEndian.Uint32(b[header:])&protocol41 != 0 && len(rest) > 0 && rest[0] != 0
}

// isMD5Password reports whether b is a PasswordMessage of PostgreSQL with what its
// server has asked for as MD5.
func isMD5Password(b []byte) bool {
	return len(b) == 41 && bytes.HasPrefix(b, []byte("p\x00\x00\x00\x28md5"))
}

// looks notes what bytes of a flow tell of secrets. Where they begin one of keys, no
// other session can begin behind them.
func (s *shard) looks(r *record, b []byte) {
	found := secretOf(b)
	if found == 0 {
		return
	}
	s.maps.note(int(r.mapped), found)
	if found.keys() {
		r.proto = protoSealed
	}
}

// note adds to what is known of map i.
func (m *mapping) note(i int, s secret) {
	if known := m.list.Load().secrets[i]; known.Load()&uint32(s) == 0 {
		known.Or(uint32(s))
	}
}

// tellSecrets says once per map and kind what the target can make no sense of.
func (c *copier) tellSecrets() {
	const challenge = "clients log in with an answer to their server's challenge: it is copied, but the target asks another one and refuses them"
	list := c.maps.list.Load()
	for i, m := range list.maps {
		found := secret(list.secrets[i].Load()) &^ c.told[m]
		c.told[m] |= found
		log := c.cfg.Log.With(slog.Any("port", m.Port), slog.Any("target", m.Target))
		if found&secretTLS != 0 {
			log.Warn("clients speak TLS: it is copied, but the target cannot decrypt it, since its keys differ in each connection; copy behind the terminator")
		}
		if found&secretSSH != 0 {
			log.Warn("clients speak SSH: it is copied, but the target cannot decrypt it, since its keys differ in each connection")
		}
		if found&secretMySQL != 0 {
			log.Warn(challenge+", unless it checks no passwords (--skip-grant-tables)", slog.String("login", "MySQL"))
		}
		if found&secretPostgres != 0 {
			log.Warn(challenge, slog.String("login", "PostgreSQL, MD5"))
		}
		if found&secretSCRAM != 0 {
			log.Warn(challenge, slog.String("login", "SCRAM"))
		}
	}
}
