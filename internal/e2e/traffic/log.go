// Package traffic makes requests, records what servers receive, and compares two
// records. End-to-end tests, the demo and the benchmarks share it.
package traffic

import (
	"fmt"
	"slices"
	"strings"
)

// A Request is what a server received.
type Request struct {
	Method, Path string
	Bytes        int64  // of the body, or of the whole request where the server says only that
	Sum          string // of the body, "" where the server does not say
}

func (r Request) String() string {
	s := fmt.Sprintf("%s %s (%d bytes", r.Method, r.Path, r.Bytes)
	if r.Sum != "" {
		s += ", sum " + r.Sum
	}
	return s + ")"
}

// A Conversation is one connection's requests in their order.
type Conversation []Request

// A Log is what one server saw: a Conversation for each connection opened, in no
// particular order.
type Log []Conversation

// Requests returns the number of requests in l.
func (l Log) Requests() int {
	n := 0
	for _, c := range l {
		n += len(c)
	}
	return n
}

// Bytes returns the sum of the requests' bytes.
func (l Log) Bytes() (sum int64) {
	for _, c := range l {
		for _, r := range c {
			sum += r.Bytes
		}
	}
	return sum
}

// maxDifferences bounds what Compare reports: the first ones tell the most.
const maxDifferences = 20

// Compare returns how target differs from online in readable lines: none when
// the same connections brought the same requests in the same order. Connections
// are known by their first request's path, which clients make unique.
func Compare(online, target Log) []string {
	var diff []string
	if a, b := len(online), len(target); a != b {
		diff = append(diff, fmt.Sprintf("online saw %d connections, target %d", a, b))
	}
	if a, b := online.Requests(), target.Requests(); a != b {
		diff = append(diff, fmt.Sprintf("online saw %d requests, target %d", a, b))
	}
	a, b := byFirst(online), byFirst(target)
	for _, first := range sortedKeys(a, b) {
		diff = append(diff, compareNamesakes(first, a[first], b[first])...)
	}
	if more := len(diff) - maxDifferences; more > 0 {
		diff = append(diff[:maxDifferences:maxDifferences], fmt.Sprintf("… and %d more differences", more))
	}
	return diff
}

// byFirst groups conversations by the path of their first request, "" for
// connections that brought none.
func byFirst(l Log) map[string]Log {
	m := make(map[string]Log, len(l))
	for _, c := range l {
		first := ""
		if len(c) > 0 {
			first = c[0].Path
		}
		m[first] = append(m[first], c)
	}
	return m
}

func sortedKeys(ms ...map[string]Log) []string {
	var keys []string
	for _, m := range ms {
		for k := range m {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

// compareNamesakes compares the connections that began with the same path,
// usually one on each side.
func compareNamesakes(first string, online, target Log) []string {
	name := "connection of " + first
	if first == "" {
		name = "connection without requests"
	}
	var diff []string
	for i := range max(len(online), len(target)) {
		switch {
		case i >= len(target):
			diff = append(diff, fmt.Sprintf("%s: only online, with %d requests", name, len(online[i])))
		case i >= len(online):
			diff = append(diff, fmt.Sprintf("%s: only at the target, with %d requests", name, len(target[i])))
		default:
			if d := compareConversation(online[i], target[i]); d != "" {
				diff = append(diff, name+": "+d)
			}
		}
	}
	return diff
}

// compareConversation returns the first difference, or "".
func compareConversation(online, target Conversation) string {
	for i := range min(len(online), len(target)) {
		if online[i] != target[i] {
			return fmt.Sprintf("request %d of %d is %s online and %s at the target", i+1, len(online), online[i], target[i])
		}
	}
	switch a, b := len(online), len(target); {
	case a > b:
		return fmt.Sprintf("target has the first %d of %d requests, not %s", b, a, online[b])
	case a < b:
		return fmt.Sprintf("target has %d more than the %d requests online: %s", b-a, a, target[a])
	default:
		return ""
	}
}

// Describe joins differences for a test's output.
func Describe(diff []string) string { return "  " + strings.Join(diff, "\n  ") }
