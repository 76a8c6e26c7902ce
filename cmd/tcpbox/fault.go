package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"tcpbox/cmd/internal/control"
	"tcpbox/policy"
)

func faultCommand(streams Streams) *cli.Command {
	var asJSON bool
	flags := func() []cli.Flag { return []cli.Flag{&cli.BoolFlag{Name: "json", Destination: &asJSON}} }
	return &cli.Command{
		Name: "fault", Usage: "have packets lost, delayed, reset and more in a sandbox that runs",
		Action: func(c *cli.Context) error {
			if !c.Args().Present() {
				_, err := io.WriteString(streams.Out, helpTexts["fault"])
				return err
			}
			word := c.Args().First()
			hint := `see "tcpbox help fault"`
			if near := nearest(word, []string{"add", "rm", "ls"}); near != "" {
				hint = fmt.Sprintf("did you mean %q?", "tcpbox fault "+near)
			}
			return usagef(hint, "tcpbox fault has no command %q", word)
		},
		Subcommands: []*cli.Command{
			{Name: "add", Usage: "add faults behind those that there are", Flags: flags(), Action: func(c *cli.Context) error {
				return addFaults(c, asJSON, streams.Out)
			}},
			{Name: "rm", Usage: "take faults away", Flags: flags(), Action: func(c *cli.Context) error {
				return removeFaults(c, asJSON, streams.Out)
			}},
			{Name: "ls", Usage: "list the faults and what they have done", Flags: flags(), Action: func(c *cli.Context) error {
				return listFaults(c, asJSON, streams.Out)
			}},
		},
	}
}

// addFaults is tcpbox fault add [NAME] RULE...
func addFaults(c *cli.Context, asJSON bool, w io.Writer) error {
	name, rules, err := faultArguments(c.Args().Slice())
	if err != nil {
		return err
	}
	client, err := connect(name)
	if err != nil {
		return err
	}
	added, err := client.AddFaults(c.Context, rules...)
	if err != nil {
		return err
	}
	if asJSON {
		return printJSON(w, added)
	}
	for _, f := range added.Faults {
		if _, err := fmt.Fprintf(w, "%d: %s\n", f.ID, f.Rule); err != nil {
			return err
		}
	}
	return nil
}

// faultArguments takes the name of the sandbox, which may be left out, from the
// rules: it is the first word if that is no rule.
func faultArguments(args []string) (name string, rules []policy.Fault, err error) {
	if len(args) > 0 {
		if _, wrong := policy.ParseFault(args[0]); wrong != nil && len(args) > 1 && !strings.Contains(args[0], " ") {
			name, args = args[0], args[1:]
			if name == "" {
				return "", nil, usagef(`"tcpbox ls" lists the sandboxes`, "a name is empty")
			}
		}
	}
	if len(args) == 0 {
		return "", nil, usagef(`for example: tcpbox fault add NAME "loss 5%"`, "there is nothing to add")
	}
	var errs []error
	for _, text := range args {
		f, err := policy.ParseFault(text)
		if err != nil {
			errs = append(errs, usagef(hintOf(err), "%s", strip(err.Error())))
			continue
		}
		rules = append(rules, f)
	}
	return name, rules, errors.Join(errs...)
}

// removeFaults is tcpbox fault rm [NAME] ID...|all.
func removeFaults(c *cli.Context, asJSON bool, w io.Writer) error {
	args := c.Args().Slice()
	var name string
	var ids []int
	all := false
	for i, arg := range args {
		id, err := strconv.Atoi(arg)
		switch {
		case arg == "all":
			all = true
		case err == nil && id > 0:
			ids = append(ids, id)
		case i == 0 && len(args) > 1:
			name = arg
		default:
			return usagef(`"tcpbox fault ls" shows the numbers`, "%s is not the number of a fault", oneWord(arg))
		}
	}
	if !all && len(ids) == 0 || all && len(ids) > 0 {
		return usagef("for example: tcpbox fault rm NAME 1", "fault rm takes the numbers of faults, or all")
	}
	client, err := connect(name)
	if err != nil {
		return err
	}
	if all {
		now, err := client.Faults(c.Context)
		if err != nil {
			return err
		}
		for _, f := range now.Faults {
			ids = append(ids, f.ID)
		}
	}
	gone := control.FaultsAnswer{V: control.Version, Faults: []control.Fault{}}
	var errs []error
	for _, id := range ids {
		one, err := client.RemoveFault(c.Context, id)
		var remote *control.RemoteError
		if errors.As(err, &remote) && remote.Status == http.StatusNotFound {
			if err = usagef(remote.Hint, "%v", remote); all {
				continue // somebody else was quicker
			}
		}
		errs = append(errs, err)
		gone.Faults = append(gone.Faults, one.Faults...)
	}
	if asJSON {
		errs = append(errs, printJSON(w, gone))
	}
	return errors.Join(errs...)
}

// listFaults is tcpbox fault ls [NAME].
func listFaults(c *cli.Context, asJSON bool, w io.Writer) error {
	if c.Args().Len() > 1 {
		return usagef(`see "tcpbox help fault"`, "fault ls takes one sandbox")
	}
	client, err := connect(c.Args().First())
	if err != nil {
		return err
	}
	now, err := client.Faults(c.Context)
	if err != nil {
		return err
	}
	if asJSON {
		return printJSON(w, now)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "ID\tMATCHED\tACTED\tHELD\tFAULT")
	for _, f := range now.Faults {
		fmt.Fprintf(t, "%d\t%d\t%d\t%d\t%s\n", f.ID, f.Matched, f.Acted, f.Held, f.Rule)
	}
	return t.Flush()
}
