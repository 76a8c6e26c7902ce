package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"tcpbox/cmd/internal/cni"
	"tcpbox/cmd/internal/control"
)

// Where a host has its plugins and their lists, by custom.
const (
	cniBinDir  = "/opt/cni/bin"
	cniConfDir = "/etc/cni/net.d"
)

func cniCommand(streams Streams) *cli.Command {
	var node cni.Node
	var plugin, list string
	var asJSON bool
	dirs := func(more ...cli.Flag) []cli.Flag {
		return append([]cli.Flag{
			&cli.StringFlag{Name: "bin-dir", Value: cniBinDir, Destination: &node.BinDir},
			&cli.StringFlag{Name: "conf-dir", Value: cniConfDir, Destination: &node.ConfDir},
			&cli.StringFlag{Name: "state-dir", Value: cni.DefaultStateDir, Destination: &node.StateDir},
		}, more...)
	}
	act := func(f func() error) cli.ActionFunc {
		return func(c *cli.Context) error {
			if c.Args().Present() {
				return usagef(`see "tcpbox help cni"`, "cni %s takes no argument, such as %s", c.Command.Name, oneWord(c.Args().First()))
			}
			return f()
		}
	}
	return &cli.Command{
		Name: "cni", Usage: "install the CNI plugin, look after its containers",
		Action: func(c *cli.Context) error {
			if !c.Args().Present() {
				_, err := io.WriteString(streams.Out, helpTexts["cni"])
				return err
			}
			word := c.Args().First()
			hint := `see "tcpbox help cni"`
			if near := nearest(word, []string{"install", "status", "gc", "uninstall"}); near != "" {
				hint = fmt.Sprintf("did you mean %q?", "tcpbox cni "+near)
			}
			return usagef(hint, "tcpbox cni has no command %s", oneWord(word))
		},
		Subcommands: []*cli.Command{
			{
				Name: "install", Usage: "place the plugin and a list of plugins",
				Flags: dirs(&cli.StringFlag{Name: "plugin", Destination: &plugin}, &cli.StringFlag{Name: "conf", Destination: &list}),
				Action: act(func() error {
					return installCNI(node, plugin, list, streams)
				}),
			},
			{
				Name: "status", Usage: "show the containers, and what is wrong on this host",
				Flags: dirs(&cli.BoolFlag{Name: "json", Destination: &asJSON}),
				Action: act(func() error {
					return statusCNI(node, asJSON, streams.Out)
				}),
			},
			{
				Name: "gc", Usage: "remove what containers have left that are gone", Flags: dirs(),
				Action: act(func() error {
					swept, err := node.Sweep()
					for _, a := range swept {
						fmt.Fprintf(streams.Out, "removed %s of %s in %s: %s\n", a.IfName, containerOf(&a), a.Network, a.Shown())
					}
					return plainly(err)
				}),
			},
			{
				Name: "uninstall", Usage: "remove what install has placed", Flags: dirs(),
				Action: act(func() error {
					removed, err := node.Uninstall()
					for _, path := range removed {
						fmt.Fprintln(streams.Out, "removed", path)
					}
					if err != nil {
						return hinted(oneLine(err.Error()), `"tcpbox cni status" lists the containers; "tcpbox cni gc" removes those that are gone`)
					}
					return nil
				}),
			},
		},
	}
}

// plainly makes of joined errors one that fits on a line.
func plainly(err error) error {
	if err == nil {
		return nil
	}
	return hinted(oneLine(strings.ReplaceAll(err.Error(), "\n", "; ")), "")
}

func installCNI(node cni.Node, plugin, list string, streams Streams) error {
	if plugin == "" {
		self, err := os.Executable()
		if err != nil {
			return err
		}
		plugin = filepath.Join(filepath.Dir(self), cni.PluginName)
	}
	data := cni.DefaultList
	if list != "" {
		var err error
		if data, err = os.ReadFile(list); err != nil {
			return usagef("it is a list of plugins; see docs/cni.md", "--conf %q: %v", list, underlying(err))
		}
	}
	placed, err := node.Install(plugin, data)
	for _, path := range placed {
		fmt.Fprintln(streams.Out, "placed", path)
	}
	switch {
	case errors.Is(err, os.ErrNotExist):
		return hinted(oneLine(err.Error()), "--plugin FILE says where tcpbox-cni is")
	case err != nil:
		return hinted(oneLine(strings.ReplaceAll(err.Error(), "\n", "; ")), "nothing begins to use it until that is mended")
	}
	for _, problem := range node.Problems() {
		fmt.Fprintf(streams.Err, "tcpbox: warning: %s\n", oneLine(problem.Error()))
	}
	return nil
}

// statusCNI is 1 if anything is wrong.
func statusCNI(node cni.Node, asJSON bool, w io.Writer) error {
	all, err := node.Survey()
	problems := node.Problems()
	if err != nil {
		problems = append(problems, err)
	}
	texts := []string{}
	for _, p := range problems {
		texts = append(texts, oneLine(p.Error()))
	}
	for _, a := range all {
		if !a.Alive {
			texts = append(texts, fmt.Sprintf("%s of %s has no network any more: %s", a.IfName, containerOf(&a), remedy(&a)))
		}
	}
	if asJSON {
		if all == nil {
			all = []cni.Attached{}
		}
		err = printJSON(w, struct {
			V          int            `json:"v"`
			Containers []cni.Attached `json:"containers"`
			Problems   []string       `json:"problems"`
		}{control.Version, all, texts})
	} else {
		err = printCNI(w, all, texts)
	}
	if err == nil && len(texts) > 0 {
		err = exitStatus(1)
	}
	return err
}

func remedy(a *cni.Attached) string {
	if a.Leaked() {
		return `its namespace is gone; "tcpbox cni gc" removes what is left`
	}
	return "its stack process is gone; delete the container and make it anew"
}

func printCNI(w io.Writer, all []cni.Attached, problems []string) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	if len(all) > 0 {
		fmt.Fprintln(t, "NETWORK\tCONTAINER\tINTERFACE\tSANDBOX\tSTATE\tADDRESSES")
	}
	for _, a := range all {
		state := "alive"
		switch {
		case a.Leaked():
			state = "gone"
		case !a.Alive:
			state = "dead"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", printable(a.Network), containerOf(&a), printable(a.IfName), printable(a.Sandbox), state, a.Shown())
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, p := range problems {
		if _, err := fmt.Fprintln(w, "problem:", p); err != nil {
			return err
		}
	}
	return nil
}

// containerOf is the name of a pod, or the beginning of an identifier.
func containerOf(a *cni.Attached) string {
	const most = 20
	name := a.Pod
	if name == "" {
		name = a.ContainerID[:min(len(a.ContainerID), most)]
	}
	return printable(name)
}
