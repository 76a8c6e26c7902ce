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
	"time"

	"github.com/creack/pty"
)

// asked is what completes a line: the kind and the words of the answer.
func asked(t *testing.T, line string) (kind string, words []string) {
	t.Helper()
	all, starts := shellWords(line)
	out := complete(newApp(Streams{}), all[1:]).text(starts)
	for i, l := range strings.Split(strings.TrimSuffix(out, "\n"), "\n") {
		if i == 0 {
			kind = l
			continue
		}
		word, _, ok := strings.Cut(l, "\t")
		if !ok {
			t.Errorf("%q: a line without a tab: %q", line, l)
		}
		words = append(words, word)
	}
	return kind, words
}

func TestComplete(t *testing.T) {
	tests := []struct {
		line  string
		kind  string
		words string // all of them; "…" for some more
	}{
		// Commands, of those that are shown.
		{"tcpbox ve", "words", "version"},
		{"tcpbox d", "words", "diff doctor"},
		{"tcpbox do", "words", "doctor"},
		{"tcpbox comp", "words", "completion"},
		{"tcpbox lab ", "words", "ls show run --help"},
		{"tcpbox lab gu", "words", ""},
		{"tcpbox conn ", "words", "rst close freeze thaw --help"},
		{"tcpbox conn fr", "words", "freeze"},
		{"tcpbox fault ", "words", "add rm ls --help"},
		{"tcpbox fault ls --", "words", "--json --help"},
		{"tcpbox fault add box de", "words", "delay"},
		{"tcpbox run --fault re", "words", "reorder replay"},
		{"tcpbox conn thaw --", "words", "--json --help"},
		{"tcpbox nonsense ", "words", ""},
		{"tcpbox complete ", "words", ""},
		{"tcpbox doctor pr", "words", ""},

		// Flags.
		{"tcpbox run --ne", "words", "--net"},
		{"tcpbox run --net none --ke", "words", "--keep-fd"},
		{"tcpbox run -q --ke", "words", "--keep-fd"},
		{"tcpbox run -w / --ke", "words", "--keep-fd"},
		{"tcpbox run --net=none --ke", "words", "--keep-fd"},
		{"tcpbox doctor --", "words", "--json --help"},
		{"tcpbox version -", "words", "--json --help"},
		{"tcpbox completion -", "words", "--help"},
		{"tcpbox lab run --", "words", "--all --explain --json --report --scale --client --server --set --help"},
		{"tcpbox lab run time-wait-exhaustion --", "words", "--all --explain --json --report --scale --client --server --set --help"},
		{"tcpbox lab run time-wait-exhaustion --report ", "files", ""},
		{"tcpbox lab ls --", "words", "--help"},

		// Values.
		{"tcpbox run --net ", "words", "none public all"},
		{"tcpbox run --net=p", "words", "--net=public"},
		{"tcpbox run --net pr", "words", ""},
		{"tcpbox run --nonsense=", "words", ""},
		{"tcpbox run --allow ", "nospace", "@public @private @host @metadata"},
		{"tcpbox run --deny @p", "nospace", "@public @private"},
		{"tcpbox run --dns n", "words", ""},
		{"tcpbox run --peer web", "words", ""},
		{"tcpbox run --peer web=h", "words", "web=http web=holder"},
		{"tcpbox run --peer=web=ec", "words", "--peer=web=echo"},
		{"tcpbox run --tcp syn-b", "nospace", "syn-backlog="},
		{"tcpbox run --tcp upstream.", "nospace", "upstream.fin-timeout= …"},
		{"tcpbox run --tcp stack.fin-t", "nospace", "stack.fin-timeout="},
		{"tcpbox run --tcp time-wait.reuse=", "words", "time-wait.reuse=off time-wait.reuse=loopback time-wait.reuse=on"},
		{"tcpbox run --tcp fin-timeout=", "words", ""},
		{"tcpbox run --log ", "files", ""},
		{"tcpbox run --log=st", "files", ""},
		{"tcpbox run -w ", "dirs", ""},
		{"tcpbox run --mtu ", "words", ""},

		// Arguments.
		{"tcpbox publish --a", "words", "--accept-from"},
		{"tcpbox completion ", "words", "bash zsh fish"},
		{"tcpbox completion bash ", "words", ""},
		{"tcpbox help do", "words", "doctor"},
		{"tcpbox lab run ", "words", "time-wait-exhaustion …"},
		{"tcpbox lab show time-wait-e", "words", "time-wait-exhaustion …"},
		{"tcpbox lab show --json time-wait-e", "words", "time-wait-exhaustion …"},
		{"tcpbox get ", "words", ""},
		{"tcpbox get web fin-t", "words", "fin-timeout"},
		{"tcpbox explain pending.", "words", "pending.max pending.per-destination pending.per-source"},
		{"tcpbox set web stack.fin-t", "nospace", "stack.fin-timeout="},
		{"tcpbox set web fin-timeout=5s net=", "words", "net=none net=public net=all"},
		{"tcpbox set web limits.c", "nospace", "limits.connections="},
		{"tcpbox set time-wait.reuse=l", "words", "time-wait.reuse=loopback"},
		{"tcpbox set web --js", "words", "--json"},
		{"tcpbox stop web st", "words", ""},
		{"tcpbox exec -", "words", "--env --workdir --tty --no-tty --help"},
		{"tcpbox exec -w ", "dirs", ""},
		{"tcpbox exec no-such-sandbox", "words", ""},

		// Two settings.
		{"tcpbox diff --pa", "words", "--parallel"},
		{"tcpbox diff -a guest.fin", "nospace", "guest.fin-timeout="},
		{"tcpbox diff -a fin-timeout=5s,guest.fin", "nospace", "fin-timeout=5s,guest.fin-timeout="},
		{"tcpbox diff -a box.y", "files", ""},
		{"tcpbox diff -a fin-timeout=5s -b fin-timeout=9s cu", "command 48", ""},

		// Filters.
		{"tcpbox log ", "files", ""},
		{"tcpbox log -", "words", "--follow --since --until --json --names --color --help"},
		{"tcpbox log --names ", "words", "rfc netstat"},
		{"tcpbox log --color=a", "words", "--color=auto --color=always"},
		{"tcpbox log f.jsonl ex", "words", "exclude"},
		{"tcpbox log f.jsonl --js", "words", "--json"},
		{"tcpbox log --json f.jsonl state t", "words", "time-wait"},
		{"tcpbox log f.jsonl state != t", "words", "time-wait"},
		{"tcpbox log f.jsonl leg ", "words", "guest stack upstream"},
		{"tcpbox log f.jsonl leg stack an", "words", "and"},
		{"tcpbox log f.jsonl dport ", "words", ""},
		{"tcpbox stat f.jsonl from sync", "words", "synchronized"},
		{"tcpbox stat ", "files", ""},
		{"tcpbox stat f.jsonl not stat", "words", "state"},

		// Another program's command line.
		{"tcpbox run ", "command 11", ""},
		{"tcpbox run --net none cu", "command 22", ""},
		{"tcpbox run -- cu", "command 14", ""},
		{"tcpbox run -- curl --he", "command 14", ""},
		{`tcpbox run -e "A=b c" -- curl --he`, "command 25", ""},
		{"tcpbox exec web cu", "command 16", ""},
		{"tcpbox exec web -- cu", "command 19", ""},
		{"tcpbox exec -e A=b web -- sh -c ", "command 26", ""},
		{"tcpbox run --root --keep-fd 3 -- sh -c ", "command 33", ""},
	}
	for _, tt := range tests {
		kind, words := asked(t, tt.line)
		want, more := strings.CutSuffix(tt.words, " …")
		wantWords := strings.Fields(want)
		if kind != tt.kind || !slices.Equal(words, wantWords) && !(more && len(words) >= len(wantWords) && slices.Equal(words[:len(wantWords)], wantWords)) {
			t.Errorf("%q: %s %q, want %s %q", tt.line, kind, words, tt.kind, tt.words)
		}
	}
}

