package main

import (
	"errors"
	"fmt"
	"slices"
	"strconv"

	"flowtwin/copier"
	"flowtwin/copier/offline"
	"flowtwin/internal/cli"
)

// replayFlags are the flags that come with -i.
type replayFlags struct {
	files       []string
	loop        string
	filter      string
	start, stop string
	replay      copier.Replay
}

func (r *replayFlags) add(fs *cli.Flags) {
	c := &r.replay
	fs.Group("Replay a recording in the place of live packets; needs no privileges")
	fs.StringArrayVarP(&r.files, "input", "i", nil, "`FILE`: pcap or pcapng, also gzip or zstd; a pattern such as 'a*.pcap', or - for standard input; may be repeated")
	fs.StringVar(&c.Pace, "pace", copier.PaceClock, "`clock|target`: as it was recorded; or as fast as the target answers")
	fs.Float64VarP(&c.Speed, "accelerate", "a", 1, "`N` times as fast as recorded")
	fs.DurationVar(&c.MaxGap, "max-gap", 0, "pauses between packets no longer than `TIME` (default: as they were)")
	fs.StringVar(&r.loop, "loop", "1", "`N|forever`: so many times")
	fs.StringVar(&r.start, "start", "", "packets from `TIME` on: '2026-11-23 16:04:05', or 90s behind the first packet")
	fs.StringVar(&r.stop, "stop", "", "packets before `TIME`")
	fs.StringVar(&r.filter, "filter", "", "`EXPR`: only these connections: host A, net A/BITS, port N, portrange N-M, with src (the client) or dst; and, or, not, ( )")
	fs.BoolVar(&c.DryRun, "dry-run", false, "print what would be replayed, and do nothing: needs no responder")
}

// parse looks into the flags and returns what is to be replayed, or nil.
func (r *replayFlags) parse(fs *cli.Flags) (*copier.Replay, error) {
	if len(r.files) == 0 {
		for _, name := range []string{"pace", "accelerate", "max-gap", "loop", "filter", "start", "stop", "dry-run"} {
			if fs.Changed(name) {
				return nil, fmt.Errorf("--%s: is for replaying files: give them with -i", name)
			}
		}
		return nil, nil
	}
	c := &r.replay
	switch {
	case c.Pace != copier.PaceClock && c.Pace != copier.PaceTarget:
		return nil, fmt.Errorf("--pace: %q is neither clock nor target", c.Pace)
	case c.Pace == copier.PaceTarget && (fs.Changed("accelerate") || fs.Changed("max-gap")):
		return nil, errors.New("-a, --max-gap: the target sets the pace (--pace=target), not the recording")
	case !(c.Speed > 0 && c.Speed <= 1e6):
		return nil, fmt.Errorf("-a: %v is not a number above 0 and up to a million", c.Speed)
	case c.MaxGap < 0:
		return nil, fmt.Errorf("--max-gap: %v is negative", c.MaxGap)
	}
	var err error
	if c.Loops, err = parseLoops(r.loop); err != nil {
		return nil, err
	}
	if c.Filter, err = offline.ParseFilter(r.filter); err != nil {
		return nil, fmt.Errorf("--filter: %w", err)
	}
	if c.Window.Start, err = moment("start", r.start); err != nil {
		return nil, err
	}
	if c.Window.Stop, err = moment("stop", r.stop); err != nil {
		return nil, err
	}
	if c.Window.Empty() {
		return nil, errors.New("--stop: is not behind --start")
	}
	if c.Files, err = offline.Expand(r.files); err != nil {
		return nil, fmt.Errorf("-i: %w", err)
	}
	if c.Loops != 1 && slices.Contains(c.Files, offline.Stdin) {
		return nil, errors.New("--loop: standard input can be read only once")
	}
	return c, nil
}

func parseLoops(s string) (int, error) {
	if s == "forever" {
		return offline.Forever, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		return 0, fmt.Errorf("--loop: %q is neither a number from 1 on nor forever", s)
	}
	return n, nil
}

func moment(flag, s string) (offline.Moment, error) {
	if s == "" {
		return offline.Moment{}, nil
	}
	m, err := offline.ParseMoment(s)
	if err != nil {
		return m, fmt.Errorf("--%s: %w", flag, err)
	}
	return m, nil
}
