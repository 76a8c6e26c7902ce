package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"tcpbox/cmd/internal/lab"
)

// labArgs are the arguments of tcpbox lab ls, show and run.
type labArgs struct {
	names                           []string
	json, help, all, explain, scale bool
	client, server                  []string // words of a command
	set                             []lab.Setting
	hasClient, hasServer            bool
	report                          string // a file, or with all a directory
}

// labFlags are the flags of each verb; those with "=" take a value.
var labFlags = map[string][]string{
	"ls":   {"--help"},
	"show": {"--json", "--help"},
	"run":  {"--all", "--json", "--explain", "--scale", "--client=", "--server=", "--set=", "--report=", "--help"},
}

func parseLabArgs(verb string, args []string) (a labArgs, err error) {
	for i := 0; i < len(args); i++ {
		arg := args[i]
		word := strings.TrimLeft(arg, "-")
		if word == arg || word == "" {
			a.names = append(a.names, arg)
			continue
		}
		name, value, given := strings.Cut(word, "=")
		if name == "h" {
			name = "help"
		}
		takes := slices.Contains(labFlags[verb], "--"+name+"=")
		switch {
		case !takes && (!slices.Contains(labFlags[verb], "--"+name) || given):
			return a, noLabFlag(verb, word)
		case takes && !given:
			if i++; i == len(args) {
				return a, usagef(`see "tcpbox help lab"`, "--%s needs a value", name)
			}
			value = args[i]
		}
		if err := a.flag(name, value); err != nil {
			return a, err
		}
	}
	return a, nil
}

func noLabFlag(verb, word string) error {
	name, _, _ := strings.Cut(word, "=")
	hint := `see "tcpbox help lab"`
	var known []string
	for _, f := range labFlags[verb] {
		known = append(known, strings.Trim(f, "-="))
	}
	if near := nearest(name, known); near != "" {
		hint = fmt.Sprintf("did you mean --%s?", near)
	}
	return usagef(hint, "there is no flag %s", oneWord(dashed(word)))
}

// flag takes a flag that there is.
func (a *labArgs) flag(name, value string) (err error) {
	switch name {
	case "json":
		a.json = true
	case "help":
		a.help = true
	case "all":
		a.all = true
	case "explain":
		a.explain = true
	case "scale":
		a.scale = true
	case "client":
		a.hasClient = true
		a.client, err = commandWord("--client", value)
	case "server":
		a.hasServer = true
		a.server, err = commandWord("--server", value)
	case "report":
		if a.report = value; value == "" {
			return usagef("for example: --report report.html", "--report: the name of the file is empty")
		}
	case "set":
		a.set = append(a.set, lab.Setting(value))
	}
	return err
}

// commandWord reads the command of a flag, as a shell would split it into words.
func commandWord(flag, text string) ([]string, error) {
	words, err := splitWords(text)
	if err != nil || len(words) == 0 {
		return nil, usagef(fmt.Sprintf("for example: %s 'curl -s http://server/'", flag), "%s %s is not a command", flag, oneWord(text))
	}
	if _, err := exec.LookPath(words[0]); err != nil {
		if strings.Contains(words[0], "/") {
			if _, statErr := os.Stat(words[0]); statErr == nil {
				return nil, usagef("make it executable with chmod +x", "%s: %s cannot be executed", flag, oneWord(words[0]))
			}
		}
		return nil, usagef("give its path, or have it in PATH", "%s: there is no program %s", flag, oneWord(words[0]))
	}
	if strings.Contains(words[0], "/") {
		abs, err := filepath.Abs(words[0])
		if err != nil {
			return nil, err
		}
		words[0] = abs
	}
	return words, nil
}

