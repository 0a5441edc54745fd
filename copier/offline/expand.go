package offline

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
)

// Expand returns the files that the patterns name, each once.
func Expand(patterns []string) ([]string, error) {
	var names []string
	for _, p := range patterns {
		found, err := matching(p)
		if err != nil {
			return nil, err
		}
		names = append(names, found...)
	}
	slices.Sort(names)
	names = slices.Compact(names)
	if slices.Contains(names, Stdin) {
		if len(names) > 1 {
			return nil, errors.New("standard input stands for itself: not beside other files")
		}
		return names, nil
	}
	return distinct(names)
}

// matching returns the files that one pattern names.
func matching(pattern string) ([]string, error) {
	if pattern == Stdin {
		return []string{pattern}, nil
	}
	if _, err := os.Stat(pattern); err == nil { // its name may have brackets
		return []string{pattern}, nil
	}
	found, err := filepath.Glob(pattern)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", pattern, err)
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("%s: no such file", pattern)
	}
	return found, nil
}

// distinct returns names without further names of one file, and refuses what is no
// file: it could not be opened twice, once to see when it begins.
func distinct(names []string) (out []string, err error) {
	var all []fs.FileInfo
	for _, name := range names {
		st, err := os.Stat(name)
		switch {
		case err != nil:
			return nil, err
		case st.IsDir():
			return nil, fmt.Errorf("%s is a directory; its files are %s", name, filepath.Join(name, "*"))
		case !st.Mode().IsRegular():
			return nil, fmt.Errorf("%s is no file; what comes through a pipe is read by -i - < %[1]s", name)
		case slices.ContainsFunc(all, func(o fs.FileInfo) bool { return os.SameFile(st, o) }):
			continue
		}
		all, out = append(all, st), append(out, name)
	}
	return out, nil
}

// sized returns those of names that have bytes, and how many. A program that records
// leaves its newest file empty for a while.
func sized(names []string, log *slog.Logger) (out []string, total int64, err error) {
	for _, name := range names {
		if name != Stdin {
			st, err := os.Stat(name)
			if err != nil {
				return nil, 0, err
			}
			if st.Size() == 0 {
				log.Warn("a file is empty", "file", name)
				continue
			}
			total += st.Size()
		}
		out = append(out, name)
	}
	if len(out) == 0 {
		return nil, 0, fmt.Errorf("%s: empty", names[0])
	}
	return out, total, nil
}
