package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/creack/pty"
)

// A consoleBlock is a block of a document that begins with "```console": commands after
// "$ ", each with what it prints on a terminal of 120 columns.
type consoleBlock struct {
	line    int      // of the first command, from 1
	words   []string // what stands behind "console"
	console []command
}

type command struct {
	text   string
	output string // whole lines
}

// TestDocumentsTellTheTruth runs the commands of the README and of docs, and
// compares what they print. Blocks marked "network" need a host to talk to; the
// package integration runs those.
func TestDocumentsTellTheTruth(t *testing.T) {
	needSandbox(t)
	docs, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range append([]string{"../../README.md"}, docs...) {
		t.Run(filepath.Base(name), func(t *testing.T) {
			text, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			for _, b := range consoleBlocks(string(text)) {
				if !slices.Contains(b.words, "network") {
					t.Run(fmt.Sprintf("line %d", b.line), func(t *testing.T) { b.check(t, dir) })
				}
			}
		})
	}
}

// needSandbox skips the test where no sandbox can be made, and fails it where
// CI=true promises one.
func needSandbox(t *testing.T) {
	t.Helper()
	switch {
	case canSandbox():
	case os.Getenv("CI") == "true":
		t.Fatal("no sandbox can be made here, though CI=true promises it")
	default:
		t.Skip("no sandbox can be made here")
	}
}

// needProgram does the same for a program that is not of tcpbox.
func needProgram(t *testing.T, name string) {
	t.Helper()
	switch _, err := exec.LookPath(name); {
	case err == nil:
	case os.Getenv("CI") == "true":
		t.Fatal(err)
	default:
		t.Skip(err)
	}
}

// TestReadmeHasItsExamples keeps the test above from passing because it finds
// nothing to run.
func TestReadmeHasItsExamples(t *testing.T) {
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	commands := 0
	for _, b := range consoleBlocks(string(text)) {
		commands += len(b.console)
	}
	if commands < 10 {
		t.Errorf("found %d commands in the README, want at least 10", commands)
	}
}

func consoleBlocks(text string) []consoleBlock {
	var blocks []consoleBlock
	var b *consoleBlock
	number := 0
	for line := range strings.Lines(text) {
		number++
		switch prompt, isCommand := strings.CutPrefix(line, "$ "); {
		case b == nil:
			if words := strings.Fields(line); len(words) > 0 && words[0] == "```console" {
				b = &consoleBlock{line: number + 1, words: words[1:]}
			}
		case strings.HasPrefix(line, "```"):
			blocks = append(blocks, *b)
			b = nil
		case isCommand:
			b.console = append(b.console, command{text: strings.TrimSpace(prompt)})
		case len(b.console) > 0:
			b.console[len(b.console)-1].output += line
		}
	}
	return blocks
}

// check runs the commands one after the other, as in one shell.
func (b *consoleBlock) check(t *testing.T, dir string) {
	status := 0
	for _, c := range b.console {
		text := strings.Replace(c.text, "go run ./cmd/tcpbox", "tcpbox", 1)
		if rest, asRoot := strings.CutPrefix(text, "sudo "); asRoot {
			if os.Geteuid() != 0 {
				t.Skipf("needs root: %s", c.text)
			}
			text = rest
		}
		if slices.Contains(strings.Fields(text), "bash") {
			needProgram(t, "bash")
		}
		var got string
		got, status = onTerminal(t, dir, fmt.Sprintf("(exit %d); %s", status, text))
		if got, want := inAnyOrder(got), inAnyOrder(c.output); got != want {
			t.Errorf("%s\nprints, in whatever order:\n%s\nwant:\n%s", c.text, got, want)
		}
	}
}

// onTerminal runs a line of shell on a terminal of its own.
func onTerminal(t *testing.T, dir, line string) (output string, status int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sh", "-c", line)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "TERM=dumb", "HOME="+dir)
	terminal, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 40, Cols: 120})
	if err != nil {
		t.Fatal(err)
	}
	defer terminal.Close()
	var out bytes.Buffer
	// EIO says that nobody has the terminal open any more.
	if _, err := io.Copy(&out, terminal); err != nil && !errors.Is(err, syscall.EIO) {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return strings.ReplaceAll(out.String(), "\r\n", "\n"), cmd.ProcessState.ExitCode()
}

// differingForPeople is what else differs from run to run on a terminal.
var differingForPeople = []struct {
	is  *regexp.Regexp
	put string
}{
	{regexp.MustCompile(`, of [^,]+\[\d+\]`), ""},                           // which a short connection may not live for
	{regexp.MustCompile(`( guest .*)(?:close\(\)|call)   `), "${1}close()"}, // only the kernel tells which
	{regexp.MustCompile(`(?m)^\d\d:\d\d:\d\d\.\d{3} `), "TIME "},
	{regexp.MustCompile(`\s+\d[\d.hm]*(ns|µs|ms|s|m) (got |timer |policy |[a-z]+\(\))`), " AGE $2"},
	{regexp.MustCompile(` :\d+ → `), " :PORT → "},
}

// inAnyOrder returns text without what differs from run to run. The lines are
// sorted: a guest and a log that write to one terminal do so in any order.
func inAnyOrder(text string) string {
	for _, d := range differing {
		text = d.is.ReplaceAllString(text, d.put)
	}
	for _, d := range differingForPeople {
		text = d.is.ReplaceAllString(text, d.put)
	}
	lines := slices.Collect(strings.Lines(text))
	slices.Sort(lines)
	return strings.Join(lines, "")
}