// splitWords splits a text at blanks that are not quoted, as sh(1) does; nothing
// else of a shell has a meaning.
func splitWords(text string) (words []string, err error) {
	var word strings.Builder
	inWord, quote := false, rune(0)
	escaped := false
	for _, r := range text {
		switch {
		case escaped:
			word.WriteRune(r)
			escaped = false
		case r == '\\' && quote != '\'':
			escaped, inWord = true, true
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(r)
		case r == '\'' || r == '"':
			quote, inWord = r, true
		case r == ' ' || r == '\t' || r == '\n':
			if inWord {
				words = append(words, word.String())
				word.Reset()
			}
			inWord = false
		default:
			word.WriteRune(r)
			inWord = true
		}
	}
	if quote != 0 || escaped {
		return nil, errors.New("a quote is not closed")
	}
	if inWord {
		words = append(words, word.String())
	}
	return words, nil
}

// labs are the labs that the arguments name, as they are to be run.
func (a labArgs) labs(verb string) (labs []*lab.Lab, err error) {
	all := lab.Labs()
	if a.scale {
		all = lab.Scaled()
	}
	switch {
	case a.all && len(a.names) > 0:
		return nil, usagef("for example: tcpbox lab run --all", "with --all no lab is named")
	case a.all:
		for i := range all {
			labs = append(labs, &all[i])
		}
	default:
		l, err := a.one(verb, all)
		if err != nil {
			return nil, err
		}
		labs = append(labs, l)
	}
	if a.hasClient && a.hasServer || (a.hasClient || a.hasServer) && (a.all || a.scale) {
		return nil, usagef("for example: tcpbox lab run time-wait-exhaustion --client 'curl -s http://server/'",
			"--client and --server are for one lab, and each stands alone")
	}
	for i, l := range labs {
		if labs[i], err = a.changed(l); err != nil {
			return nil, err
		}
	}
	return labs, nil
}

// changed is a lab with what the flags change in it.
func (a labArgs) changed(l *lab.Lab) (_ *lab.Lab, err error) {
	name := l.Name
	switch {
	case a.hasClient:
		l, err = l.ForClient(a.client)
	case a.hasServer:
		l, err = l.ForServer(a.server)
	}
	if err == nil && len(a.set) > 0 {
		l, err = l.With(a.set)
	}
	if err != nil {
		var all []error
		for _, e := range flatten(err) {
			all = append(all, usagef(cmp.Or(hintOf(e), `see "tcpbox lab show `+name+`"`), "%s", textOf(e)))
		}
		return nil, errors.Join(all...)
	}
	return l, nil
}

// one is the lab that is named: one of those that there are, or a file.
func (a labArgs) one(verb string, all []lab.Lab) (*lab.Lab, error) {
	if len(a.names) != 1 {
		return nil, usagef(fmt.Sprintf("for example: tcpbox lab %s %s", verb, lab.Labs()[0].Name), "tcpbox lab %s takes the name of one lab", verb)
	}
	name := a.names[0]
	if strings.Contains(name, "/") || slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(name)) {
		return labFile(name)
	}
	var known []string
	for i := range all {
		if all[i].Name == name {
			return &all[i], nil
		}
		known = append(known, all[i].Name)
	}
	if _, there := lab.Find(name); there && a.scale {
		return nil, usagef("those that have one: "+strings.Join(known, ", "), "%s has no larger scale", name)
	}
	hint := `see "tcpbox lab ls"`
	if near := nearest(name, known); near != "" {
		hint = fmt.Sprintf("did you mean %q?", near)
	}
	return nil, usagef(hint, "there is no lab %q", name)
}

// readLab reads the file of a lab, or as much of it as Parse finds too much. It
// does not wait for ever for a FIFO that nobody writes to.
func readLab(name string) ([]byte, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readInTime(f, policyPatience)
}

// labFile reads a lab from a file.
func labFile(name string) (*lab.Lab, error) {
	text, err := readLab(name)
	if err != nil {
		return nil, usagef(`see "tcpbox lab ls" for the labs that there are`, "cannot read the lab: %s", textOf(err))
	}
	l, err := lab.Parse(name, text)
	if err == nil {
		return l, nil
	}
	var all []error
	for _, fault := range flatten(err) {
		all = append(all, usagef("docs/labs/writing.md says how a lab is written", "%s", textOf(fault)))
	}
	return nil, errors.Join(all...)
}
