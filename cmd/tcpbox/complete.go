package main

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"tcpbox/cmd/internal/control"
	"tcpbox/cmd/internal/lab"
	"tcpbox/cmd/internal/manual"
	"tcpbox/policy"
	"tcpbox/policy/document"
	"tcpbox/policy/knob"
	"tcpbox/stack/peer"
	"tcpbox/stack/tcpstate"
)

// candidate is a word that may stand at the cursor.
type candidate struct{ word, means string }

// completion is what may stand at the cursor: words, or if there are none what
// kind says (see completeCommand).
type completion struct {
	kind  string
	from  int // of kind "command": the word that it begins with
	words []candidate
}

// text is the answer to a script. starts are where the words begin, if the
// script needs to know.
func (c completion) text(starts []int) string {
	switch {
	case c.kind == "command" && starts != nil:
		return fmt.Sprintf("command %d\n", starts[c.from])
	case c.kind == "command":
		return fmt.Sprintf("command %d\n", c.from)
	case c.kind != "":
		return c.kind + "\n"
	}
	var b strings.Builder
	b.WriteString("words\n")
	for i, w := range c.words {
		if i == 0 && goesOn(w.word) {
			b.Reset()
			b.WriteString("nospace\n")
		}
		fmt.Fprintf(&b, "%s\t%s\n", w.word, w.means)
	}
	return b.String()
}

// goesOn says whether a word is only the beginning of what stands there.
func goesOn(word string) bool { return strings.HasSuffix(word, "=") || strings.HasPrefix(word, "@") }

// complete says what may stand at the last of words, which follow "tcpbox".
func complete(app *cli.App, words []string) completion {
	last := words[len(words)-1]
	if len(words) == 1 {
		return beginning(last, append(commandWords(app.Commands), candidate{"--help", "show the help"}))
	}
	cmd := app.Command(words[0])
	if cmd == nil || cmd.Hidden {
		return completion{}
	}
	path, at := cmd.Name, 1
	text := manual.Parse(helpTexts[cmd.Name])
	if subs := commandWords(cmd.Subcommands); len(subs) > 0 {
		if len(words) == 2 {
			return beginning(last, append(subs, flagWords(cmd, text, path)...))
		}
		i := slices.IndexFunc(cmd.Subcommands, func(c *cli.Command) bool { return c.Name == words[1] && !c.Hidden })
		if i < 0 {
			return completion{}
		}
		cmd, path, at = cmd.Subcommands[i], path+" "+words[1], 2
	}
	return completeArguments(cmd, text, path, words, at)
}

// completeArguments goes on behind a command's name.
func completeArguments(cmd *cli.Command, text manual.Text, path string, words []string, at int) completion {
	flags := text.Flags()
	last := words[len(words)-1]
	arguments := text.Arguments(path)
	var given []string // the arguments before the last word
	flagsEnd := false
	for i := at; i < len(words); i++ {
		word, isLast := words[i], i == len(words)-1
		switch {
		case word == "--" && !isLast && (!flagsEnd || path == "exec" && words[i-1] == given[0]):
			flagsEnd = true
		case !flagsEnd && strings.HasPrefix(word, "-") && (len(word) > 1 || isLast):
			name, value, hasValue := strings.Cut(word, "=")
			f, known := findFlag(flags, name)
			switch {
			case isLast && !hasValue:
				return beginning(last, flagWords(cmd, text, path))
			case isLast && known:
				return flagValue(f, value).after(name + "=")
			case isLast:
				return completion{}
			case known && f.Value != "" && !hasValue:
				if i++; i == len(words)-1 {
					return flagValue(f, words[i])
				}
			}
		case len(given) < len(arguments) && arguments[len(given)] == "COMMAND" && path != "help":
			return completion{kind: "command", from: i + 1}
		case !isLast:
			given = append(given, word)
			flagsEnd = flagsEnd || !cmd.SkipFlagParsing && !slices.Contains(flagsAnywhere, path) // flags come before arguments
		}
	}
	switch {
	case len(given) > 0 && slices.Contains([]string{"ss", "log", "stat"}, path):
		return filterWords(given[1:], last)
	case path == "set" && (len(given) > 0 || strings.Contains(last, "=")):
		return beginning(last, changeable(last))
	case path == "explain" && len(given) == 0, path == "get" && len(given) == 1:
		return beginning(last, knobKeys())
	}
	if len(given) >= len(arguments) {
		return completion{}
	}
	return argument(path, arguments[len(given)], last)
}

func findFlag(flags []manual.Flag, name string) (manual.Flag, bool) {
	for _, f := range flags {
		for _, n := range f.Names {
			if strings.TrimLeft(n, "-") == strings.TrimLeft(name, "-") {
				return f, true
			}
		}
	}
	return manual.Flag{}, false
}

// flagWords are the flags of a command: those that it has and those that its
// help text has, each once and by its long name.
func flagWords(cmd *cli.Command, text manual.Text, path string) (words []candidate) {
	for _, f := range text.Flags() {
		if !cmd.SkipFlagParsing && !hasFlag(cmd, f) || cmd.SkipFlagParsing && !usedBy(text, path, f) {
			continue
		}
		words = append(words, candidate{f.Names[len(f.Names)-1], gist(f.Text)})
	}
	return append(words, candidate{"--help", "show the help"})
}

// gist is the first part of a text, and of that no more than fits beside a word.
func gist(text string) string {
	for _, end := range []string{". ", "; ", " ("} {
		text, _, _ = strings.Cut(text, end)
	}
	const most = 60
	if len(text) > most {
		text = text[:strings.LastIndexByte(text[:most], ' ')+1] + "…"
	}
	return text
}