// TestEveryFlagIsKnown finds flags that a help text does not have, and the
// reverse: they would not be completed, nor stand in the manual.
func TestEveryFlagIsKnown(t *testing.T) {
	app := newApp(Streams{})
	for _, cmd := range app.Commands {
		if cmd.Hidden || cmd.SkipFlagParsing || len(commandWords(cmd.Subcommands)) > 0 {
			continue
		}
		has := map[string]bool{}
		for _, f := range cmd.Flags {
			for _, n := range f.Names() {
				has[dashed(n)] = true
			}
		}
		_, words := asked(t, "tcpbox "+cmd.Name+" -")
		for name := range has {
			if len(name) > 2 && !slices.Contains(words, name) {
				t.Errorf("tcpbox %s %s is not completed: has help/%s.txt a table with it?", cmd.Name, name, cmd.Name)
			}
		}
	}
}

func TestShellWords(t *testing.T) {
	for line, want := range map[string]string{
		"":                   `[""] [0]`,
		"a":                  `["a"] [0]`,
		"a ":                 `["a" ""] [0 2]`,
		"a  b":               `["a" "b"] [0 3]`,
		`a "b c`:             `["a" "b c"] [0 2]`,
		`a "b c" d`:          `["a" "b c" "d"] [0 2 8]`,
		`a 'b\' ''`:          `["a" "b\\" ""] [0 2 7]`,
		`a b\ c`:             `["a" "b c"] [0 2]`,
		`a "\"" \`:           `["a" "\"" ""] [0 2 7]`,
		"a\tb\n":             `["a" "b" ""] [0 2 4]`,
		"a --net=none --x=é": `["a" "--net=none" "--x=é"] [0 2 13]`,
	} {
		words, starts := shellWords(line)
		if got := fmt.Sprintf("%q %v", words, starts); got != want {
			t.Errorf("shellWords(%q) = %s, want %s", line, got, want)
		}
	}
}

// FuzzComplete completes whatever stands on a line.
func FuzzComplete(f *testing.F) {
	for _, s := range []string{"tcpbox run --tcp guest.", "tcpbox lab run ", "tcpbox help '", `tcpbox run -e "A=b`, "tcpbox run -- a b", "x", "tcpbox -", "tcpbox run --peer =", "tcpbox run -=", "tcpbox run --"} {
		f.Add(s)
	}
	app := newApp(Streams{})
	f.Fuzz(func(t *testing.T, line string) {
		words, starts := shellWords(line)
		if len(words) == 0 || len(words) != len(starts) || !slices.IsSorted(starts) {
			t.Fatalf("shellWords(%q) = %q, %v", line, words, starts)
		}
		if len(words) > 1 {
			c := complete(app, words[1:])
			for _, w := range c.words {
				if !strings.HasPrefix(w.word, words[len(words)-1]) {
					t.Errorf("%q: %q does not begin with the word at the cursor", line, w.word)
				}
			}
			if c.text(starts) == "" {
				t.Errorf("%q: no answer", line)
			}
		}
	})
}

