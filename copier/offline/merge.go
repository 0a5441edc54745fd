package offline

import (
	"cmp"
	"container/heap"
	"errors"
	"io"
	"slices"
	"strings"
	"sync/atomic"

	"flowtwin/internal/pcap"
)

// A recording is the packets of several files in the order of time. Files are
// opened when their time has come: a rotated recording has many.
type recording struct {
	stdin io.Reader
	read  *atomic.Int64
	later []opening // sorted
	open  files
	moved bool    // the first of open has been handed out
	flaws []error // of files that could not be read to their end
}

// opening is a file that is not open yet.
type opening struct {
	name  string
	first int64 // time of its first packet
	part  pcap.Part
	then  []string // files that it goes on in
}

// survey looks at the beginning of each file.
func survey(names []string) ([]opening, error) {
	var out []opening
	for _, name := range names {
		if name == Stdin {
			out = append(out, opening{name: name})
			continue
		}
		f, err := open(name, nil, new(atomic.Int64))
		if err != nil {
			return nil, err
		}
		err = f.next()
		f.close()
		o := opening{name: name}
		if ng, ok := f.format.(*ngFile); ok {
			o.part = ng.part
		}
		var flaw *FileError
		switch {
		case err == nil:
			o.first = f.at.time
		case errors.Is(err, io.EOF), errors.As(err, &flaw): // said when it is read
		default:
			return nil, err
		}
		out = append(out, o)
	}
	out = chained(out)
	slices.SortStableFunc(out, func(a, b opening) int { return cmp.Compare(a.first, b.first) })
	return out, nil
}

// chained puts the files of each recording of the copier's one behind the other. Its
// shards write in turns: a file may begin with a packet that is older than the last ones
// of the file before.
func chained(files []opening) (out []opening) {
	slices.SortStableFunc(files, func(a, b opening) int {
		return cmp.Or(strings.Compare(a.part.Recording, b.part.Recording), cmp.Compare(a.part.Number, b.part.Number))
	})
	var last pcap.Part
	for _, o := range files {
		if last.Recording != "" && o.part.Recording == last.Recording && o.part.Number > last.Number {
			begin := &out[len(out)-1]
			begin.then = append(begin.then, o.name)
		} else {
			out = append(out, o)
		}
		last = o.part
	}
	return out
}

// next returns the next packet, lent until the call after, and the file it is of;
// io.EOF behind the last one. Files that cannot be read any further end with a
// flaw, and the others go on.
func (r *recording) next() (*file, error) {
	if r.moved {
		r.moved = false
		if err := r.advance(); err != nil {
			return nil, err
		}
	}
	for len(r.later) > 0 && (len(r.open) == 0 || r.later[0].first <= r.open[0].at.time) {
		o := r.later[0]
		r.later = r.later[1:]
		f, err := r.take(nil, append([]string{o.name}, o.then...))
		if err != nil {
			return nil, err
		}
		if f != nil {
			heap.Push(&r.open, f)
		}
	}
	if len(r.open) == 0 {
		return nil, io.EOF
	}
	r.moved = true
	return r.open[0], nil
}

// advance reads the next packet of the file that the last one was of.
func (r *recording) advance() error {
	f, err := r.take(r.open[0], r.open[0].then)
	if f == nil {
		heap.Pop(&r.open)
		return err
	}
	r.open[0] = f
	heap.Fix(&r.open, 0)
	return err
}

// take reads the next packet of f or, where it has no more, of the files that follow it.
// It returns the file that the packet is of, or nil. Those that are over are closed.
func (r *recording) take(f *file, then []string) (*file, error) {
	for {
		if f != nil {
			err := f.next()
			if err == nil {
				return f, nil
			}
			if !errors.Is(err, io.EOF) {
				r.flaws = append(r.flaws, err)
			}
			f.close()
		}
		if len(then) == 0 {
			return nil, nil
		}
		var err error
		if f, err = open(then[0], r.stdin, r.read); err != nil {
			return nil, err
		}
		then = then[1:]
		f.then = then
	}
}

func (r *recording) close() {
	for _, f := range r.open {
		f.close()
	}
	r.open = nil
}

// files is a heap by the time of the packet that is next.
type files []*file

func (h files) Len() int           { return len(h) }
func (h files) Less(i, j int) bool { return h[i].at.time < h[j].at.time }
func (h files) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }

// Push implements heap.Interface.
func (h *files) Push(x any) {
	if f, ok := x.(*file); ok {
		*h = append(*h, f)
	}
}

// Pop implements heap.Interface.
func (h *files) Pop() any {
	old := *h
	f := old[len(old)-1]
	*h = old[:len(old)-1]
	return f
}
