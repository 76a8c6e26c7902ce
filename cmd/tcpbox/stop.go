package main

import (
	"time"

	"github.com/urfave/cli/v2"

	"tcpbox/cmd/internal/control"
)

func stopCommand(streams Streams) *cli.Command {
	grace := killAfter
	var asJSON bool
	return &cli.Command{
		Name: "stop", Usage: "end a sandbox: TERM, then KILL",
		Flags: []cli.Flag{
			&cli.DurationFlag{Name: "grace", Value: killAfter, Destination: &grace},
			&cli.BoolFlag{Name: "json", Destination: &asJSON},
		},
		Action: func(c *cli.Context) error {
			// An empty name would be the only sandbox there is: no one means that.
			if c.Args().Len() != 1 || c.Args().First() == "" {
				return usagef("for example: tcpbox stop web", "stop takes one name")
			}
			if grace < 0 || grace > 10*time.Minute {
				return usagef("from 0s to 10m", "--grace %v is out of range", grace)
			}
			client, err := connect(c.Args().First())
			if err != nil {
				return err
			}
			if err := client.Stop(c.Context, grace); err != nil || !asJSON {
				return err
			}
			return printJSON(streams.Out, stopped{V: control.Version, Name: c.Args().First()})
		},
	}
}

// stopped is what stop says with --json: the sandbox has ended.
type stopped struct {
	V    int    `json:"v"`
	Name string `json:"name"`
}
