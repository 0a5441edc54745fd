package offline

import (
	"bufio"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"

	"github.com/klauspost/compress/zstd"
)

// Stdin is the name of the standard input.
const Stdin = "-"

// readBuffer holds a whole block of the longest packet.
const readBuffer = 2 << 20

// A file is one that is open.
type file struct {
	name    string
	closers []io.Closer
	format  format
	then    []string // files that it goes on in
	number  uint64   // of the packet read last, from 1 on
	at      record   // that packet

	// How far it is read.
	input, plain counter       // what was read, as it lies on the disk and without compression
	inBuf, buf   *bufio.Reader // of them; the same without compression
	counted      int64
	read         *atomic.Int64
}

// open opens a file, of whatever format and compression. How many bytes of it, as it
// lies on the disk, are behind the packets that were read is added to read.
func open(name string, stdin io.Reader, read *atomic.Int64) (*file, error) {
	f := &file{name: name, read: read}
	raw := stdin
	if name == Stdin {
		f.name = "standard input"
	} else {
		h, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		f.closers = append(f.closers, h)
		raw = h
	}
	if err := f.start(raw); err != nil {
		f.close()
		return nil, fmt.Errorf("%s: %w", f.name, err)
	}
	return f, nil
}

func (f *file) start(raw io.Reader) error {
	f.input.r = raw
	br := bufio.NewReaderSize(&f.input, readBuffer)
	f.inBuf, f.buf = br, br
	magic, err := br.Peek(4)
	if err != nil {
		return errFormat
	}
	var plain io.Reader
	switch {
	case magic[0] == 0x1f && magic[1] == 0x8b:
		if plain, err = gzip.NewReader(br); err != nil {
			return err
		}
	case binary.LittleEndian.Uint32(magic) == 0xfd2fb528, binary.LittleEndian.Uint32(magic)&^0xf == 0x184d2a50:
		z, err := zstd.NewReader(br, zstd.WithDecoderConcurrency(1))
		if err != nil {
			return err
		}
		f.closers = append(f.closers, z.IOReadCloser())
		plain = z
	}
	if plain != nil {
		f.plain.r = plain
		br = bufio.NewReaderSize(&f.plain, readBuffer)
		f.buf = br
		if magic, err = br.Peek(4); err != nil {
			return fmt.Errorf("%w inside of the compression: %w", errFormat, err)
		}
	}
	if binary.LittleEndian.Uint32(magic) == blockSection {
		f.format = &ngFile{br: br}
		return nil
	}
	order := pcapOrder(magic)
	if order == nil {
		return errFormat
	}
	f.format, err = openPcap(br, order)
	return err
}

// next reads the next packet into at. Behind the last one it returns io.EOF.
func (f *file) next() error {
	err := f.format.next(&f.at)
	if err == nil {
		f.number++
		f.count(f.passed())
		return nil
	}
	f.count(f.input.n)
	if errors.Is(err, io.EOF) {
		return io.EOF
	}
	if errors.Is(err, io.ErrUnexpectedEOF) { // of a compressed file
		err = errCut
	}
	return &FileError{File: f.name, Packet: f.number + 1, Err: err}
}

func (f *file) close() {
	for i := len(f.closers) - 1; i >= 0; i-- {
		_ = f.closers[i].Close()
	}
}

// passed returns how much of the file is behind the packets that were read: buffers hold a
// part of what was read, and all of a short recording. What a buffer of unpacked bytes
// holds is a part of the file's in the same measure.
func (f *file) passed() int64 {
	n := f.input.n - int64(f.inBuf.Buffered())
	if f.buf != f.inBuf {
		n = int64(float64(n) * (1 - float64(f.buf.Buffered())/float64(f.plain.n)))
	}
	return n
}

// count adds to read what is missing of n.
func (f *file) count(n int64) {
	if n > f.counted {
		f.read.Add(n - f.counted)
		f.counted = n
	}
}

// counter counts what is read through it.
type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n += int64(n)
	return n, err
}