// shell returns the path of a shell, or skips the test.
func shell(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	return path
}

// TestCompletionInBash calls the function as bash does, which splits the line
// at the characters of COMP_WORDBREAKS, too.
func TestCompletionInBash(t *testing.T) {
	bash := shell(t, "bash")
	const driver = `
source <(tcpbox completion bash)
compopt() { :; }
while IFS= read -r COMP_LINE; do
	COMP_POINT=${#COMP_LINE} COMP_WORDS=() COMP_CWORD=0
	spaced=$(sed 's/[=:@]/ & /g' <<<"$COMP_LINE.")
	read -ra COMP_WORDS <<<"$spaced"
	COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
	COMP_WORDS[COMP_CWORD]=${COMP_WORDS[COMP_CWORD]%.}
	_tcpbox tcpbox
	echo "$COMP_LINE|${COMPREPLY[*]}"
done
`
	tests := []struct{ line, want string }{
		{"tcpbox ver", "version"},
		{"tcpbox run --net ", "none public all"},
		{"tcpbox run --net=", "none public all"},
		{"tcpbox run --net=p", "public"},
		{"tcpbox run --tcp guest.fin-t", "guest.fin-timeout="},
		{"tcpbox run --tcp=time-wait.reuse=", "off loopback on"},
		{"tcpbox run --peer web=ho", "holder"},
		{"tcpbox run --allow @m", "@metadata"},
		{"tcpbox run --allow @", "@public @private @host @metadata"},
		{"tcpbox lab run time-wait-ex", "time-wait-exhaustion"},
		{"tcpbox completion ", "bash zsh fish"},
		{"tcpbox run --log ", ""},
		{"tcpbox run -- tcpbo", "tcpbox"},
		{"tcpbox run --net=none --allow @host:80 -- tcpbo", "tcpbox"},
		{"tcpbox nonsense ", ""},
	}
	var lines, want strings.Builder
	for _, tt := range tests {
		lines.WriteString(tt.line + "\n")
		want.WriteString(tt.line + "|" + tt.want + "\n")
	}
	cmd := exec.CommandContext(t.Context(), bash, "--norc", "-c", driver)
	cmd.Stdin = strings.NewReader(lines.String())
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil || errs.Len() > 0 {
		t.Fatalf("%v: %s", err, errs.String())
	}
	if string(out) != want.String() {
		t.Errorf("got:\n%s\nwant:\n%s", out, want.String())
	}
}

