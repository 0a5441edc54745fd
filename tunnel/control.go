package tunnel

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"slices"
)

// A control message is a type byte, a length of 3 bytes and a JSON object.
type controlType uint8

const (
	controlProof   controlType = 1 + iota // copier: [proofMsg] with its versions
	controlProved                         // responder: [proofMsg] with the version chosen
	controlHello                          // copier, first connection: [helloMsg]
	controlWelcome                        // responder: [welcomeMsg]
	controlJoin                           // copier, further connections: [joinMsg]
	controlPing                           // copier: [clockMsg] with T0
	controlPong                           // responder: [clockMsg] with T0 and T1
	controlMaps                           // copier: [mapsMsg]
	controlMapped                         // responder: [answerMsg]
	controlRates                          // copier: [ratesMsg]
	controlRated                          // responder: [answerMsg]
)

const (
	controlHeader = 4
	// maxControl is the longest message before the secret is proven, and of all
	// but Hello, Maps, Ping and Pong afterwards.
	maxControl = 1 << 10
	maxHello   = 64 << 10
	maxPing    = 4 << 10
)

type proofMsg struct {
	Versions []int  `json:"versions,omitempty"`
	Version  int    `json:"version,omitempty"`
	Expires  int64  `json:"expires,omitempty"` // the invite's, Unix seconds; its secret is of this time
	Proof    []byte `json:"proof"`
}

type helloMsg struct {
	Name        string `json:"name"`
	Version     string `json:"version"`
	Lanes       int    `json:"lanes"`
	Connections int    `json:"connections"`
	Maps        []Map  `json:"maps"`
	Rates       Rates  `json:"rates,omitzero"`
}

// welcomeMsg answers Hello and Join.
type welcomeMsg struct {
	Session []byte `json:"session"`
}

type joinMsg struct {
	Session []byte `json:"session"`
	Index   int    `json:"index"`
}

type clockMsg struct {
	T0 int64 `json:"t0"` // ns since the epoch, the copier's clock
	T1 int64 `json:"t1"` // ns since the epoch, the responder's clock

	Pad string `json:"pad,omitempty"` // of any contents; the answer has the same
}

// mapsMsg names other maps than the Hello did: the ones there are, and more behind
// them, since flows know maps by their index.
type mapsMsg struct {
	Maps []Map `json:"maps"`
}

// ratesMsg bounds the copier's flows otherwise than the Hello did.
type ratesMsg struct {
	Rates Rates `json:"rates"`
}

// answerMsg answers Maps and Rates.
type answerMsg struct {
	Refused string `json:"refused,omitempty"` // why things stay what they were
}

// check reports what is wrong with a Hello.
func (h *helloMsg) check() error {
	switch {
	case len(h.Name) > maxName || len(h.Version) > maxName:
		return fmt.Errorf("name or version is longer than %d bytes", maxName)
	case h.Lanes < 1 || h.Lanes > MaxLanes:
		return fmt.Errorf("%d lanes, 1 to %d are possible", h.Lanes, MaxLanes)
	case h.Connections < 1 || h.Connections > min(h.Lanes, MaxConnections):
		return fmt.Errorf("%d connections for %d lanes, at most %d and one per lane are possible", h.Connections, h.Lanes, MaxConnections)
	}
	if err := h.Rates.check(); err != nil {
		return err
	}
	return checkMaps(h.Maps)
}

// checkMaps reports what is wrong with maps.
func checkMaps(maps []Map) error {
	if len(maps) < 1 || len(maps) > MaxMaps {
		return fmt.Errorf("%d maps, 1 to %d are possible", len(maps), MaxMaps)
	}
	for i, m := range maps {
		if m.Port == 0 || !m.Target.IsValid() || m.Target.Port() == 0 {
			return fmt.Errorf("map %d lacks a port or a target", i+1)
		}
	}
	return nil
}

// appendControl appends a message.
func appendControl(b []byte, t controlType, msg any) ([]byte, error) {
	body, err := json.Marshal(msg)
	if err != nil {
		return nil, fmt.Errorf("control message %d: %w", t, err)
	}
	b = binary.BigEndian.AppendUint32(b, uint32(t)<<24|uint32(len(body))&0xffffff)
	return append(b, body...), nil
}

// parseControlHeader reads the header of a message that must be of type want
// and at most limit long.
func parseControlHeader(h [controlHeader]byte, want controlType, limit int) (n int, err error) {
	word := binary.BigEndian.Uint32(h[:])
	t, n := controlType(word>>24), int(word&0xffffff)
	if t != want {
		return 0, fmt.Errorf("%w: control message of type %d where %d belongs", ErrProtocol, t, want)
	}
	if n > limit {
		return 0, fmt.Errorf("%w: control message of %d bytes, at most %d are allowed", ErrProtocol, n, limit)
	}
	return n, nil
}

// parseControlBody reads a message's JSON object. Fields that this version does
// not know are passed over.
func parseControlBody(body []byte, msg any) error {
	if err := json.Unmarshal(body, msg); err != nil {
		return fmt.Errorf("%w: control message: %w", ErrProtocol, err)
	}
	return nil
}

func writeControl(w io.Writer, t controlType, msg any) error {
	b, err := appendControl(nil, t, msg)
	if err != nil {
		return err
	}
	_, err = w.Write(b)
	return err
}

// readControl reads the next message, which must be of type want and short.
func readControl(r io.Reader, want controlType, msg any) error {
	return readLongControl(r, want, maxControl, msg)
}

func readLongControl(r io.Reader, want controlType, limit int, msg any) error {
	h, err := readControlHeader(r)
	if err != nil {
		return err
	}
	body, err := readControlBody(r, h, want, limit)
	if err != nil {
		return err
	}
	return parseControlBody(body, msg)
}

func readControlHeader(r io.Reader) (h [controlHeader]byte, err error) {
	_, err = io.ReadFull(r, h[:])
	return h, err
}

func readControlBody(r io.Reader, h [controlHeader]byte, want controlType, limit int) ([]byte, error) {
	n, err := parseControlHeader(h, want, limit)
	if err != nil {
		return nil, err
	}
	body := make([]byte, n)
	_, err = io.ReadFull(r, body)
	return body, err
}

// commonVersion returns the newest version that both sides speak.
func commonVersion(ours, theirs []int) (v int, ok bool) {
	for _, o := range ours {
		if slices.Contains(theirs, o) && o > v {
			v = o
		}
	}
	return v, v > 0
}
