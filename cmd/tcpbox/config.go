package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"tcpbox/cmd/internal/control"
	"tcpbox/policy/document"
	"tcpbox/policy/knob"
	"tcpbox/stack/tcpstate"
)

// configCommand is tcpbox config.
func configCommand(streams Streams) *cli.Command {
	var print runFlags
	var asJSON bool
	return &cli.Command{
		Name: "config", Usage: "check a policy document, or show what is in force with it",
		Action: func(c *cli.Context) error {
			if !c.Args().Present() {
				_, err := io.WriteString(streams.Out, helpTexts["config"])
				return err
			}
			word := c.Args().First()
			hint := `see "tcpbox help config"`
			if near := nearest(word, []string{"check", "print", "schema"}); near != "" {
				hint = fmt.Sprintf("did you mean %q?", "tcpbox config "+near)
			}
			return usagef(hint, "tcpbox config has no command %q", word)
		},
		Subcommands: []*cli.Command{
			{Name: "check", Usage: "say what is wrong with policy documents", Action: func(c *cli.Context) error {
				return checkPolicies(c.Args().Slice(), streams)
			}},
			{
				Name: "print", Usage: "show what is in force with a policy, and who says so",
				Flags: append(print.documentFlags(), &cli.BoolFlag{Name: "json", Destination: &asJSON}),
				Action: func(c *cli.Context) error {
					if c.Args().Present() {
						return usagef("a document is given with --policy FILE", "config print takes no arguments")
					}
					return printPolicy(&print, asJSON, streams.Out)
				},
			},
			{Name: "schema", Usage: "print the JSON Schema of policy documents, for editors", Action: func(c *cli.Context) error {
				if c.Args().Present() {
					return usagef(`see "tcpbox help config"`, "config schema takes no arguments")
				}
				_, err := streams.Out.Write(document.Schema())
				return err
			}},
		},
	}
}

// checkPolicies says which documents are right, and of each other every fault.
func checkPolicies(paths []string, streams Streams) error {
	if len(paths) == 0 {
		return usagef("for example: tcpbox config check box.yaml", "config check takes one file or more")
	}
	var errs []error
	for _, path := range paths {
		d, err := readPolicy(path)
		if err == nil {
			err = control.SettingsOf(d).Check()
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if _, err := fmt.Fprintf(streams.Out, "%s: right\n", printable(path)); err != nil {
			return err
		}
	}
	return errors.Join(errs...)
}

// documentFlags are those that a document has keys for.
func (f *runFlags) documentFlags() []cli.Flag {
	var flags []cli.Flag
	for _, name := range []string{"policy", "net", "allow", "deny", "dns", "add-host", "tcp", "sysctl", "fault"} {
		flags = append(flags, f.words.flag(name, name))
	}
	return flags
}

// Effective is what "tcpbox config print --json" prints.
type Effective struct {
	V        int                 `json:"v"`
	Document document.Document   `json:"document"`
	Knobs    []control.KnobValue `json:"knobs"`
	Notes    []string            `json:"notes,omitempty"` // what the settings say of themselves
}

// printPolicy shows every effective value with its source, and what each leg
// makes of it.
func printPolicy(f *runFlags, asJSON bool, w io.Writer) error {
	if err := f.parseWith("config", f.set); err != nil {
		return err
	}
	settings := control.SettingsOf(f.document)
	if err := settings.Check(); err != nil {
		return err
	}
	values, err := settings.Values()
	if err != nil {
		return err
	}
	if asJSON {
		effective := Effective{V: control.Version, Document: f.document, Knobs: control.KnobValues(values)}
		for _, n := range settings.Notes() {
			effective.Notes = append(effective.Notes, n.Text)
		}
		return printJSON(w, effective)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(key, value, source string) { fmt.Fprintf(t, "%s\t%s\t%s\n", key, value, source) }
	d := f.document
	if d.Preset != "" {
		row("preset", d.Preset, f.policyFile)
	}
	switch {
	case f.over.Net != nil:
		row("net", d.Net.String(), "--net")
	case d.Net != nil:
		row("net", d.Net.String(), f.policyFile)
	default:
		row("net", settings.Policy.Net.String(), "default")
	}
	title := "rules"
	for _, r := range d.Rules {
		row(title, r.String(), r.Source)
		title = ""
	}
	title = "sysctl"
	for _, s := range d.Sysctls {
		row(title, s.String(), s.Source)
		title = ""
	}
	title = "limits"
	for _, l := range d.Limits.Each() {
		source := "default"
		if l.Set {
			source = f.policyFile
		}
		row(title, l.String(), source)
		title = ""
	}
	source := "default"
	switch {
	case f.over.DNS.Mode != document.DNSUnsaid:
		source = "--dns"
	case d.DNS.Mode != document.DNSUnsaid:
		source = f.policyFile
	}
	row("dns", dnsInWords(d.DNS), source)
	for i, h := range d.DNS.Hosts {
		source := "--add-host" // those of flags stand in front
		if i >= len(f.over.DNS.Hosts) {
			source = f.policyFile
		}
		row("", h.Name+" "+h.Addr.String(), source)
	}
	title = "faults"
	for _, r := range d.Faults {
		row(title, r.String(), r.Source)
		title = ""
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(w)
	if err := showKnobs(w, values, true); err != nil {
		return err
	}
	for _, n := range settings.Notes() {
		fmt.Fprintf(w, "note: %s\n", n.Text)
	}
	return nil
}

func dnsInWords(d document.DNS) string {
	switch d.Mode {
	case document.DNSNone:
		return "nobody is asked"
	case document.DNSServers:
		return join(d.Servers)
	}
	return "the host's resolvers"
}

// showKnobs prints a table of knobs and legs, and below it, if notes are
// wanted, what a leg made of a setting.
func showKnobs(w io.Writer, values []knob.Value, notes bool) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "KNOB\tGUEST\tSTACK\tUPSTREAM\tFROM")
	for i := 0; i+len(tcpstate.Legs()) <= len(values); i += len(tcpstate.Legs()) {
		of := values[i : i+len(tcpstate.Legs())]
		fmt.Fprintf(t, "%s", of[0].Key)
		var sources []string // of the legs, each once; "default" if nobody has set one
		for _, v := range of {
			value := v.Value
			if !v.Carries {
				value = "-"
			}
			fmt.Fprintf(t, "\t%s", value)
			if v.Source != "" && v.Source != "default" && !slices.Contains(sources, v.Source) {
				sources = append(sources, v.Source)
			}
		}
		if len(sources) == 0 {
			sources = []string{"default"}
		}
		fmt.Fprintf(t, "\t%s\n", strings.Join(sources, ", "))
	}
	if err := t.Flush(); err != nil || !notes {
		return err
	}
	said := false
	for _, v := range values {
		if v.Text == "" || !isSet(values, v.Key) {
			continue
		}
		if !said {
			fmt.Fprintln(w)
			said = true
		}
		o := knob.Outcome{Leg: v.Leg, Key: v.Key, Applied: v.Carries && v.Source != "default", Text: v.Text}
		fmt.Fprintln(w, o)
	}
	return nil
}

// isSet reports whether somebody has set the knob on a leg.
func isSet(values []knob.Value, key string) bool {
	for _, v := range values {
		if v.Key == key && v.Source != "" && v.Source != "default" {
			return true
		}
	}
	return false
}
