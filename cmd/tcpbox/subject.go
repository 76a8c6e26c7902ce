package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"tcpbox"
	"tcpbox/cmd/internal/control"
	"tcpbox/cmd/internal/view"
	"tcpbox/stack/statelog"
)

// A subject is what ss, stat and log are about: a sandbox that runs or a recording.
type subject struct {
	client *control.Client // nil: it is a recording
	name   string          // of the sandbox
	file   string
}

// parseSubject takes [NAME|FILE] [FILTER...] apart. Without a subject it is the only
// sandbox that runs: words of filters are no names.
func parseSubject(c *cli.Context) (subject, statelog.Filter, error) {
	words := c.Args().Slice()
	word := ""
	if len(words) > 0 && !beginsFilter(words[0]) {
		word, words = words[0], words[1:]
		if word == "" {
			return subject{}, statelog.Filter{}, usagef(fmt.Sprintf("see %q", "tcpbox help "+c.Command.Name), "the name of a sandbox or a file is empty")
		}
	}
	filter, err := parseFilter(words)
	if err != nil {
		return subject{}, filter, err
	}
	s, err := findSubject(word)
	return s, filter, err
}

// beginsFilter reports whether a filter begins with word, which may be all of it.
func beginsFilter(word string) bool {
	first, _, _ := strings.Cut(strings.TrimLeft(strings.ToLower(strings.TrimSpace(word)), "(! "), " ")
	first, _, operator := cutOperator(first)
	return strings.HasPrefix(word, "(") || strings.HasPrefix(word, "!") ||
		slices.Contains(statelog.FilterWords(), first) && (operator || !exists(word))
}

// cutOperator cuts what may be written without blanks, as dport=:443.
func cutOperator(word string) (before, after string, found bool) {
	if i := strings.IndexAny(word, "=!<>"); i > 0 {
		return word[:i], word[i:], true
	}
	return word, "", false
}

func exists(file string) bool {
	_, err := os.Lstat(file)
	return err == nil
}

// findSubject finds what a word names: what has a slash is a file, and of a sandbox
// and a file of the same name it is the sandbox.
func findSubject(word string) (subject, error) {
	if strings.Contains(word, "/") && !exists(word) {
		if name, err := control.Find(word); err == nil { // a container, as NAMESPACE/POD
			word = name
		}
	}
	if word == "-" || strings.Contains(word, "/") {
		return subject{file: word}, nil
	}
	names, err := control.List()
	if err != nil && word == "" {
		return subject{}, err
	}
	switch {
	case word == "", slices.Contains(names, word):
		client, err := connect(word)
		if word == "" && len(names) == 1 {
			word = names[0]
		}
		return subject{client: client, name: word}, err
	case exists(word):
		return subject{file: word}, nil
	}
	if name, err := control.Find(word); err == nil { // the beginning of a container's identifier
		client, err := connect(name)
		return subject{client: client, name: name}, err
	}
	hint := `"tcpbox ls" lists the sandboxes; a recording is what "tcpbox run --log FILE" writes`
	if near := nearest(word, names); near != "" {
		hint = fmt.Sprintf("did you mean the sandbox %q?", near)
	} else if near := nearest(strings.ToLower(word), statelog.FilterWords()); near != "" {
		hint = fmt.Sprintf("a filter begins with a word such as %q", near)
	}
	return subject{}, usagef(hint, "there is neither a sandbox nor a file %q", word)
}

// open returns the records: of a sandbox those that opt asks for, of a recording all.
func (s subject) open(ctx context.Context, opt tcpbox.FollowOptions, streams Streams) (*recording, error) {
	if s.client == nil {
		return openRecording(s.file, streams)
	}
	body, err := s.client.Log(ctx, opt)
	if err != nil {
		return nil, err
	}
	return &recording{name: "sandbox " + s.name, live: body, errs: streams.Err}, nil
}

// from is where the records are read from.
func (r *recording) from() io.Reader {
	if r.live != nil {
		return r.live
	}
	return r.file
}

// lineStyle reads from the flags how records and rows are drawn.
func lineStyle(c *cli.Context, out *os.File) (view.Line, error) {
	line, onTerminal := forTerminal(out)
	if !onTerminal {
		line = view.Line{ASCII: !utf8Locale()}
	}
	switch color := c.String("color"); color {
	case "auto":
	case "always", "never":
		line.Color = color == "always"
	default:
		return line, usagef("it is auto, always or never", "--color %s: not a value of it", oneWord(color))
	}
	switch names := c.String("names"); names {
	case "rfc":
	case "netstat":
		line.Netstat = true
	default:
		return line, usagef("it is rfc or netstat", "--names %s: not a value of it", oneWord(names))
	}
	if c.Bool("json") && line.Netstat {
		return line, usagef("leave one of them out", "--json has states as RFC 9293 spells them, not as --names netstat")
	}
	return line, nil
}

// styleFlags are the flags that lineStyle reads.
func styleFlags() []cli.Flag {
	return []cli.Flag{
		&cli.BoolFlag{Name: "json"},
		&cli.StringFlag{Name: "color", Value: "auto"},
		&cli.StringFlag{Name: "names", Value: "rfc"},
	}
}
