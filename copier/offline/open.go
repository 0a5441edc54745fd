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
}

// open opens a file, of whatever format and compression. What is read of it, as it
// lies on the disk, is added to read.
func open(name string, stdin io.Reader, read *atomic.Int64) (*file, error) {
	f := &file{name: name}
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
	if err := f.start(counter{raw, read}); err != nil {
		f.close()
		return nil, fmt.Errorf("%s: %w", f.name, err)
	}
	return f, nil
}

func (f *file) start(raw io.Reader) error {
	br := bufio.NewReaderSize(raw, readBuffer)
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
		br = bufio.NewReaderSize(plain, readBuffer)
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
		return nil
	}
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

// counter counts what is read through it.
type counter struct {
	r    io.Reader
	read *atomic.Int64
}

func (c counter) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.read.Add(int64(n))
	return n, err
}
