package tunnel

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
)

// Both sides prove the secret with an HMAC over a value that only the two ends
// of this TLS session know (RFC 8446, 7.5). The secret itself never travels, and
// a proof is worth nothing in another session, so that whoever sits between two
// sessions cannot pass it on.
const (
	exporterLabel  = "EXPORTER-flowtwin-proof"
	copierLabel    = "flowtwin copier"
	responderLabel = "flowtwin responder"
)

// prove returns label's proof of secret in the TLS session cs.
func prove(cs *tls.ConnectionState, secret [32]byte, label string) ([]byte, error) {
	bound, err := cs.ExportKeyingMaterial(exporterLabel, nil, sha256.Size)
	if err != nil {
		return nil, fmt.Errorf("export keying material: %w", err)
	}
	mac := hmac.New(sha256.New, secret[:])
	mac.Write([]byte(label))
	mac.Write(bound)
	return mac.Sum(nil), nil
}

// proven reports whether proof is label's, in constant time.
func proven(cs *tls.ConnectionState, secret [32]byte, label string, proof []byte) bool {
	want, err := prove(cs, secret, label)
	return err == nil && hmac.Equal(want, proof)
}

func clientTLS() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{alpn},
		// The responder is known by its key and not by a name: dialLink compares
		// the fingerprint before it sends anything, and can tell the responder
		// why it leaves, which a failed TLS handshake could not.
		InsecureSkipVerify: true, // the key is pinned, see above
	}
}

func serverTLS(id Identity) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		NextProtos:             []string{alpn},
		Certificates:           []tls.Certificate{id.Certificate},
		SessionTicketsDisabled: true, // each connection proves itself
	}
}
