package cli

import (
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// A Bar is a line at the bottom of a terminal that is drawn again and again; log
// lines are written through it and stand above. Safe for several goroutines.
type Bar struct {
	w     io.Writer
	width int // of the terminal

	mu   sync.Mutex
	line string // mu; what is drawn now
}

// clearLine goes to the beginning of a terminal's line and clears it.
const clearLine = "\r\x1b[K"

// TerminalBar returns a bar on f, or nil if that is no terminal.
func TerminalBar(f *os.File) *Bar {
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return nil
	}
	width := int(size.Col)
	if width == 0 {
		width = 80
	}
	return &Bar{w: f, width: width}
}

// Logger returns a logger that writes above the bar.
func (b *Bar) Logger(jsonFormat bool) *slog.Logger { return slog.New(handler(jsonFormat, b)) }

// Draw replaces the bar's line; "" takes it away.
func (b *Bar) Draw(line string) {
	if r := []rune(line); len(r) >= b.width {
		line = string(r[:b.width-1]) // a full one would wrap
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if line != b.line {
		b.line = line
		_, _ = io.WriteString(b.w, clearLine+line)
	}
}

// Write implements io.Writer.
func (b *Bar) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var s strings.Builder
	if b.line != "" {
		s.WriteString(clearLine)
	}
	s.Write(p)
	s.WriteString(b.line)
	if _, err := io.WriteString(b.w, s.String()); err != nil {
		return 0, err
	}
	return len(p), nil
}