func hasFlag(cmd *cli.Command, f manual.Flag) bool {
	return slices.ContainsFunc(cmd.Flags, func(has cli.Flag) bool {
		return slices.Contains(has.Names(), strings.TrimLeft(f.Names[0], "-"))
	})
}

// usedBy says whether the usage of a command that reads its flags itself names
// the flag.
func usedBy(text manual.Text, path string, f manual.Flag) bool {
	return slices.ContainsFunc(text.Usage, func(line string) bool {
		return strings.HasPrefix(line+" ", "tcpbox "+path+" ") && strings.Contains(line, f.Names[len(f.Names)-1])
	})
}

func commandWords(cmds []*cli.Command) (words []candidate) {
	for _, c := range cmds {
		if !c.Hidden {
			words = append(words, candidate{c.Name, c.Usage})
		}
	}
	return words
}

// beginning keeps the candidates that begin with a prefix.
func beginning(prefix string, all []candidate) completion {
	var c completion
	for _, w := range all {
		if strings.HasPrefix(w.word, prefix) {
			c.words = append(c.words, w)
		}
	}
	return c
}

// after puts what stands before the value of a flag in the same word before
// each candidate.
func (c completion) after(prefix string) completion {
	for i := range c.words {
		c.words[i].word = prefix + c.words[i].word
	}
	return c
}

// flagValue completes the value of a flag. Most of what it may be is in the help
// text.
func flagValue(f manual.Flag, value string) completion {
	switch f.Names[len(f.Names)-1] {
	case "--tcp":
		return beginning(value, settings(value))
	case "-a", "-b": // of diff: a list of settings, or a file
		done := value[:strings.LastIndexByte(value, ',')+1]
		if c := beginning(value[len(done):], settings(value[len(done):])).after(done); len(c.words) > 0 || done != "" {
			return c
		}
		return completion{kind: "files"}
	case "--peer":
		name, _, ok := strings.Cut(value, "=")
		if !ok || name == "" {
			return completion{}
		}
		var all []candidate
		for _, k := range peer.Kinds() {
			all = append(all, candidate{name + "=" + k.String(), ""})
		}
		return beginning(value, all)
	case "--env":
		var all []candidate
		for _, e := range os.Environ() {
			name, _, _ := strings.Cut(e, "=")
			all = append(all, candidate{name, ""})
		}
		return beginning(value, all)
	}
	if f.Names[len(f.Names)-1] == "--fault" {
		return beginning(value, faultActions())
	}
	if f.Value == "RULE" {
		return beginning(value, []candidate{
			{"@public", "the public Internet"},
			{"@private", "private addresses"},
			{"@host", "the host's own addresses"},
			{"@metadata", "cloud metadata"},
		})
	}
	return placeholder(f.Value, value)
}

// faultActions are the words that a fault begins with.
func faultActions() (all []candidate) {
	for _, word := range policy.FaultActions() {
		all = append(all, candidate{word, ""})
	}
	return all
}

// settings are the knobs, for every leg and for each that can carry them, and
// the words that a knob takes.
func settings(value string) (all []candidate) {
	for _, d := range knob.Table() {
		keys := []string{d.Key}
		for _, leg := range []tcpstate.Leg{tcpstate.Guest, tcpstate.Stack, tcpstate.Upstream} {
			if d.Leg(leg).Carries {
				keys = append(keys, leg.String()+"."+d.Key)
			}
		}
		for _, k := range keys {
			if !strings.HasPrefix(value, k+"=") {
				all = append(all, candidate{k + "=", gist(d.Does)})
				continue
			}
			for _, w := range d.Words {
				all = append(all, candidate{k + "=" + w, ""})
			}
		}
	}
	return all
}

// changeable are what "tcpbox set" can change by a word.
func changeable(value string) []candidate {
	all := settings(value)
	if strings.HasPrefix(value, "net=") {
		for _, net := range []string{"none", "public", "all"} {
			all = append(all, candidate{"net=" + net, ""})
		}
	} else {
		all = append(all, candidate{"net=", "what holds when no rule matches"})
	}
	for _, l := range document.LimitKeys {
		all = append(all, candidate{"limits." + l.Name + "=", gist(l.Does)})
	}
	return all
}

func knobKeys() (all []candidate) {
	for _, d := range knob.Table() {
		all = append(all, candidate{d.Key, gist(d.Does)})
	}
	return all
}

// argument completes an argument of a command.
func argument(path, name, value string) completion {
	switch {
	case path == "help" && name == "COMMAND":
		var all []candidate
		for topic := range helpTexts {
			all = append(all, candidate{topic, ""})
		}
		slices.SortFunc(all, func(a, b candidate) int { return strings.Compare(a.word, b.word) })
		return beginning(value, all)
	case strings.HasPrefix(path, "lab ") && name == "NAME":
		var all []candidate
		for _, l := range lab.Labs() {
			all = append(all, candidate{l.Name, l.Title})
		}
		return beginning(value, all)
	case name == "NAME":
		return sandboxes(value)
	case path == "fault add":
		return beginning(value, faultActions())
	}
	return placeholder(name, value)
}

// sandboxes are the names of those that run.
func sandboxes(value string) completion {
	names, err := control.List()
	if err != nil {
		return completion{}
	}
	var all []candidate
	for _, n := range names {
		all = append(all, candidate{n, ""})
	}
	return beginning(value, all)
}

// placeholder completes what a help text names: a FILE, a DIR, or one of a few
// words.
func placeholder(name, value string) completion {
	for part := range strings.SplitSeq(name, "|") {
		switch {
		case part == "FILE" || strings.HasSuffix(part, "PATH"):
			return completion{kind: "files"}
		case part == "DIR":
			return completion{kind: "dirs"}
		}
	}
	var all []candidate
	for _, w := range manual.Choices(name) {
		all = append(all, candidate{w, ""})
	}
	return beginning(value, all)
}
