// Package recording writes captured packets to files: pcapng, rotated by size and time,
// the oldest removed where they take more room than they may.
//
// The shards hand chunks of packets over and never wait for the disk.
package recording

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"flowtwin/internal/pcap"
)

// Config configures [Open].
type Config struct {
	Dir     string
	Size    int64         // of a file
	Every   time.Duration // a new file, 0 never for that
	Cap     int64         // of all files in Dir that are ours; at least two files
	Sinks   int           // at most
	Version string
	Name    func(ifindex int) string // of an interface
	Log     *slog.Logger
}

// Stats is what has been written.
type Stats struct {
	Files   uint64
	Removed uint64 // files, for the cap
	Packets uint64
	Bytes   uint64
	Lost    uint64 // packets that were handed over and could not be written
}

// A Recorder writes what its sinks are given. Goroutine: one that writes.
type Recorder struct {
	cfg    Config
	full   chan batch
	done   sync.WaitGroup
	broken chan struct{} // closed when failed

	// Of the goroutine.
	name   string // of the recording, in its files
	parts  uint64 // files
	file   *os.File
	opened time.Time
	size   int64
	ifaces map[uint32]uint32
	head   []byte
	failed bool

	mu  sync.Mutex
	st  Stats // guarded by mu
	err error // the first one; guarded by mu
}

const (
	prefix = "flowtwin-"
	suffix = ".pcapng"
)

// Open creates the folder and the first file.
func Open(cfg Config) (*Recorder, error) {
	if cfg.Cap < 2*cfg.Size || cfg.Size <= 0 {
		return nil, fmt.Errorf("record: a cap of %d bytes does not hold two files of %d", cfg.Cap, cfg.Size)
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("record: %w", err)
	}
	r := &Recorder{cfg: cfg, name: rand.Text(), full: make(chan batch, cfg.Sinks*chunks+1), broken: make(chan struct{})}
	if err := r.rotate(time.Now()); err != nil {
		return nil, err
	}
	r.done.Go(r.run)
	return r, nil
}

// Sink returns a new sink, of a shard.
func (r *Recorder) Sink() *Sink { return newSink(r.full) }

// Stats returns what has been written. Any goroutine.
func (r *Recorder) Stats() Stats {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.st
}

// Sync waits until all that was handed over is written. The shards have ended.
func (r *Recorder) Sync() {
	done := make(chan struct{})
	r.full <- batch{done: done}
	<-done
}

// Close writes what was handed over and closes the file. It returns what went wrong
// while writing.
func (r *Recorder) Close() error {
	close(r.full)
	r.done.Wait()
	err := r.err
	if r.file != nil {
		err = errors.Join(err, r.file.Close())
	}
	return err
}

func (r *Recorder) run() {
	for b := range r.full {
		if b.done != nil {
			close(b.done)
			continue
		}
		packets := count(b.data)
		if !r.failed {
			if err := r.write(b.data, time.Now()); err != nil {
				r.fail(err)
			}
		}
		r.mu.Lock()
		if r.failed {
			r.st.Lost += packets
		} else {
			r.st.Packets += packets
			r.st.Bytes += uint64(len(b.data))
		}
		r.mu.Unlock()
		b.free <- b.data
	}
}

// fail ends the recording; copying goes on.
func (r *Recorder) fail(err error) {
	r.failed = true
	r.cfg.Log.Error("recording has ended", "err", err)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err = err
	close(r.broken)
}

// Broken is closed when nothing more can be written.
func (r *Recorder) Broken() <-chan struct{} { return r.broken }

// count returns the number of blocks in b.
func count(b []byte) (n uint64) {
	for ; len(b) > 0; n++ {
		b = b[binary.LittleEndian.Uint32(b[4:]):]
	}
	return n
}

// write writes a chunk, into a new file when it is time for one.
func (r *Recorder) write(b []byte, now time.Time) error {
	r.head = r.head[:0]
	if r.size+int64(len(b)) > r.cfg.Size || r.cfg.Every > 0 && now.Sub(r.opened) >= r.cfg.Every {
		if err := r.rotate(now); err != nil {
			return err
		}
	}
	r.number(b)
	size := r.size
	for _, part := range [][]byte{r.head, b} {
		n, err := r.file.Write(part)
		r.size += int64(n)
		if err != nil {
			// Of a full disk. Readers stumble over a packet that is cut.
			return errors.Join(fmt.Errorf("record: %w", err), r.file.Truncate(size))
		}
	}
	return nil
}

// number replaces the interfaces' indexes in a chunk by their numbers in the file,
// and describes those that are new.
func (r *Recorder) number(b []byte) {
	for len(b) > 0 {
		index := binary.LittleEndian.Uint32(b[8:])
		id, known := r.ifaces[index]
		if !known {
			id = uint32(len(r.ifaces))
			r.ifaces[index] = id
			r.head = pcap.AppendInterface(r.head, r.cfg.Name(int(index)))
		}
		binary.LittleEndian.PutUint32(b[8:], id)
		b = b[binary.LittleEndian.Uint32(b[4:]):]
	}
}

// rotate closes the file and begins the next one, once there is room for it.
func (r *Recorder) rotate(now time.Time) error {
	if r.file != nil {
		err := r.file.Close()
		r.file = nil
		if err != nil {
			return fmt.Errorf("record: %w", err)
		}
	}
	if err := r.makeRoom(); err != nil {
		return err
	}
	name := filepath.Join(r.cfg.Dir, prefix+now.UTC().Format("20060102T150405.000000000Z")+suffix)
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("record: %w", err)
	}
	part := pcap.Part{Recording: r.name, Number: r.parts + 1}
	n, err := f.Write(pcap.AppendSection(nil, "flowtwin copier "+r.cfg.Version, part))
	if err != nil {
		return errors.Join(fmt.Errorf("record: %w", err), f.Close())
	}
	r.file, r.opened, r.size, r.ifaces = f, now, int64(n), make(map[uint32]uint32)
	r.parts++
	r.mu.Lock()
	r.st.Files++
	r.mu.Unlock()
	return nil
}

// makeRoom removes the oldest files, of earlier runs too, until one more of full size
// is within the cap.
func (r *Recorder) makeRoom() error {
	entries, err := os.ReadDir(r.cfg.Dir)
	if err != nil {
		return fmt.Errorf("record: %w", err)
	}
	type old struct {
		name string
		size int64
	}
	var files []old
	var sum int64
	for _, e := range entries {
		if !e.Type().IsRegular() || !strings.HasPrefix(e.Name(), prefix) || !strings.HasSuffix(e.Name(), suffix) {
			continue
		}
		st, err := e.Info()
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("record: %w", err)
		}
		files = append(files, old{filepath.Join(r.cfg.Dir, e.Name()), st.Size()})
		sum += st.Size()
	}
	slices.SortFunc(files, func(a, b old) int { return strings.Compare(a.name, b.name) }) // their names are their times
	for _, f := range files {
		if sum+r.cfg.Size <= r.cfg.Cap {
			break
		}
		if err := os.Remove(f.name); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("record: %w", err)
		}
		sum -= f.size
		r.mu.Lock()
		r.st.Removed++
		r.mu.Unlock()
	}
	return nil
}
