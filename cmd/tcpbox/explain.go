package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"tcpbox/policy/knob"
	"tcpbox/stack/tcpstate"
)

// explainCommand is tcpbox explain.
func explainCommand(streams Streams) *cli.Command {
	var asJSON bool
	return &cli.Command{
		Name: "explain", Usage: "say what a TCP knob does, what it does not, and what people believe",
		Flags: []cli.Flag{&cli.BoolFlag{Name: "json", Destination: &asJSON}},
		Action: func(c *cli.Context) error {
			switch c.Args().Len() {
			case 0:
				if asJSON {
					return printJSON(streams.Out, explanations(knob.Table()))
				}
				return listKnobs(streams.Out)
			case 1:
			default:
				return usagef(`see "tcpbox help explain"`, "explain takes one key")
			}
			d, err := knobCalled(c.Args().First())
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(streams.Out, explanations([]knob.Def{d}))
			}
			_, err = io.WriteString(streams.Out, explain(d))
			return err
		},
	}
}

// knobCalled finds a knob by its key, with or without a leg in front, or by the
// sysctl of the guest that carries it.
func knobCalled(name string) (knob.Def, error) {
	if d, ok := knob.Lookup(name); ok {
		return d, nil
	}
	for _, leg := range tcpstate.Legs() {
		if key, ok := strings.CutPrefix(name, leg.String()+"."); ok {
			if d, ok := knob.Lookup(key); ok {
				return d, nil
			}
		}
	}
	if d, ok := knob.OfSysctl(name); ok {
		return d, nil
	}
	return knob.Def{}, knob.Unknown(name)
}

func listKnobs(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "KNOB\tLEGS\tDOES")
	for _, d := range knob.Table() {
		var legs []string
		for _, leg := range tcpstate.Legs() {
			if d.Leg(leg).Carries {
				legs = append(legs, leg.String())
			}
		}
		fmt.Fprintf(t, "%s\t%s\t%s\n", d.Key, strings.Join(legs, ","), gist(d.Does))
	}
	return t.Flush()
}

// explainWidth is where lines of an explanation are broken, in columns.
const explainWidth = 96

// explain says it all of one knob, a paragraph each.
func explain(d knob.Def) string {
	var b strings.Builder
	value := d.Range()
	if d.Default != "" {
		value += "; default " + d.Default
	}
	fmt.Fprintf(&b, "%s\n", d.Key)
	row := func(title, text string) {
		if text == "" {
			return
		}
		const indent = 12
		for i, line := range wrap(text, explainWidth-indent) {
			if i > 0 {
				title = ""
			}
			fmt.Fprintf(&b, "  %-*s%s\n", indent-2, title, line)
		}
	}
	row("value", value)
	row("does", d.Does)
	row("does not", d.Not)
	row("believed", d.Believed)
	for _, leg := range tcpstate.Legs() {
		l := d.Leg(leg)
		switch {
		case !l.Carries:
			row(leg.String(), "cannot: "+l.Text)
		case l.Default != "":
			row(leg.String(), l.Text+"; default: "+l.Default+". Live: "+l.Existing)
		default:
			row(leg.String(), l.Text+". Live: "+l.Existing)
		}
	}
	for i, text := range d.Says() {
		row(map[bool]string{true: "told"}[i == 0], text)
	}
	row("source", d.Source)
	if d.Lab != "" {
		row("see it", "tcpbox lab run "+d.Lab)
	}
	return b.String()
}

// wrap breaks a text at spaces into lines of at most width bytes, if its words
// let it.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(text) {
		switch {
		case line == "":
			line = word
		case len(line)+1+len(word) > width:
			lines = append(lines, line)
			line = word
		default:
			line += " " + word
		}
	}
	return append(lines, line)
}

// Explanations is what "tcpbox explain --json" prints.
type Explanations struct {
	V     int           `json:"v"`
	Knobs []Explanation `json:"knobs"`
}

// Explanation is one knob.
type Explanation struct {
	Key      string                    `json:"key"`
	Value    string                    `json:"value"`
	Default  string                    `json:"default,omitempty"`
	Does     string                    `json:"does"`
	Not      string                    `json:"does_not"`
	Believed string                    `json:"believed,omitempty"`
	Told     []string                  `json:"told,omitempty"` // when it is set, where it applies
	Source   string                    `json:"source"`
	Lab      string                    `json:"lab,omitempty"`
	Legs     map[string]LegExplanation `json:"legs"`
}

// LegExplanation is what one leg makes of it.
type LegExplanation struct {
	Carries  bool   `json:"carries"`
	Text     string `json:"text"`
	Existing string `json:"existing,omitempty"`
	Default  string `json:"default,omitempty"`
}

func explanations(defs []knob.Def) Explanations {
	out := Explanations{V: 1}
	for _, d := range defs {
		e := Explanation{
			Key: d.Key, Value: d.Range(), Default: d.Default, Does: d.Does, Not: d.Not, Believed: d.Believed,
			Told: d.Says(), Source: d.Source, Lab: d.Lab, Legs: map[string]LegExplanation{},
		}
		for _, leg := range tcpstate.Legs() {
			l := d.Leg(leg)
			e.Legs[leg.String()] = LegExplanation{Carries: l.Carries, Text: l.Text, Existing: l.Existing, Default: l.Default}
		}
		out.Knobs = append(out.Knobs, e)
	}
	return out
}
