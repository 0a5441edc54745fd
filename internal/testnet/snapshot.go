package testnet

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// A Snapshot is what a host's network configuration consists of, as sorted lines
// that begin with the section they are from.
type Snapshot []string

// Snapshot returns the namespace's links, addresses, routes, rules, nft ruleset
// and IP sysctls.
func (n *NS) Snapshot() (Snapshot, error) {
	var s Snapshot
	for section, command := range map[string]string{
		"link":  "ip -br link",
		"addr":  "ip -o addr",
		"route": "ip -o route show table all",
		"rule":  "ip rule",
		"6rout": "ip -6 -o route show table all",
		"6rule": "ip -6 rule",
		"nft":   "nft list ruleset",
		"iptab": "iptables-save",
	} {
		args := strings.Fields(command)
		if _, err := exec.LookPath(args[0]); err != nil {
			continue // what is not installed has not been used
		}
		out, err := n.Output(args[0], args[1:]...)
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(out) {
			if line = steady(line); line != "" {
				s = append(s, section+": "+line)
			}
		}
	}
	var err error
	n.Do(func() { s, err = appendSysctls(s) })
	slices.Sort(s)
	return s, err
}

// volatile matches what changes by itself: lifetimes, and the time in the
// comments of iptables-save.
var volatile = regexp.MustCompile(`(valid_lft|preferred_lft|expires) \w+|^#.*`)

func steady(line string) string {
	return strings.Join(strings.Fields(volatile.ReplaceAllString(line, "")), " ")
}

func appendSysctls(s Snapshot) (Snapshot, error) {
	for _, root := range []string{"/proc/sys/net/ipv4", "/proc/sys/net/ipv6"} {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			value, err := os.ReadFile(path)
			if err != nil {
				// Some can only be written, some only be read once they were set.
				return nil // said above
			}
			key := strings.ReplaceAll(strings.TrimPrefix(path, "/proc/sys/"), "/", ".")
			s = append(s, fmt.Sprintf("sysctl: %s = %s", key, steady(string(value))))
			return nil
		})
		if err != nil {
			return s, err
		}
	}
	return s, nil
}

// Diff returns the lines that differ from an earlier snapshot: those gone after
// a "-", the new ones after a "+".
func (s Snapshot) Diff(earlier Snapshot) []string {
	count := make(map[string]int)
	for _, line := range s {
		count[line]++
	}
	for _, line := range earlier {
		count[line]--
	}
	var diff []string
	for _, line := range slices.Sorted(maps.Keys(count)) {
		switch {
		case count[line] > 0:
			diff = append(diff, "+ "+line)
		case count[line] < 0:
			diff = append(diff, "- "+line)
		}
	}
	return diff
}
