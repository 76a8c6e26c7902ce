package main

import (
	"github.com/urfave/cli/v2"

	"tcpbox/cmd/internal/manual"
)

func manCommand(streams Streams) *cli.Command {
	return &cli.Command{
		Name: "man", Usage: "print the manual page",
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return usagef(`for example: tcpbox man | man -l -`, "man takes no argument, such as %q", c.Args().First())
			}
			return manualPage(c.App).WriteRoff(streams.Out)
		},
	}
}

// manualPage is made of the help texts of all commands that are shown.
func manualPage(app *cli.App) manual.Page {
	page := manual.Page{Version: version, Date: buildDate(), Tagline: app.Usage, Main: manual.Parse(helpTexts["tcpbox"])}
	for _, name := range commandNames(app) {
		page.Commands = append(page.Commands, manual.Command{Name: name, Text: manual.Parse(helpTexts[name])})
	}
	return page
}
