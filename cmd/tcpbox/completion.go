package main

import (
	"embed"
	"io"
	"strings"

	"github.com/urfave/cli/v2"
)

//go:embed completion/*
var completionFiles embed.FS

// completionScripts are what each shell is given. They know nothing of tcpbox
// but how to ask it: what can be completed is found by completeCommand, from
// the commands and help texts as they are.
var completionScripts = map[string]string{
	"bash": "completion/tcpbox.bash",
	"zsh":  "completion/tcpbox.zsh",
	"fish": "completion/tcpbox.fish",
}

func completionCommand(streams Streams) *cli.Command {
	return &cli.Command{
		Name: "completion", Usage: "print what lets a shell complete tcpbox's command lines",
		Action: func(c *cli.Context) error {
			const hint = `for example: source <(tcpbox completion bash)`
			if c.Args().Len() != 1 {
				return usagef(hint, "completion takes the name of a shell: bash, zsh or fish")
			}
			file, ok := completionScripts[c.Args().First()]
			if !ok {
				return usagef(hint, "there is no completion for %q, only for bash, zsh and fish", c.Args().First())
			}
			text, err := completionFiles.ReadFile(file)
			if err == nil {
				_, err = streams.Out.Write(text)
			}
			return err
		},
	}
}

// completeCommand is what the scripts ask. Its first line of output says what
// is completed:
//
//	words       the words that follow, one on a line, each with a tab and what it means
//	nospace     the same, with no space after them: each goes on
//	files       names of files
//	dirs        names of directories
//	command N   a command line of another program, which begins with word N,
//	            tcpbox being word 0; with --line, at byte N
//
// It is given the words of the command line up to the cursor, without
// "tcpbox", or with --line that line as it is typed.
func completeCommand(streams Streams) *cli.Command {
	return &cli.Command{
		Name: "complete", Hidden: true, SkipFlagParsing: true,
		Action: func(c *cli.Context) error {
			args := c.Args().Slice()
			var starts []int
			switch {
			case len(args) == 2 && args[0] == "--line":
				args, starts = shellWords(args[1])
				if len(args) == 0 {
					return nil
				}
				args = args[1:]
			case len(args) > 0 && args[0] == "--":
				args = args[1:]
			}
			if len(args) == 0 {
				return nil
			}
			_, err := io.WriteString(streams.Out, complete(c.App, args).text(starts))
			return err
		},
	}
}

// shellWords splits a line up to the cursor as a shell does, quotes and
// backslashes included, and says at which byte each word begins. The last word
// is the one that the cursor is at, and may be empty.
func shellWords(line string) (words []string, starts []int) {
	var word strings.Builder
	begun, escaped, quote := -1, false, byte(0)
	begin := func(at int) {
		if begun < 0 {
			begun = at
		}
	}
	for i := 0; i < len(line); i++ {
		switch ch := line[i]; {
		case escaped:
			escaped = false
			word.WriteByte(ch)
		case ch == '\\' && quote != '\'':
			begin(i)
			escaped = true
		case quote != 0:
			if ch == quote {
				quote = 0
			} else {
				word.WriteByte(ch)
			}
		case ch == '\'' || ch == '"':
			begin(i)
			quote = ch
		case ch == ' ' || ch == '\t' || ch == '\n':
			if begun >= 0 {
				words, starts = append(words, word.String()), append(starts, begun)
				word.Reset()
				begun = -1
			}
		default:
			begin(i)
			word.WriteByte(ch)
		}
	}
	begin(len(line))
	return append(words, word.String()), append(starts, begun)
}
