package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"tcpbox/cmd/internal/lab"
)

// labCommand is tcpbox lab. Its last subcommands are not for people: they are the
// guest of a lab's sandbox, and its host.
func labCommand(streams Streams) *cli.Command {
	c := &cli.Command{
		Name:  "lab",
		Usage: "reproduce a TCP problem, with a verdict",
		Action: func(c *cli.Context) error {
			if !c.Args().Present() {
				_, err := io.WriteString(streams.Out, helpTexts["lab"])
				return err
			}
			return unknownVerb(c.Args().First())
		},
		Subcommands: []*cli.Command{
			{Name: "ls", Action: func(c *cli.Context) error { return labList(c.Args().Slice(), streams) }},
			{Name: "show", Action: func(c *cli.Context) error { return labShow(c.Args().Slice(), streams) }},
			{Name: "run", Action: func(c *cli.Context) error { return labRun(c.Args().Slice(), streams) }},
			{Name: "guest", Hidden: true, Action: func(*cli.Context) error { return lab.ServeGuest(streams.In, streams.Out) }},
			{Name: "host", Hidden: true, Action: func(*cli.Context) error { return lab.ServeHost(streams.In, streams.Out, streams.Err) }},
		},
	}
	for _, sub := range c.Subcommands {
		sub.SkipFlagParsing = true // labArgs takes flags before and after the name
		sub.HideHelp = true
		sub.HideHelpCommand = true
	}
	return c
}

var labVerbs = []string{"ls", "show", "run"}

func unknownVerb(word string) error {
	hint := `see "tcpbox help lab"`
	if near := nearest(word, labVerbs); near != "" {
		hint = fmt.Sprintf("did you mean %q?", "tcpbox lab "+near)
	}
	return usagef(hint, "tcpbox lab has no command %q", word)
}

func labList(args []string, streams Streams) error {
	a, err := parseLabArgs("ls", args)
	switch {
	case err != nil:
		return err
	case a.help:
		_, err := io.WriteString(streams.Out, helpTexts["lab"])
		return err
	case len(a.names) > 0:
		return usagef("for example: tcpbox lab ls", "tcpbox lab ls takes no arguments")
	}
	return lab.WriteList(streams.Out, lab.Labs())
}

func labShow(args []string, streams Streams) error {
	a, err := parseLabArgs("show", args)
	if err != nil {
		return err
	}
	if a.help {
		_, err := io.WriteString(streams.Out, helpTexts["lab"])
		return err
	}
	l, err := a.one("show", lab.Labs())
	if err != nil {
		return err
	}
	if a.json {
		return l.WriteJSON(streams.Out)
	}
	return l.Show(streams.Out, labStyle(streams.Out))
}

// interrupted says that a signal ended a lab before its verdict.
type interrupted struct{ by syscall.Signal }

func (e *interrupted) Error() string {
	return fmt.Sprintf("the lab was ended before its verdict: %v", e.by)
}

// untilSignal ends a context by the first signal that is to end a lab, with an
// *interrupted as its cause.
func untilSignal(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	signals := make(chan os.Signal, 1)
	notifyUnignored(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		select {
		case s := <-signals:
			cancel(&interrupted{s.(syscall.Signal)}) //nolint:forcetypeassert // on Linux every signal is one
		case <-ctx.Done():
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		cancel(nil)
	}
}

// labError is what the error of a lab's runner comes to. That a signal ended it
// is told here.
func labError(err error, told io.Writer) error {
	if page, ok := errors.AsType[*reportError](err); ok {
		return page.error
	}
	if cut, ok := errors.AsType[*interrupted](err); ok {
		fmt.Fprintf(told, "tcpbox: %v\n", cut)
		return exitStatus(128 + int(cut.by)) // as a shell has it
	}
	return &cannotRun{err}
}

// cannotRun is a failure to make a lab's sandboxes.
type cannotRun struct{ err error }

func (e *cannotRun) Error() string { return "the lab cannot run here: " + textOf(e.err) }

func (e *cannotRun) Unwrap() error { return e.err }

// labStyle is how to print on a file: on a terminal, as wide as that is.
func labStyle(f *os.File) lab.Style {
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return lab.Style{}
	}
	return lab.Style{Width: int(size.Col), Color: os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"}
}
