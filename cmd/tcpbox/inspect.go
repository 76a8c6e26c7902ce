package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"tcpbox"
	"tcpbox/cmd/internal/control"
	"tcpbox/policy/knob"
)

func inspectCommand(streams Streams) *cli.Command {
	var asJSON bool
	return &cli.Command{
		Name: "inspect", Usage: "show everything that is in force in a sandbox",
		Flags: []cli.Flag{&cli.BoolFlag{Name: "json", Destination: &asJSON}},
		Action: func(c *cli.Context) error {
			if c.Args().Len() > 1 {
				return usagef(`see "tcpbox help inspect"`, "inspect takes one name")
			}
			client, err := connect(c.Args().First())
			if err != nil {
				return err
			}
			in, err := client.Inspect(c.Context)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(streams.Out, control.Inspection{V: control.Version, Info: in})
			}
			return showSandbox(streams.Out, in, time.Now())
		},
	}
}

// showSandbox prints what inspect shows to people.
func showSandbox(w io.Writer, in tcpbox.Info, now time.Time) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(key, format string, args ...any) {
		fmt.Fprintf(t, "%s\t%s\n", key, fmt.Sprintf(format, args...))
	}
	list := func(key string, lines []string) {
		if len(lines) == 0 {
			row(key, "none")
		}
		for _, line := range lines {
			row(key, "%s", line)
			key = ""
		}
	}
	row("name", "%s", in.Name)
	switch in.Kind {
	case tcpbox.KindAttached:
		row("attached to", "%s, net:[%d]", in.Target, in.NetNS)
	case tcpbox.KindServed:
		row("container", "%s, net:[%d]", printable(in.Target), in.NetNS)
	default:
		row("command", "%s", commandInShort(in.Args))
	}
	row("up", "%s", up(now.Sub(in.Started)))
	if in.Kind == tcpbox.KindAttached || in.Kind == tcpbox.KindServed {
		row("pids", "tcpbox %d", in.PID)
	} else {
		guest := "ended"
		if in.GuestPID != 0 {
			guest = strconv.Itoa(in.GuestPID)
		}
		row("pids", "tcpbox %d, init %d, guest %s", in.PID, in.InitPID, guest)
	}
	row("interface", "%s, mtu %d", in.Interface, in.MTU)
	row("addresses", "%s", join(in.Addresses))
	row("gateways", "%s", join(in.Gateways))
	list("policy", in.Policy)
	resolvers := "nobody is asked"
	if len(in.Resolvers) > 0 {
		resolvers = join(in.Resolvers)
	}
	row("resolvers", "%s", resolvers)
	list("published", portsInWords(in.Ports))
	var peers []string
	for _, p := range in.Peers {
		peers = append(peers, fmt.Sprintf("%s=%s:%d at %s", p.Name, p.Kind, p.Port, join(p.Addresses)))
	}
	list("peers", peers)
	var knobs []string
	for _, k := range in.Knobs {
		not := ""
		if !k.Applied {
			not = " is not set"
		}
		knobs = append(knobs, fmt.Sprintf("%s.%s%s: %s", k.Leg, k.Key, not, k.Text))
	}
	list("knobs", knobs)
	if len(in.Faults) > 0 {
		list("faults", in.Faults)
	}
	rate := "no limit of the log"
	if in.Limits.LogRate != 0 {
		rate = fmt.Sprintf("%d records of the log a second", in.Limits.LogRate)
	}
	buffers := "no limit of buffers"
	if in.Limits.Buffers != 0 {
		buffers = "buffers of " + knob.FormatSize(in.Limits.Buffers)
	}
	row("limits", "%d connections, %d flows of UDP and ping, %s, %s", in.Limits.Connections, in.Limits.UDPFlows, buffers, rate)
	row("connections", "%d open, %d made, %d refused, %d unreachable", in.Stats.Open, in.Stats.Established, in.Stats.Refused, in.Stats.Unreachable)
	row("handshakes", "%d half-open (at most %d so far), %d dials pending", in.Stats.HalfOpen, in.Stats.PeakHalfOpen, in.Stats.Pending)
	row("guest leg", "%s", guestLegInWords(in.GuestLeg))
	return t.Flush()
}

// guestLegInWords says what the guest's leg in the log comes from.
func guestLegInWords(g tcpbox.GuestLegInfo) string {
	text := "from the kernel's trace, the wire and sock_diag"
	switch {
	case !g.Watched:
		return "not watched: no log has it"
	case !g.Traced:
		text = "from the wire and sock_diag"
		if g.Why != "" {
			text += ": " + g.Why
		}
	}
	if missed := g.Untracked + g.TraceLost; missed > 0 {
		text += fmt.Sprintf("; %d not followed, %d events lost", g.Untracked, g.TraceLost)
	}
	return text
}

func join[T fmt.Stringer](list []T) string {
	var s []string
	for _, v := range list {
		s = append(s, v.String())
	}
	return strings.Join(s, " ")
}
