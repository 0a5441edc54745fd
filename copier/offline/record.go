// Package offline reads recorded packets: pcap and pcapng files, also compressed
// ones, one or several in the order of time. It picks the packets of the servers
// asked for, tells their direction, and hands them over in blocks, as a capture
// ring does with live ones.
//
// Files are read by own code: gopacket's readers hold link types in 8 bits, which
// are too few for Linux cooked v2, and trust the lengths in damaged pcapng files.
// Its decoders find the IP header behind the rarer link types.
package offline

import (
	"bufio"
	"errors"
	"fmt"
	"io"
)

// maxRecord is the longest packet that is read: more than any that a kernel
// merges. What claims to be longer is damage.
const maxRecord = 1 << 20

// A record is one packet of a file. Its data is lent until the next one is read.
type record struct {
	data    []byte
	wireLen int
	time    int64 // ns since the epoch
	iface   int32
	link    uint16 // LINKTYPE_…
}

// format reads one kind of file.
type format interface {
	// next fills r. It returns io.EOF behind the last packet and errCut when the
	// file ends inside one.
	next(r *record) error
}

var (
	errCut    = errors.New("the file ends inside it")
	errFormat = errors.New("not a pcap or pcapng file")
)

// A FileError names the packet at which a file cannot be read any further.
type FileError struct {
	File   string
	Packet uint64 // from 1 on, as Wireshark counts
	Err    error
}

// Error implements error.
func (e *FileError) Error() string {
	return fmt.Sprintf("packet %d of %s: %v", e.Packet, e.File, e.Err)
}

// Unwrap returns the reason.
func (e *FileError) Unwrap() error { return e.Err }

// Cut reports whether the file simply ends too early, as one does whose tcpdump
// was killed.
func (e *FileError) Cut() bool { return errors.Is(e.Err, errCut) }

// take returns the next n bytes of br, lent until the next read. Where there are
// none at all it returns io.EOF.
func take(br *bufio.Reader, n int) ([]byte, error) {
	b, err := br.Peek(n)
	switch {
	case err == nil:
		_, err = br.Discard(n)
		return b, err
	case errors.Is(err, io.EOF) && len(b) == 0:
		return nil, io.EOF
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return nil, errCut
	}
	return nil, err
}

// inside is an error within a packet: there the end of the file is too early.
func inside(err error) error {
	if errors.Is(err, io.EOF) {
		return errCut
	}
	return err
}
