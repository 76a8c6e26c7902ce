package main

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"tcpbox/cmd/internal/view"
)

// forTerminal says how records are drawn on f. It reports false if f is no
// terminal: then they are for machines.
func forTerminal(f *os.File) (line view.Line, ok bool) {
	if !isTerminal(f) {
		return line, false
	}
	if ws, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ); err == nil {
		line.Width = int(ws.Col)
	}
	// https://no-color.org: any value, but not the empty one
	line.Color = os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
	line.ASCII = !utf8Locale()
	return line, true
}

// writeScreen writes text, and before it what makes room for it on a terminal; of text
// that is higher than the terminal no more than fits, and how much is left out.
func writeScreen(out *os.File, before, text []byte) error {
	if len(before) > 0 {
		if ws, err := unix.IoctlGetWinsize(int(out.Fd()), unix.TIOCGWINSZ); err == nil {
			text = cutToHeight(text, int(ws.Row))
		}
	}
	_, err := out.Write(append(slices.Clone(before), text...))
	return err
}

// cutToHeight leaves of text what fits on so many lines, of which the cursor takes the
// last; of no height, all of it.
func cutToHeight(text []byte, height int) []byte {
	lines := bytes.SplitAfter(text, []byte("\n"))
	if n := len(lines); n > 0 && len(lines[n-1]) == 0 {
		lines = lines[:n-1]
	}
	const least = 4 // below that there is no use
	if height < least || len(lines) < height {
		return text
	}
	kept := height - 2
	cut := bytes.Join(lines[:kept], nil)
	return fmt.Appendf(cut, "%d more lines: the terminal is too low, or a filter would help\n", len(lines)-kept)
}

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// utf8Locale reports whether the terminal is said to take UTF-8: by the first
// of the three variables that is set, as setlocale(3) has it.
func utf8Locale() bool {
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if v := strings.ToLower(os.Getenv(name)); v != "" {
			return strings.Contains(v, "utf-8") || strings.Contains(v, "utf8")
		}
	}
	return false
}

// arrow stands between what was and what is, as in the log.
func arrow() string {
	if utf8Locale() {
		return "→"
	}
	return ">"
}
