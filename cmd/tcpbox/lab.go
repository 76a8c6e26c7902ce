package main

import "github.com/urfave/cli/v2"

func labCommand(streams Streams) *cli.Command { return &cli.Command{Name: "lab", Hidden: true} }
