//go:build netns

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"flowtwin/internal/testnet"
)

// cookbook is the document that the tests of the recipes run.
const cookbook = "../../docs/recipes.md"

// A recipe is a section of the cookbook with something to run.
type recipe struct {
	title string
	files map[string]string // by host:name
	steps []step
}

// A step is a command behind a prompt.
type step struct {
	host, command string
	shows         []string // what the document shows below it
}

var prompt = regexp.MustCompile(`^([a-z]+[0-9]?)[#$] (.+)$`)

// readCookbook returns the recipes. In a block without a name each line is a
// command or what it prints; one whose name ends in host:name is that file.
func readCookbook(t *testing.T) []*recipe {
	t.Helper()
	text, err := os.ReadFile(cookbook)
	if err != nil {
		t.Fatal(err)
	}
	var all []*recipe
	r := &recipe{}
	inside, file := false, ""
	for line := range strings.Lines(string(text)) {
		line = strings.TrimRight(line, "\n")
		name, fence := strings.CutPrefix(line, "```")
		switch {
		case fence:
			_, file, _ = strings.Cut(name, " ")
			inside = !inside
		case strings.HasPrefix(line, "## "):
			r = &recipe{title: line[3:], files: make(map[string]string)}
			all = append(all, r)
		case !inside:
		case file != "":
			r.files[file] += line + "\n"
		default:
			r.read(t, line)
		}
	}
	return all
}

// read takes a line of a block of commands.
func (r *recipe) read(t *testing.T, line string) {
	t.Helper()
	if m := prompt.FindStringSubmatch(line); m != nil {
		r.steps = append(r.steps, step{host: m[1], command: m[2]})
		return
	}
	if len(r.steps) == 0 {
		t.Fatalf("%s: %s: %q is below no command", cookbook, r.title, line)
	}
	last := &r.steps[len(r.steps)-1]
	last.shows = append(last.shows, line)
}

// has says whether the recipe says something of a host.
func (r *recipe) has(host string) bool {
	for _, s := range r.steps {
		if s.host == host {
			return true
		}
	}
	return false
}

// figures are what may differ from one run to the next: numbers with their units, and
// digests.
var figures = regexp.MustCompile(`\b[0-9a-f]{40}\b|[0-9][0-9.,]*(\s?([nµm]?s|[kMG]?B)\b)?`)

// shape reduces a line to what must be the same in each run.
func shape(line string) string {
	return strings.Join(strings.Fields(figures.ReplaceAllString(line, "#")), " ")
}

// shown returns the lines of want whose shape, in this order, is not in what was
// printed. A line with … holds pieces that are in one printed line in their order.
func shown(want []string, printed string) []string {
	lines := strings.Split(printed, "\n")
	var missing []string
	for _, w := range want {
		found := false
		for i, l := range lines {
			if found = looksLike(shape(l), shape(w)); found {
				lines = lines[i+1:]
				break
			}
		}
		if !found {
			missing = append(missing, w)
		}
	}
	return missing
}

func looksLike(line, want string) bool {
	pieces := strings.Split(want, "…")
	if len(pieces) == 1 {
		return line == want
	}
	for _, p := range pieces {
		p = strings.TrimSpace(p)
		i := strings.Index(line, p)
		if i < 0 {
			return false
		}
		line = line[i+len(p):]
	}
	return true
}

// A flag that a recipe speaks of must exist.
func TestRecipesNameFlagsThatExist(t *testing.T) {
	text, err := os.ReadFile(cookbook)
	if err != nil {
		t.Fatal(err)
	}
	testnet.RequireRoot(t)                                            // TestMain builds nothing for others
	known := "--bind --protected-mode --save --enable-debug-command " // redis'
	for _, name := range []string{"copier", "responder"} {
		help, err := exec.Command(filepath.Join(binaries, name), "--help").CombinedOutput()
		if err != nil {
			t.Fatal(err)
		}
		known += string(help)
	}
	for _, flag := range regexp.MustCompile(`--[a-z][a-z-]+`).FindAllString(string(text), -1) {
		if !regexp.MustCompile(regexp.QuoteMeta(flag) + `\b`).MatchString(known) {
			t.Errorf("%s speaks of %s, which no program has", cookbook, flag)
		}
	}
}

// The comparison of the document with what was printed must see what is missing.
func TestShownLines(t *testing.T) {
	printed := "copied 100.00 %\nin 15.7s\n  seen    3,629\n  lag 1.57ms / 12ms  online\n rtt:41.2/2.6 x minrtt:38.1 y\n"
	for _, tt := range []struct {
		want    string
		missing int
	}{
		{"copied 99.1 %\n seen 12\n lag 3µs / 1s online", 0},
		{"seen 1\ncopied 100 %", 1}, // the order counts
		{"admitted 12", 1},
		{"… rtt:1/2 … minrtt:3 …", 0},
		{"… minrtt:1 … rtt:3 …", 1},
	} {
		if got := shown(strings.Split(tt.want, "\n"), printed); len(got) != tt.missing {
			t.Errorf("of %q missing %q, want %d", tt.want, got, tt.missing)
		}
	}
	if s := shape("established   12,000  of 3 connections"); s != "established # of # connections" {
		t.Errorf("shape is %q", s)
	}
}
