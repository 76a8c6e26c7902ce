package main

import (
	"os"
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
