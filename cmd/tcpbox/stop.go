package main

import (
	"time"

	"github.com/urfave/cli/v2"
)

func stopCommand(Streams) *cli.Command {
	grace := killAfter
	return &cli.Command{
		Name: "stop", Usage: "end a sandbox: TERM, then KILL",
		Flags: []cli.Flag{&cli.DurationFlag{Name: "grace", Value: killAfter, Destination: &grace}},
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
			return client.Stop(c.Context, grace)
		},
	}
}
