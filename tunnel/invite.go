package tunnel

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strings"
	"time"
)

const (
	invitePrefix   = "flowtwin1:"
	inviteChecksum = 4
	inviteFixed    = 32 + 32 + 8 + 1 // fingerprint, secret, expiry, number of addresses

	maxInviteAddrs = 16
	maxInviteAddr  = 255
)

// An Invite is what a copier needs to reach and trust a responder.
type Invite struct {
	Addrs       []string // host:port, in the order to try
	Fingerprint [32]byte // SHA-256 of the responder's public key (SPKI)
	Secret      [32]byte
	Expires     time.Time // zero: never; whole seconds
}

// String returns the invite in its printable form, one line without spaces. It
// contains the secret. Only the first 16 addresses of up to 255 printable
// characters find room.
func (i Invite) String() string {
	var b []byte
	b = append(b, i.Fingerprint[:]...)
	b = append(b, i.Secret[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(unixOrZero(i.Expires)))
	count := len(b)
	b = append(b, 0)
	for _, a := range i.Addrs {
		if validInviteAddr(a) && b[count] < maxInviteAddrs {
			b[count]++
			b = append(b, byte(len(a)))
			b = append(b, a...)
		}
	}
	b = append(b, inviteSum(b)...)
	return invitePrefix + base64.RawURLEncoding.EncodeToString(b)
}

// inviteSum guards against characters lost or mistyped, not against forgery.
func inviteSum(b []byte) []byte {
	sum := sha256.Sum256(append([]byte(invitePrefix), b...))
	return sum[:inviteChecksum]
}

func validInviteAddr(a string) bool {
	if a == "" || len(a) > maxInviteAddr {
		return false
	}
	for _, c := range []byte(a) {
		if c <= ' ' || c > '~' {
			return false
		}
	}
	return true
}

// ParseInvite reads what String wrote; white space around it is ignored. Its
// errors never contain parts of the invite.
func ParseInvite(s string) (Invite, error) {
	s = strings.TrimSpace(s)
	if s == "" {
		return Invite{}, ErrNoInvite
	}
	text, ok := strings.CutPrefix(s, invitePrefix)
	if !ok {
		if strings.HasPrefix(s, "flowtwin") {
			return Invite{}, fmt.Errorf("%w: it is not of the form %s…, another version made it", ErrBadInvite, invitePrefix)
		}
		return Invite{}, fmt.Errorf("%w: it does not begin with %s", ErrBadInvite, invitePrefix)
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || strings.ContainsAny(text, "\r\n") { // which the decoder would skip
		return Invite{}, fmt.Errorf("%w: it contains characters that no invite has, or is cut short", ErrBadInvite)
	}
	if len(b) < inviteFixed+inviteChecksum {
		return Invite{}, fmt.Errorf("%w: it is cut short", ErrBadInvite)
	}
	b, sum := b[:len(b)-inviteChecksum], b[len(b)-inviteChecksum:]
	if !bytes.Equal(sum, inviteSum(b)) {
		return Invite{}, fmt.Errorf("%w: its checksum is wrong, a character was lost or changed", ErrBadInvite)
	}
	i, ok := parseInviteBytes(b)
	if !ok {
		return Invite{}, fmt.Errorf("%w: its fields do not add up", ErrBadInvite)
	}
	return i, nil
}

// parseInviteBytes reads the checked bytes, at least inviteFixed of them.
func parseInviteBytes(b []byte) (i Invite, ok bool) {
	i.Fingerprint = [32]byte(b[0:32])
	i.Secret = [32]byte(b[32:64])
	if s := int64(binary.BigEndian.Uint64(b[64:])); s != 0 {
		i.Expires = time.Unix(s, 0).UTC()
		if i.Expires.IsZero() || i.Expires.Unix() != s {
			return Invite{}, false
		}
	}
	n, b := int(b[72]), b[inviteFixed:]
	if n > maxInviteAddrs {
		return Invite{}, false
	}
	for range n {
		if len(b) == 0 || len(b) < 1+int(b[0]) {
			return Invite{}, false
		}
		a := string(b[1 : 1+int(b[0])])
		if !validInviteAddr(a) {
			return Invite{}, false
		}
		i.Addrs = append(i.Addrs, a)
		b = b[1+len(a):]
	}
	return i, len(b) == 0
}

// expired reports whether the invite has ceased to work at now.
func expired(expires, now time.Time) bool {
	return !expires.IsZero() && !now.Before(expires)
}
