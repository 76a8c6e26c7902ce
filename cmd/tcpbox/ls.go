package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"tcpbox"
	"tcpbox/cmd/internal/control"
)

func lsCommand(streams Streams) *cli.Command {
	var asJSON bool
	return &cli.Command{
		Name: "ls", Usage: "list the sandboxes that run",
		Flags: []cli.Flag{&cli.BoolFlag{Name: "json", Destination: &asJSON}},
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return usagef(`see "tcpbox help ls"`, "ls takes no argument")
			}
			infos, err := inspectAll(c.Context, streams.Err)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(streams.Out, struct {
					V         int           `json:"v"`
					Sandboxes []tcpbox.Info `json:"sandboxes"`
				}{control.Version, infos})
			}
			return listSandboxes(streams.Out, infos, time.Now())
		},
	}
}

// inspectAll asks every live sandbox. One that is about to begin, or ends
// meanwhile, is left out; one that lives and does not answer is told on w.
func inspectAll(ctx context.Context, w io.Writer) ([]tcpbox.Info, error) {
	names, err := control.List()
	if err != nil {
		return nil, err
	}
	infos := []tcpbox.Info{}
	for _, name := range names {
		client, err := control.Connect(name)
		if err != nil {
			continue
		}
		in, err := client.Inspect(ctx)
		if err != nil {
			if !errors.Is(err, control.ErrEnded) && !errors.Is(err, control.ErrUnready) {
				fmt.Fprintf(w, "tcpbox: warning: %s\n", oneLine(strip(err.Error())))
			}
			continue
		}
		infos = append(infos, in)
	}
	return infos, nil
}

func listSandboxes(w io.Writer, infos []tcpbox.Info, now time.Time) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "NAME\tPID\tUP\tOPEN\tREFUSED\tPOLICY\tCOMMAND")
	for _, in := range infos {
		fmt.Fprintf(t, "%s\t%d\t%s\t%d\t%d\t%s\t%s\n", in.Name, in.PID, up(now.Sub(in.Started)),
			in.Stats.Open, in.Stats.Refused, policyInShort(in.Policy), whatRuns(in))
	}
	return t.Flush()
}

// up is how long something has lasted, in two units.
func up(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 24*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd%02dh", int(d.Hours())/24, int(d.Hours())%24)
}

// policyInShort is what decides when no rule matches, and how many rules there
// are.
func policyInShort(lines []string) string {
	if len(lines) == 0 {
		return ""
	}
	short := strings.TrimPrefix(lines[len(lines)-1], "net ")
	if n := len(lines) - 1; n > 0 {
		short += fmt.Sprintf("+%d", n)
	}
	return short
}

// commandInShort is a command on one line of a table. It is whatever the guest
// was called with, so it is quoted where it has to be.
func commandInShort(args []string) string {
	const most = 48
	var words []string
	for _, a := range args {
		words = append(words, printable(a))
	}
	runes := []rune(strings.Join(words, " "))
	if len(runes) > most {
		return string(runes[:most-1]) + "…"
	}
	return string(runes)
}

// whatRuns is the guest's command, or what a sandbox without a guest serves.
func whatRuns(in tcpbox.Info) string {
	switch in.Kind {
	case tcpbox.KindAttached:
		return "attached to " + in.Target
	case tcpbox.KindServed:
		return "container " + join(in.Addresses)
	}
	return commandInShort(in.Args)
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// connect finds the sandbox that a command is about. The name may be left out
// when there is only one.
func connect(name string) (*control.Client, error) {
	names, err := control.List()
	if err != nil {
		return nil, err
	}
	if name == "" {
		switch len(names) {
		case 0:
			return nil, usagef(`start one with "tcpbox run"`, "no sandbox is running")
		case 1:
			name = names[0]
		default:
			return nil, usagef("the sandboxes are "+strings.Join(names, ", "), "which sandbox?")
		}
	}
	if found, err := control.Find(name); err == nil {
		name = found
	} else if ambiguous := (*control.AmbiguousError)(nil); errors.As(err, &ambiguous) {
		return nil, usagef("give more of it", "%v", err)
	}
	client, err := control.Connect(name)
	if errors.Is(err, control.ErrNotFound) {
		hint := "no sandbox is running"
		if len(names) > 0 {
			hint = "the sandboxes are " + strings.Join(names, ", ")
		}
		if near := nearest(name, names); near != "" {
			hint = fmt.Sprintf("did you mean %q?", near)
		}
		return nil, usagef(hint, "there is no sandbox %q", name)
	}
	return client, err
}
