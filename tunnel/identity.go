package tunnel

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"time"
)

const (
	identityFile = "identity.pem"
	pemKey       = "PRIVATE KEY"
	pemSecret    = "FLOWTWIN SECRET"
)

// An Identity is the responder's key and secret, kept in its state directory.
type Identity struct {
	Certificate tls.Certificate
	Secret      [32]byte
}

// LoadIdentity reads the identity in dir, or makes one: dir with mode 0700, and
// in it identity.pem with mode 0600, which appears complete or not at all. A
// file that others may read is refused.
func LoadIdentity(dir string) (Identity, error) {
	path := filepath.Join(dir, identityFile)
	id, err := readIdentity(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := makeIdentity(dir, path); err != nil {
			return Identity{}, fmt.Errorf("make identity: %w", err)
		}
		id, err = readIdentity(path)
	}
	if err != nil {
		return Identity{}, fmt.Errorf("load identity: %w", err)
	}
	return id, nil
}

// Invite returns the invite for this identity, reachable at addrs. Invites with
// different times have different secrets, all made of the identity's: a time is
// part of what a copier proves, so that it cannot be put off.
func (id Identity) Invite(addrs []string, expires time.Time) Invite {
	i := Invite{Addrs: addrs, Secret: id.secretUntil(unixOrZero(expires)), Expires: expires}
	if id.Certificate.Leaf != nil {
		i.Fingerprint = fingerprint(id.Certificate.Leaf)
	}
	return i
}

// secretUntil returns the secret of invites that expire then (Unix seconds, 0
// never).
func (id Identity) secretUntil(expires int64) (secret [32]byte) {
	mac := hmac.New(sha256.New, id.Secret[:])
	mac.Write([]byte("flowtwin invite"))
	mac.Write(binary.BigEndian.AppendUint64(nil, uint64(expires)))
	mac.Sum(secret[:0])
	return secret
}

// unixOrZero returns t in seconds since 1970, 0 for no time.
func unixOrZero(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}

func fingerprint(c *x509.Certificate) [32]byte { return sha256.Sum256(c.RawSubjectPublicKeyInfo) }

func readIdentity(path string) (Identity, error) {
	info, err := os.Stat(path)
	if err != nil {
		return Identity{}, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return Identity{}, fmt.Errorf("%s has mode %04o, others could read its secret: make it 0600", path, info.Mode().Perm())
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return Identity{}, err
	}
	var secret []byte
	var key ed25519.PrivateKey
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		switch block.Type {
		case pemKey:
			k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
			if err != nil {
				return Identity{}, fmt.Errorf("%s: key: %w", path, err)
			}
			key, _ = k.(ed25519.PrivateKey)
		case pemSecret:
			secret = block.Bytes
		}
	}
	if key == nil || len(secret) != 32 {
		return Identity{}, fmt.Errorf("%s is damaged: it lacks an Ed25519 key or a secret of 32 bytes", path)
	}
	cert, err := selfSign(key)
	if err != nil {
		return Identity{}, err
	}
	return Identity{Certificate: cert, Secret: [32]byte(secret)}, nil
}

// selfSign wraps key in the certificate that TLS asks for. Copiers look at the
// key alone, so it may be made anew at each start.
func selfSign(key ed25519.PrivateKey) (tls.Certificate, error) {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "FlowTwin responder"},
		NotBefore:    time.Unix(0, 0),
		NotAfter:     time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("self-sign: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("self-sign: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, nil
}

// makeIdentity writes a new identity beside path and links it into place: of
// two responders that start at once, one wins and both read the winner's.
func makeIdentity(dir, path string) (err error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	var secret [32]byte
	_, _ = rand.Read(secret[:]) // never fails, see its documentation
	text := pem.EncodeToMemory(&pem.Block{Type: pemKey, Bytes: der})
	text = append(text, pem.EncodeToMemory(&pem.Block{Type: pemSecret, Bytes: secret[:]})...)

	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, identityFile+".*") // mode 0600
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(f.Name())) }()
	if _, err = f.Write(text); err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}
