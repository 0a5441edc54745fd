package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"flowtwin/copier"
	"flowtwin/internal/cli"
	"flowtwin/tunnel"
)

// targets finds the responders, with their invites and maps.
func (r *raw) targets(getenv func(string) string, names resolver) error {
	n := max(1, len(r.servers), len(r.inviteFiles))
	switch {
	case len(r.servers) != 0 && len(r.servers) != n:
		return fmt.Errorf("-s: given %d times, but --invite-file %d times: the k-th belong together", len(r.servers), n)
	case len(r.inviteFiles) != 0 && len(r.inviteFiles) != n:
		return fmt.Errorf("--invite-file: given %d times, but -s %d times: the k-th belong together", len(r.inviteFiles), n)
	case n > 1 && len(r.maps) != 1 && len(r.maps) != n:
		return fmt.Errorf("-x: given %d times for %d responders: give it once for all, or once for each", len(r.maps), n)
	case r.config.Split && n == 1:
		return errors.New("--split: there is only one responder; repeat --invite-file or -s")
	}
	nobody := r.config.Record != nil && r.config.Record.Alone
	if r.config.Replay != nil && r.config.Replay.DryRun {
		nobody, n, r.config.Split = true, 1, false
	}
	ctx, cancel := context.WithTimeout(context.Background(), lookupTimeout)
	defer cancel()
	targets := make([]copier.Target, n)
	for i := range targets {
		maps := r.maps
		if n > 1 {
			maps = r.maps[min(i, len(r.maps)-1):][:1]
		}
		var err error
		if targets[i].Maps, err = parseMaps(ctx, maps, names); err != nil {
			return err
		}
		if nobody {
			break
		}
		if err := r.invite(&targets[i], pick(r.servers, i), pick(r.inviteFiles, i), getenv); err != nil {
			return err
		}
		if twin := slices.IndexFunc(targets[:i], func(t copier.Target) bool { return same(t, targets[i]) }); twin >= 0 {
			return fmt.Errorf("responders %d and %d are the same one, with the same maps", twin+1, i+1)
		}
	}
	r.config.Target, r.config.More = targets[0], targets[1:]
	return nil
}

// same reports whether two targets are one, which would get everything twice.
func same(a, b copier.Target) bool {
	return a.Server == b.Server && a.Invite.Fingerprint == b.Invite.Fingerprint && slices.Equal(a.Maps, b.Maps)
}

// pick returns the i-th of list, or "".
func pick(list []string, i int) string {
	if i < len(list) {
		return list[i]
	}
	return ""
}

// isInvite tells an invite, or a piece of one, from a host and port.
func isInvite(s string) bool {
	name, rest, ok := strings.Cut(s, ":")
	version, ours := strings.CutPrefix(name, "flowtwin")
	return ok && ours && version != "" && strings.Trim(version, "0123456789") == "" && strings.Trim(rest, "0123456789") != ""
}

// invite finds the invite of t: in the file, as the argument of -s, or in the
// environment, in this order.
func (r *raw) invite(t *copier.Target, server, file string, getenv func(string) string) error {
	text, from := getenv(inviteEnv), inviteEnv
	if isInvite(server) {
		if file != "" {
			return errors.New("-s: is an invite, and --invite-file names another; give one of the two")
		}
		text, from = server, "-s"
		r.openInvite = true
	} else {
		if server != "" && !cli.IsHostPort(server) {
			return fmt.Errorf("-s: %q is not host or host:port", server)
		}
		t.Server = server
	}
	if file != "" {
		b, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("--invite-file: %w", err)
		}
		text, from = string(b), "--invite-file "+file
	}
	text = strings.TrimSpace(text)
	switch {
	case text == "" && file != "":
		return fmt.Errorf("%s: no invite, the file is empty: copy the one that the responder wrote", from)
	case text == "":
		return errors.New("no invite: give the file that the responder wrote with --invite-file, or set " + inviteEnv)
	}
	var err error
	if t.Invite, err = tunnel.ParseInvite(text); err != nil {
		return fmt.Errorf("%s: %w", from, err)
	}
	return nil
}
