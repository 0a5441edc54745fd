//go:build netns

package e2e

import (
	"crypto/sha1" // RFC 6455 proves the handshake by it
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"
)

// Opcodes of RFC 6455 frames.
const (
	wsText  = 1
	wsClose = 8
	wsPing  = 9
	wsPong  = 10
)

// wsFrame is a frame with a payload up to 64 KiB; a client's is masked.
func wsFrame(op byte, payload string, mask []byte) string {
	b := []byte{0x80 | op, 0}
	if n := len(payload); n < 126 {
		b[1] = byte(n)
	} else {
		b[1] = 126
		b = binary.BigEndian.AppendUint16(b, uint16(n))
	}
	if mask == nil {
		return string(append(b, payload...))
	}
	b[1] |= 0x80
	b = append(b, mask...)
	for i := range len(payload) {
		b = append(b, payload[i]^mask[i%4])
	}
	return string(b)
}

// readWSFrame reads a frame.
func readWSFrame(r io.Reader) (op byte, payload string, err error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:2]); err != nil {
		return 0, "", err
	}
	n := int(head[1] & 0x7f)
	if n == 126 {
		if _, err := io.ReadFull(r, head[2:4]); err != nil {
			return 0, "", err
		}
		n = int(binary.BigEndian.Uint16(head[2:4]))
	}
	var mask [4]byte
	if head[1]&0x80 != 0 {
		if _, err := io.ReadFull(r, mask[:]); err != nil {
			return 0, "", err
		}
	}
	p := make([]byte, n)
	if _, err := io.ReadFull(r, p); err != nil {
		return 0, "", err
	}
	for i := range p {
		p[i] ^= mask[i%4]
	}
	return head[0] & 0xf, string(p), nil
}

// webSocket upgrades, and echoes texts; between them it pings and pushes.
func webSocket(k *talk) {
	req, ok := k.request()
	if !ok {
		return
	}
	sum := sha1.Sum([]byte(req.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	ok = k.say("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " +
		base64.StdEncoding.EncodeToString(sum[:]) + "\r\n\r\n")
	for n := 0; ok; n++ {
		op, text, err := readWSFrame(k.br)
		if err != nil {
			k.end(err)
			return
		}
		k.note("%d %s", op, digest([]byte(text)))
		switch op {
		case wsText:
			ok = k.say(wsFrame(wsText, "echo "+text, nil))
			if n%3 == 0 {
				ok = ok && k.write(wsFrame(wsPing, "alive?", nil)+wsFrame(wsText, "push", nil))
			}
		case wsClose:
			k.say(wsFrame(wsClose, text, nil))
			return
		default:
		}
	}
}

// After the upgrade either side speaks when it likes: some messages are answered,
// some are not, some are pushed.
func TestWebSocketSession(t *testing.T) {
	t.Parallel()
	for name, pause := range map[string]time.Duration{"target as online": 0, "target slower": 20 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, _, run := talkScene(t, pause, webSocket)
			run(5, func(i int, u *user) error {
				mask := []byte{1, 2, 3, byte(i)}
				return steps(
					func() error {
						return u.tell("GET /chat/%d HTTP/1.1\r\nHost: online\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
							"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", i)
					},
					func() error { return u.hear("HTTP/1.1 101") },
					func() error { return u.skipTo("\r\n") },
					func() error { return u.chat(mask, 20) },
					func() error { return u.tell("%s", wsFrame(wsClose, "\x03\xe8", mask)) },
					func() error { return u.frames(wsClose, mask) },
				)
			})
		})
	}
}

// chat tells texts of several sizes and waits for the echo of each.
func (u *user) chat(mask []byte, n int) error {
	for i := range n {
		text := fmt.Sprintf("text %d %s", i, strings.Repeat("w", i*100))
		if err := u.tell("%s", wsFrame(wsText, text, mask)); err != nil {
			return err
		}
		for echo := ""; echo != "echo "+text; {
			op, got, err := readWSFrame(u.br)
			if err != nil {
				return err
			}
			if op == wsPing {
				err = u.tell("%s", wsFrame(wsPong, got, mask))
			}
			if err != nil {
				return err
			}
			echo = got
		}
	}
	return nil
}

// frames reads frames to the first with op, and answers pings.
func (u *user) frames(op byte, mask []byte) error {
	for {
		got, text, err := readWSFrame(u.br)
		if err == nil && got == wsPing {
			err = u.tell("%s", wsFrame(wsPong, text, mask))
		}
		if err != nil || got == op {
			return err
		}
	}
}

// skipTo reads lines up to one.
func (u *user) skipTo(last string) error {
	for line := ""; line != last; {
		var err error
		if line, err = u.br.ReadString('\n'); err != nil {
			return err
		}
	}
	return nil
}
