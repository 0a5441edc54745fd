package main

import (
	"errors"
	"fmt"
	"slices"

	"flowtwin/copier"
	"flowtwin/copier/offline"
	"flowtwin/internal/cli"
	"flowtwin/tunnel"
)

// A clash is a kind of run with flags that would do nothing in it.
type clash struct {
	with  bool
	flags []string
	why   string
}

// combined refuses flags that say nothing together: whoever gave them expects
// something that would not happen.
func (r *raw) combined(fs *cli.Flags) error {
	c := &r.config
	dry := c.Replay != nil && c.Replay.DryRun
	alone := c.Record != nil && c.Record.Alone
	for _, clash := range []clash{
		{c.Replay != nil, []string{"interface", "netns", "decap", "shards", "connections"}, "is for live packets, not for files (-i)"},
		{dry, []string{"report"}, "a dry run has no ledger"},
		{dry, []string{"record-headers"}, "a dry run has no answers"},
		{dry, []string{"rate-connections", "rate-bytes"}, "the responder keeps it, and a dry run has none"},
		{dry, []string{"control"}, "a dry run is over before it could be told something"},
		{dry, []string{"daemon"}, "a dry run prints what it finds"},
		{c.Replay != nil && slices.Contains(c.Replay.Files, offline.Stdin), []string{"daemon"}, "has no standard input to replay (-i -)"},
		{alone, []string{"copies", "jitter", "rate-connections", "rate-bytes", "connections", "record-headers"}, "nothing is copied: --record without a responder"},
		{alone, httpNames(fs), "nothing is copied: --record without a responder records whole connections; select when they are replayed"},
		{c.Decap != 0 && max(c.Shards, c.Connections) > 1, []string{"shards", "connections"}, "mirrored packets (--decap) go through one"},
	} {
		for _, name := range clash.flags {
			if clash.with && fs.Changed(name) {
				return fmt.Errorf("%s: %s", spelled(fs, name), clash.why)
			}
		}
	}
	switch {
	case fs.Changed("jitter") && c.Copies == 1 && c.Control == "":
		return errors.New("--jitter: there are no copies to spread; their number is -n")
	case c.Ramp > 0 && c.Replay != nil && !dry && c.Replay.Pace == copier.PaceTarget && c.Replay.Loops == 1:
		return errors.New("--ramp: a recording at the target's pace (--pace=target) is over before; repeat it with --loop, or let the clock set the pace")
	case dry && len(r.maps) > 1 && max(len(r.servers), len(r.inviteFiles)) > 1:
		return errors.New("-x: a dry run shows one responder's connections; give its maps in one -x")
	}
	return nil
}

// rates reads the flags that are so much a second.
func (r *raw) rates() (err error) {
	for _, x := range []struct {
		flag, text string
		to         *float64
	}{
		{"connections", r.connections, &r.config.Rates.Connections},
		{"bytes", r.bytes, &r.config.Rates.Bytes},
	} {
		if x.text == "" {
			continue
		}
		if *x.to, err = tunnel.ParseRate(x.text); err != nil {
			return fmt.Errorf("--rate-%s: %w", x.flag, err)
		}
	}
	return nil
}

// httpNames returns the flags that select or change requests.
func httpNames(fs *cli.Flags) []string { return fs.Below(httpHeading) }

// spelled returns a flag as it is given.
func spelled(fs *cli.Flags, name string) string {
	if f := fs.Lookup(name); f.Shorthand != "" {
		return "-" + f.Shorthand + ", --" + name
	}
	return "--" + name
}
