package main

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/urfave/cli/v2"
)

// Streams are what a command reads and writes. Results go to Out, everything
// else to Err; while a guest runs, In and Out are the guest's.
type Streams struct {
	In, Out, Err *os.File
}

// Main runs one command line and returns the exit status.
func Main(args []string, io Streams) int {
	app := newApp(io)
	return report(io.Err, app.Run(flagsFirst(app, args)))
}

func newApp(streams Streams) *cli.App {
	app := &cli.App{
		Name:                  "tcpbox",
		Usage:                 "run programs in a network sandbox",
		CustomAppHelpTemplate: helpText("tcpbox"),
		HideVersion:           true,
		HideHelp:              true,
		Writer:                streams.Out,
		ErrWriter:             streams.Err,
		ExitErrHandler:        func(*cli.Context, error) {}, // report does it
		OnUsageError:          onUsageError(""),
		Action:                noCommand,
		Commands: []*cli.Command{
			runCommand(streams),
			attachCommand(streams),
			lsCommand(streams),
			inspectCommand(streams),
			execCommand(streams),
			stopCommand(streams),
			setCommand(streams),
			faultCommand(streams),
			publishCommand(streams),
			unpublishCommand(streams),
			ssCommand(streams),
			logCommand(streams),
			statCommand(streams),
			ladderCommand(streams),
			connCommand(streams),
			configCommand(streams),
			explainCommand(streams),
			labCommand(streams),
			cniCommand(streams),
			diffCommand(streams),
			doctorCommand(streams),
			getCommand(streams),
			completionCommand(streams),
			completeCommand(streams),
			manCommand(streams),
			versionCommand(streams),
			helpCommand(streams),
		},
	}
	for _, c := range app.Commands {
		settle(c, c.Name)
	}
	return app
}

// settle gives a command, and the commands below it, the help of the one that
// is called name.
func settle(c *cli.Command, name string) {
	c.OnUsageError = onUsageError(name)
	c.HideHelp = true
	c.CustomHelpTemplate = helpText(name)
	for _, sub := range c.Subcommands {
		settle(sub, name)
	}
}

// noCommand is what happens when the first word is no command.
func noCommand(c *cli.Context) error {
	if !c.Args().Present() {
		return cli.ShowAppHelp(c)
	}
	word := c.Args().First()
	hint := `see "tcpbox help"`
	if near := nearest(word, commandNames(c.App)); near != "" {
		hint = fmt.Sprintf("did you mean %q?", "tcpbox "+near)
	}
	return usagef(hint, "there is no command %q", word)
}

func commandNames(app *cli.App) (names []string) {
	for _, c := range app.Commands {
		if !c.Hidden {
			names = append(names, c.Name)
		}
	}
	return names
}

// onUsageError returns what turns a complaint of the flag parser into ours, for
// the command called name, or for tcpbox itself if that is empty. To ask for
// help is such a complaint too.
func onUsageError(name string) cli.OnUsageErrorFunc {
	return func(c *cli.Context, err error, _ bool) error {
		if errors.Is(err, flag.ErrHelp) {
			text := helpTexts[cmp.Or(name, "tcpbox")]
			_, err := io.WriteString(c.App.Writer, text)
			return err
		}
		return flagComplaint(c, name, err.Error())
	}
}

func flagComplaint(c *cli.Context, command, text string) error {
	hint := fmt.Sprintf("see %q", strings.TrimSpace("tcpbox help "+command))
	if name, ok := strings.CutPrefix(text, "flag provided but not defined: -"); ok {
		known := []string{"help"}
		for _, f := range c.Command.Flags {
			known = append(known, f.Names()...)
		}
		name = strings.TrimLeft(name, "-")
		switch near := nearest(name, known); {
		case near != "":
			hint = fmt.Sprintf("did you mean %s?", dashed(near))
		case command == "" && nearest(name, commandNames(c.App)) != "":
			hint = fmt.Sprintf("did you mean %q?", "tcpbox "+nearest(name, commandNames(c.App)))
		}
		return usagef(hint, "there is no flag %s", oneWord(dashed(name)))
	}
	if name, ok := strings.CutPrefix(text, "flag needs an argument: -"); ok {
		return usagef(hint, "%s needs a value", dashed(strings.TrimLeft(name, "-")))
	}
	if rest, ok := strings.CutPrefix(text, "invalid boolean value "); ok {
		value, name, _ := strings.Cut(strings.TrimSuffix(rest, ": parse error"), " for -")
		return usagef("leave the value out", "%s is there or not: it takes no value, such as %s", dashed(name), value)
	}
	if rest, ok := strings.CutPrefix(text, "invalid value "); ok {
		value, rest, _ := strings.Cut(rest, " for flag -")
		name, _, _ := strings.Cut(rest, ": ")
		return usagef(hint, "%s %s: not a value of it", dashed(name), value)
	}
	if word, ok := strings.CutPrefix(text, "bad flag syntax: "); ok {
		return usagef(hint, "%q is not a flag", word)
	}
	return usagef(hint, "%s", text)
}

// dashed writes the name of a flag as it is typed.
func dashed(name string) string {
	if len(name) == 1 {
		return "-" + name
	}
	return "--" + name
}

// oneWord quotes what would not read as one word, or not be seen.
func oneWord(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsGraphic(r) || unicode.IsSpace(r) }) || !utf8.ValidString(s) {
		return strconv.Quote(s)
	}
	return s
}

func helpCommand(streams Streams) *cli.Command {
	return &cli.Command{
		Name: "help", Usage: "show the help of a command",
		Action: func(c *cli.Context) error {
			if c.Args().Len() > 1 {
				return usagef("for example: tcpbox help run", "help takes one command")
			}
			name := "tcpbox"
			if c.Args().Present() {
				name = c.Args().First()
			}
			text, ok := helpTexts[name]
			if !ok {
				hint := `see "tcpbox help"`
				if near := nearest(name, commandNames(c.App)); near != "" {
					hint = fmt.Sprintf("did you mean %q?", "tcpbox help "+near)
				}
				return usagef(hint, "there is no help on %q", name)
			}
			_, err := io.WriteString(streams.Out, text)
			return err
		},
	}
}
