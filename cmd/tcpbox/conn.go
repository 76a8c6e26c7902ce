package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"tcpbox"
	"tcpbox/cmd/internal/control"
	"tcpbox/stack/tcpstate"
)

// connVerbs are the commands below tcpbox conn.
var connVerbs = []struct {
	verb  tcpbox.ConnVerb
	usage string
}{
	{tcpbox.ConnRST, "reset both ends, at once"},
	{tcpbox.ConnClose, "deliver what has come, then FIN to both ends"},
	{tcpbox.ConnFreeze, "hold the bytes back between the legs"},
	{tcpbox.ConnThaw, "let them go on"},
}

func connCommand(streams Streams) *cli.Command {
	command := &cli.Command{
		Name: "conn", Usage: "reset, close, freeze or thaw a connection",
		Action: func(c *cli.Context) error {
			if !c.Args().Present() {
				_, err := io.WriteString(streams.Out, helpTexts["conn"])
				return err
			}
			word := c.Args().First()
			hint := `see "tcpbox help conn"`
			var names []string
			for _, v := range connVerbs {
				names = append(names, v.verb.String())
			}
			if near := nearest(word, names); near != "" {
				hint = fmt.Sprintf("did you mean %q?", "tcpbox conn "+near)
			}
			return usagef(hint, "tcpbox conn has no command %q", word)
		},
	}
	for _, v := range connVerbs {
		command.Subcommands = append(command.Subcommands, connVerbCommand(v.verb, v.usage, streams))
	}
	return command
}

func connVerbCommand(verb tcpbox.ConnVerb, usage string, streams Streams) *cli.Command {
	var asJSON bool
	return &cli.Command{
		Name: verb.String(), Usage: usage,
		Flags: []cli.Flag{&cli.BoolFlag{Name: "json", Destination: &asJSON}},
		Action: func(c *cli.Context) error {
			name, conn, err := connArguments(verb, c.Args().Slice())
			if err != nil {
				return err
			}
			client, err := connect(name)
			if err != nil {
				return err
			}
			done, err := client.ConnDo(c.Context, conn, verb)
			var remote *control.RemoteError
			switch {
			case errors.As(err, &remote) && remote.Status == http.StatusNotFound:
				return usagef(remote.Hint, "%v", remote)
			case err != nil || !asJSON:
				return err
			}
			return printJSON(streams.Out, done)
		},
	}
}

// connArguments reads [NAME] CONN.
func connArguments(verb tcpbox.ConnVerb, args []string) (name string, conn tcpstate.Conn, err error) {
	example := fmt.Sprintf("for example: tcpbox conn %v web 7", verb)
	if len(args) == 0 || len(args) > 2 || args[0] == "" {
		return "", 0, usagef(example, "conn %v takes a sandbox and the number of a connection", verb)
	}
	word := args[len(args)-1]
	n, err := strconv.ParseUint(strings.TrimPrefix(word, "#"), 10, 64)
	if err != nil || n == 0 {
		return "", 0, usagef(example, "%s is not the number of a connection", oneWord(word))
	}
	if len(args) == 2 {
		name = args[0]
	}
	return name, tcpstate.Conn(n), nil
}
