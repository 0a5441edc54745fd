package cli

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/spf13/pflag"
)

// Flags are the flags of a command under headings. They are listed in the order in
// which they are added.
type Flags struct {
	*pflag.FlagSet
	groups []group
}

// group is a heading.
type group struct {
	title string
	first int // flag below it
}

// Widths of --help.
const (
	helpWidth = 100
	nameWidth = 32 // of the column with the flags' names; longer ones have a line of their own
)

// NewFlags returns the flags of a command that has none yet.
func NewFlags(name string) *Flags {
	fs := pflag.NewFlagSet(name, pflag.ContinueOnError)
	fs.SortFlags = false
	fs.Usage = func() {}
	return &Flags{FlagSet: fs}
}

// Group puts the flags that are added from now on under a heading.
func (f *Flags) Group(title string) {
	n := 0
	f.VisitAll(func(*pflag.Flag) { n++ })
	f.groups = append(f.groups, group{title, n})
}

// Below returns the names of the flags under a heading.
func (f *Flags) Below(title string) (names []string) {
	n, groups, at := 0, f.groups, ""
	f.VisitAll(func(flag *pflag.Flag) {
		for len(groups) > 0 && groups[0].first == n {
			at, groups = groups[0].title, groups[1:]
		}
		if n++; at == title {
			names = append(names, flag.Name)
		}
	})
	return names
}

// Help returns the list of the flags as --help prints it.
func (f *Flags) Help() string {
	var b strings.Builder
	n, groups := 0, f.groups
	f.VisitAll(func(flag *pflag.Flag) {
		if len(groups) > 0 && groups[0].first == n {
			fmt.Fprintf(&b, "\n%s:\n", groups[0].title)
			groups = groups[1:]
		}
		if n++; !flag.Hidden {
			writeFlag(&b, flag)
		}
	})
	return b.String()
}

// writeFlag writes a flag's lines. As in pflag, the value's name is what stands between
// backquotes; "`A|B`: text" names it without using it.
func writeFlag(b *strings.Builder, flag *pflag.Flag) {
	value, text := pflag.UnquoteUsage(flag)
	if behind, ok := strings.CutPrefix(flag.Usage, "`"+value+"`: "); ok {
		text = behind // what stands for the value is not a word of the sentence
	}
	name := "      --" + flag.Name
	if flag.Shorthand != "" {
		name = "  -" + flag.Shorthand + ", --" + flag.Name
	}
	if flag.Value.Type() != "bool" {
		name += " " + value
	}
	if d := flag.DefValue; d != "" && d != "0" && d != "0s" && d != "[]" && d != "false" {
		text += " (default " + d + ")"
	}
	indent := strings.Repeat(" ", nameWidth)
	if width := utf8.RuneCountInString(name); width > nameWidth-2 {
		b.WriteString(name + "\n" + indent)
	} else {
		b.WriteString(name + indent[width:])
	}
	for i, line := range fold(text, helpWidth-nameWidth) {
		if i > 0 {
			b.WriteString(indent)
		}
		b.WriteString(line + "\n")
	}
}

// fold breaks text into lines of at most width characters, between its words.
func fold(text string, width int) (lines []string) {
	line := ""
	for word := range strings.FieldsSeq(text) {
		switch {
		case line == "":
			line = word
		case utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) <= width:
			line += " " + word
		default:
			lines = append(lines, line)
			line = word
		}
	}
	return append(lines, line)
}
