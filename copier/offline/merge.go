package offline

import (
	"container/heap"
	"errors"
	"io"
	"slices"
	"sync/atomic"
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
		var flaw *FileError
		switch {
		case err == nil:
			out = append(out, opening{name, f.at.time})
		case errors.Is(err, io.EOF), errors.As(err, &flaw): // said when it is read
			out = append(out, opening{name: name})
		default:
			return nil, err
		}
	}
	slices.SortStableFunc(out, func(a, b opening) int {
		switch {
		case a.first < b.first:
			return -1
		case a.first > b.first:
			return 1
		}
		return 0
	})
	return out, nil
}

// next returns the next packet, lent until the call after, and the file it is of;
// io.EOF behind the last one. Files that cannot be read any further end with a
// flaw, and the others go on.
func (r *recording) next() (*file, error) {
	if r.moved {
		r.moved = false
		r.advance()
	}
	for len(r.later) > 0 && (len(r.open) == 0 || r.later[0].first <= r.open[0].at.time) {
		o := r.later[0]
		r.later = r.later[1:]
		f, err := open(o.name, r.stdin, r.read)
		if err != nil {
			return nil, err
		}
		if r.took(f) {
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
func (r *recording) advance() {
	if r.took(r.open[0]) {
		heap.Fix(&r.open, 0)
		return
	}
	heap.Pop(&r.open)
}

// took reads a file's next packet, or closes it.
func (r *recording) took(f *file) bool {
	err := f.next()
	if err == nil {
		return true
	}
	if !errors.Is(err, io.EOF) {
		r.flaws = append(r.flaws, err)
	}
	f.close()
	return false
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