// typed are lines that are typed with a tab at their end, and what then stands
// there. They hold for every shell.
var typed = []struct{ line, want string }{
	{"tcpbox vers", "tcpbox version "},
	{"tcpbox run --ke", "tcpbox run --keep-fd "},
	{"tcpbox run --net pub", "tcpbox run --net public "},
	{"tcpbox run --net=pub", "tcpbox run --net=public "},
	{"tcpbox run --tcp=stack.fin-t", "tcpbox run --tcp=stack.fin-timeout="},
	{"tcpbox run --tcp time-wait.reuse=lo", "tcpbox run --tcp time-wait.reuse=loopback "},
	{"tcpbox run --allow @met", "tcpbox run --allow @metadata"},
	{"tcpbox run --peer web=ech", "tcpbox run --peer web=echo "},
	{"tcpbox run --log onlyf", "tcpbox run --log onlyfile "},
	{"tcpbox run -w onlyd", "tcpbox run -w onlydir/"},
	{"tcpbox run -- zzunique", "tcpbox run -- zzuniquecommand "},
	{"tcpbox run --net=none zzunique", "tcpbox run --net=none zzuniquecommand "},
	{"tcpbox run -- zzuniquecommand onlyf", "tcpbox run -- zzuniquecommand onlyfile "},
}

// TestCompletionTyped types into each shell on a terminal.
func TestCompletionTyped(t *testing.T) {
	for _, sh := range []struct {
		name  string
		args  []string
		setup string
	}{
		{"bash", []string{"--norc", "--noprofile", "-i"}, "bind 'set enable-bracketed-paste off'; source <(tcpbox completion bash)"},
		{"bash", []string{"--norc", "--noprofile", "-i"}, "bind 'set enable-bracketed-paste off'; source /usr/share/bash-completion/bash_completion; source <(tcpbox completion bash)"},
		{"zsh", []string{"-f", "-i"}, "unsetopt zle_bracketed_paste; autoload -Uz compinit; compinit -u -D; source <(tcpbox completion zsh)"},
	} {
		t.Run(sh.name, func(t *testing.T) {
			path := shell(t, sh.name)
			if strings.Contains(sh.setup, "bash_completion") {
				if _, err := os.Stat("/usr/share/bash-completion/bash_completion"); err != nil {
					t.Skip(err)
				}
			}
			dir := typingPlace(t)
			cmd := exec.CommandContext(t.Context(), path, sh.args...)
			cmd.Dir = dir
			cmd.Env = []string{"PATH=" + dir + "/bin:" + os.Getenv("PATH"), "HOME=" + dir, "TERM=dumb", "PS1=$ ", "LC_ALL=C.UTF-8"}
			term := newTerminal(t, cmd)
			term.send(sh.setup + "; echo rea''dy\r")
			term.wait("ready\r\n")
			for i, tt := range typed {
				// The mark is typed behind what the tab has made of the line, and
				// the whole is then an argument of echo.
				mark := fmt.Sprintf("MARK%d", i)
				term.send(tt.line + "\t" + mark + "\x01printf '<%s> ' \x05\r")
				got := strings.TrimSuffix(term.wait(mark+"> "), "> ")
				got = regexp.MustCompile(`> <`).ReplaceAllString(got[strings.LastIndex(got, "<tcpbox>")+1:], " ")
				if got = strings.TrimSuffix(got, mark); got != tt.want {
					t.Errorf("%q: %q, want %q", tt.line, got, tt.want)
				}
			}
		})
	}
}

