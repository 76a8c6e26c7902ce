package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"tcpbox/cmd/internal/doctor"
)

// doctorOptions lets the doctor execute this program again, to try things in
// namespaces.
var doctorOptions = doctor.Options{Probe: []string{"tcpbox", "doctor", "probe"}, Ready: roomForABox}

func doctorCommand(streams Streams) *cli.Command {
	return &cli.Command{
		Name: "doctor", Usage: "say what works on this machine, and what to do about the rest",
		Flags:           []cli.Flag{&cli.BoolFlag{Name: "json"}},
		HideHelpCommand: true,
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return usagef(`for example: tcpbox doctor`, "doctor takes no argument, such as %q", c.Args().First())
			}
			return runDoctor(c.Bool("json"), streams)
		},
		Subcommands: []*cli.Command{{
			Name: "probe", Hidden: true, HideHelpCommand: true,
			Action: func(c *cli.Context) error {
				return doctor.Probe(doctorOptions, c.Args().Slice(), streams.Out)
			},
		}},
	}
}

// runDoctor examines the machine: 0 if tcpbox run works here, 1 if not.
func runDoctor(asJSON bool, streams Streams) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	report := doctor.Examine(ctx, doctorOptions)
	if ctx.Err() != nil {
		return exitStatus(128 + int(syscall.SIGINT))
	}
	var err error
	if asJSON {
		err = report.WriteJSON(streams.Out)
	} else {
		err = report.WriteText(streams.Out, doctorStyle(streams.Out))
	}
	if err == nil && !report.Run.Works {
		err = exitStatus(1)
	}
	return err
}

// doctorStyle is how to print on a file: on a terminal, as wide as that is.
func doctorStyle(f *os.File) doctor.Style {
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return doctor.Style{}
	}
	return doctor.Style{Width: int(size.Col), Color: os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"}
}
