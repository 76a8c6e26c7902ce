package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"

	"tcpbox"
	"tcpbox/cmd/internal/control"
)

func publishCommand(streams Streams) *cli.Command {
	var asJSON bool
	var words words
	return &cli.Command{
		Name: "publish", Usage: "make ports of a sandbox reachable",
		Flags: []cli.Flag{words.flag("accept-from", "accept-from"), &cli.BoolFlag{Name: "json", Destination: &asJSON}},
		Action: func(c *cli.Context) error {
			client, p, err := publishArguments(c, "publish")
			if err != nil {
				return err
			}
			for _, w := range words.all {
				from, err := tcpbox.ParseAcceptFrom(w.value)
				if err != nil {
					return flagError("publish", w, err)
				}
				p.From = append(p.From, from)
			}
			ports, err := client.Publish(c.Context, p)
			if err != nil {
				return err
			}
			return showPorts(streams.Out, ports, asJSON)
		},
	}
}

func unpublishCommand(streams Streams) *cli.Command {
	var asJSON bool
	return &cli.Command{
		Name: "unpublish", Usage: "take published ports back",
		Flags: []cli.Flag{&cli.BoolFlag{Name: "json", Destination: &asJSON}},
		Action: func(c *cli.Context) error {
			client, p, err := publishArguments(c, "unpublish")
			if err != nil {
				return err
			}
			ports, err := client.Unpublish(c.Context, p)
			if err != nil || !asJSON {
				return err
			}
			return showPorts(streams.Out, ports, true)
		},
	}
}

// publishArguments reads NAME SPEC, and finds the sandbox. What is wrong with
// SPEC is found before.
func publishArguments(c *cli.Context, command string) (*control.Client, tcpbox.Publish, error) {
	if c.Args().Len() != 2 || c.Args().First() == "" {
		return nil, tcpbox.Publish{}, usagef("for example: tcpbox "+command+" web 8080:80", "%s takes a name and a port", command)
	}
	p, err := tcpbox.ParsePublish(c.Args().Get(1))
	if err != nil {
		return nil, p, usagef(hintOf(err), "%v", err)
	}
	client, err := connect(c.Args().First())
	return client, p, err
}

// showPorts prints where the ports are reachable, each on a line of its own.
func showPorts(w io.Writer, ports []tcpbox.PortInfo, asJSON bool) error {
	if asJSON {
		return printJSON(w, control.PublishAnswer{V: control.Version, Ports: ports})
	}
	for _, p := range ports {
		if _, err := fmt.Fprintln(w, p.Host); err != nil {
			return err
		}
	}
	return nil
}

// portsInWords are the lines that inspect shows.
func portsInWords(ports []tcpbox.PortInfo) (lines []string) {
	for _, p := range ports {
		line := fmt.Sprintf("%v to %d/%s, %s", p.Host, p.Guest.Port(), p.Proto, p.State)
		if p.State == tcpbox.PortWaiting {
			line += " for the guest"
		}
		if len(p.AcceptFrom) > 0 {
			line += ", from " + join(p.AcceptFrom)
		}
		line += fmt.Sprintf(": %d accepted", p.Accepted)
		if p.Refused > 0 {
			line += fmt.Sprintf(", %d refused", p.Refused)
		}
		lines = append(lines, line)
	}
	return lines
}

// chosen tells which ports tcpbox has chosen. ports are those of the specs, in
// their order.
func (s *speaker) chosen(specs []tcpbox.Publish, ports []tcpbox.PortInfo) {
	for _, spec := range specs {
		for range max(1, int(spec.Count)) {
			if len(ports) == 0 {
				return
			}
			p := ports[0]
			ports = ports[1:]
			if spec.HostPort == 0 {
				s.line(fmt.Sprintf("%s port %d is published on %v", strings.ToUpper(p.Proto), p.Guest.Port(), p.Host))
			}
		}
	}
}