// TestCompletionInFish asks fish, which completes a line without a terminal.
func TestCompletionInFish(t *testing.T) {
	fish := shell(t, "fish")
	dir := typingPlace(t)
	for _, tt := range typed {
		cmd := exec.CommandContext(t.Context(), fish, "--no-config", "-c", `tcpbox completion fish | source; complete -C $argv[1]`, tt.line)
		cmd.Dir = dir
		cmd.Env = []string{"PATH=" + dir + "/bin:" + os.Getenv("PATH"), "HOME=" + dir, "LC_ALL=C.UTF-8"}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%q: %v: %s", tt.line, err, out)
		}
		word := tt.want[strings.LastIndexByte(strings.TrimSpace(tt.want), ' ')+1:]
		got, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\t")
		if got != strings.TrimSpace(word) {
			t.Errorf("%q: %q, want %q", tt.line, out, word)
		}
	}
}

// typingPlace is a directory with a file, a directory and a command, each with
// a name that nothing else has.
func typingPlace(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	err := errors.Join(
		os.WriteFile(filepath.Join(dir, "onlyfile"), nil, 0o644),
		os.Mkdir(filepath.Join(dir, "onlydir"), 0o755),
		os.Mkdir(filepath.Join(dir, "bin"), 0o755),
		os.WriteFile(filepath.Join(dir, "bin", "zzuniquecommand"), []byte("#!/bin/sh\n"), 0o755),
	)
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// terminal is a program on a terminal of its own.
type terminal struct {
	t    *testing.T
	file *os.File
	out  chan []byte
	seen string
}

func newTerminal(t *testing.T, cmd *exec.Cmd) *terminal {
	t.Helper()
	file, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 50, Cols: 500})
	if err != nil {
		t.Fatal(err)
	}
	term := &terminal{t: t, file: file, out: make(chan []byte)}
	stop := make(chan struct{})
	go func() {
		defer close(term.out)
		for {
			buf := make([]byte, 4096)
			n, err := file.Read(buf)
			if n > 0 {
				select {
				case term.out <- buf[:n]:
				case <-stop:
					return
				}
			}
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		close(stop)
		_ = cmd.Process.Signal(syscall.SIGKILL)
		_ = cmd.Wait()
		_ = file.Close()
	})
	return term
}

func (term *terminal) send(text string) {
	term.t.Helper()
	if _, err := io.WriteString(term.file, text); err != nil {
		term.t.Fatal(err)
	}
}

// wait returns what came up to a text.
func (term *terminal) wait(text string) string {
	term.t.Helper()
	patience := time.After(time.Minute)
	for {
		if before, after, ok := strings.Cut(term.seen, text); ok {
			term.seen = after
			return before + text
		}
		select {
		case b, ok := <-term.out:
			if !ok {
				term.t.Fatalf("the shell ended; it said %q", term.seen)
			}
			term.seen += string(b)
		case <-patience:
			term.t.Fatalf("%q never came; what came is %q", text, term.seen)
		}
	}
}
