package copier

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"flowtwin/copier/report"
	"flowtwin/internal/packet"
	"flowtwin/internal/pcap"
	"flowtwin/tunnel/frame"
)

// Bounds of the file of headers. What finds no room is not recorded, and counted.
const (
	headerGather = 64 << 10 // of a shard, until it hands them over at the end of a block
	headerQueue  = 4 << 20  // of all, until they are written
	headerPause  = 100 * time.Millisecond
	// maxHeaderFile is where the file ends: it is on a production server's disk.
	maxHeaderFile = 4 << 30
	tcpHeader     = 20
)

// A headerFile takes the headers of what the targets sent, as they are returned,
// for a pcap file. Shards hand them over in batches, and the file is written by a
// goroutine of its own, so that none of them waits for a disk.
type headerFile struct {
	file *os.File
	log  *slog.Logger
	most int64
	stop chan struct{}
	done chan struct{}

	mu       sync.Mutex
	queue    []byte
	queued   uint64 // packets in queue
	size     int64
	written  uint64
	dropped  uint64
	finished error // why nothing is written any more
	failed   error // the same where it is the disk

	batch []byte // of the goroutine
}

// newHeaderFile begins the file.
func newHeaderFile(name string, log *slog.Logger) (*headerFile, error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("record headers: %w", err)
	}
	h := &headerFile{
		file: f, log: log, most: maxHeaderFile, stop: make(chan struct{}), done: make(chan struct{}),
		queue: make([]byte, 0, headerQueue), batch: make([]byte, 0, headerQueue),
	}
	h.queue = pcap.AppendHeader(h.queue)
	go h.run()
	return h, nil
}

// recordHeaders begins the file of the configuration. The shards are not running yet.
func (c *copier) recordHeaders() (err error) {
	if c.headers, err = newHeaderFile(c.cfg.HeaderFile, c.cfg.Log); err != nil {
		return err
	}
	for _, s := range c.shards {
		s.headers = c.headers.newHeaders()
	}
	return nil
}

// run writes what is handed over, now and then, until close.
func (h *headerFile) run() {
	defer close(h.done)
	pause := time.NewTicker(headerPause)
	defer pause.Stop()
	for {
		select {
		case <-pause.C:
			h.write()
		case <-h.stop:
			h.write()
			return
		}
	}
}

func (h *headerFile) write() {
	h.mu.Lock()
	h.queue, h.batch = h.batch[:0], h.queue
	n := h.queued
	h.queued = 0
	over := h.finished != nil
	h.mu.Unlock()
	if len(h.batch) == 0 || over {
		return
	}
	_, err := h.file.Write(h.batch)
	h.mu.Lock()
	defer h.mu.Unlock()
	if err == nil {
		h.written += n
		h.size += int64(len(h.batch))
		if h.size < h.most-headerQueue {
			return
		}
		err = fmt.Errorf("it has %d bytes", h.size)
	} else {
		// Readers stumble over a packet that is cut.
		err = errors.Join(err, h.file.Truncate(h.size))
		h.dropped += n
		h.failed = err
	}
	h.finished = err
	h.dropped += h.queued
	h.queue, h.queued = h.queue[:0], 0
	h.log.Warn("no more headers are recorded; copying goes on", "file", h.file.Name(), "err", err)
}

// take copies a shard's batch, or counts it as lost.
func (h *headerFile) take(b []byte, packets uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.finished != nil || len(h.queue)+len(b) > headerQueue {
		h.dropped += packets
		return
	}
	h.queue = append(h.queue, b...)
	h.queued += packets
}

// stats returns what the report shows, nil for no file.
func (h *headerFile) stats() *report.Headers {
	if h == nil {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return &report.Headers{Recorded: h.written, Dropped: h.dropped}
}

// close writes the rest. The shards have ended.
func (h *headerFile) close() error {
	close(h.stop)
	<-h.done
	if err := errors.Join(h.failed, h.file.Close()); err != nil {
		return fmt.Errorf("record headers: %w", err)
	}
	return nil
}

// headers gathers what a shard has to record. A shard that records none has nil.
type headers struct {
	file    *headerFile
	batch   []byte
	packets uint64
	offset  int64 // responder's clock minus ours, of this block
	known   bool  // offset is
}

func (h *headerFile) newHeaders() *headers {
	return &headers{file: h, batch: make([]byte, 0, headerGather)}
}

// add records one packet: v is its headers, if they make sense.
func (h *headers) add(t *frame.TargetHeader, v *packet.View, sense bool, offset func() time.Duration) {
	if !h.known {
		h.offset, h.known = int64(offset()), true
	}
	length := len(t.Headers)
	if sense {
		length = len(v.Headers) + v.PayloadLen
	}
	if len(h.batch)+pcap.PacketOverhead+len(t.Headers) > cap(h.batch) {
		h.flush()
	}
	h.batch = pcap.AppendPacket(h.batch, t.Time-h.offset, t.Headers, length)
	h.packets++
	if sense && v.PayloadLen == 0 {
		// The target's kernel has left the checksum to its network card, which was
		// none. Behind a payload that is not here nobody can tell.
		tcp := h.batch[len(h.batch)-len(t.Headers)+len(v.Headers)-len(v.Options)-tcpHeader:]
		binary.BigEndian.PutUint16(tcp[16:], v.Checksum())
	}
}

// flush hands over what was gathered.
func (h *headers) flush() {
	if h.packets > 0 {
		h.file.take(h.batch, h.packets)
	}
	h.batch, h.packets, h.known = h.batch[:0], 0, false
}
