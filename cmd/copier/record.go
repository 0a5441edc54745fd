package main

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"flowtwin/copier"
	"flowtwin/internal/cli"
)

// recordFlags are --record and its like.
type recordFlags struct {
	dir       string
	size, cap string
	every     time.Duration
}

func (r *recordFlags) add(fs *cli.Flags, headers *string) {
	fs.Group("Record")
	fs.StringVar(&r.dir, "record", "", "record what is followed as pcapng files in `DIR`; without a responder nothing is copied")
	fs.StringVar(&r.size, "record-size", "256M", "begin a new file at `BYTES` (k, M, G), 1M at least")
	fs.DurationVar(&r.every, "record-every", time.Hour, "begin a new file after `TIME`; 0: never for that")
	fs.StringVar(&r.cap, "record-cap", "10G", "all files together hold `BYTES` at most: the oldest are removed")
	fs.StringVar(headers, "record-headers", "", "headers of what the targets send to `FILE`, a pcap, up to 4 GB; of several targets to FILE.1 and so on")
}

// leastFile is the smallest --record-size.
const leastFile = 1e6

// parse looks into the flags and returns what is to be recorded, or nil.
func (r *recordFlags) parse(fs *cli.Flags) (*copier.Record, error) {
	if r.dir == "" {
		for _, name := range []string{"record-size", "record-every", "record-cap"} {
			if fs.Changed(name) {
				return nil, fmt.Errorf("--%s: is for recording: say where with --record", name)
			}
		}
		return nil, nil
	}
	if fs.Changed("input") {
		return nil, errors.New("--record: what is replayed (-i) is recorded already")
	}
	size, err := parseBytes(r.size)
	if err != nil || size < leastFile {
		return nil, fmt.Errorf("--record-size: %q is not a number of bytes from 1M on", r.size)
	}
	most, err := parseBytes(r.cap)
	if err != nil || most < 2*size {
		return nil, fmt.Errorf("--record-cap: %q is not a number of bytes that holds two files of %s", r.cap, r.size)
	}
	if r.every < 0 {
		return nil, fmt.Errorf("--record-every: %v is negative", r.every)
	}
	return &copier.Record{Dir: r.dir, Size: size, Every: r.every, Cap: most}, nil
}

// parseBytes reads a number of bytes such as 256M.
func parseBytes(s string) (int64, error) {
	unit := int64(1)
	for _, u := range []struct {
		suffix string
		bytes  int64
	}{{"k", 1e3}, {"K", 1e3}, {"M", 1e6}, {"G", 1e9}, {"T", 1e12}} {
		if number, ok := strings.CutSuffix(s, u.suffix); ok {
			s, unit = number, u.bytes
			break
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err == nil && (n < 0 || n > math.MaxInt64/unit) {
		err = strconv.ErrRange
	}
	return n * unit, err
}
