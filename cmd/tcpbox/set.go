package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"tcpbox/cmd/internal/control"
	"tcpbox/policy/document"
	"tcpbox/policy/knob"
)

func setCommand(streams Streams) *cli.Command {
	var asJSON bool
	var policyFile string
	return &cli.Command{
		Name: "set", Usage: "change TCP knobs, or the whole policy, of a sandbox that runs",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "json", Destination: &asJSON},
			&cli.StringFlag{Name: "policy", Destination: &policyFile},
		},
		Action: func(c *cli.Context) error {
			name, words, err := setArguments(c.Args().Slice())
			switch {
			case err != nil:
				return err
			case policyFile != "" && len(words) > 0:
				return usagef("put the settings into the document", "--policy sets everything; it takes no KEY=VALUE beside it")
			case policyFile == "" && len(words) == 0:
				return usagef("for example: tcpbox set NAME fin-timeout=5s", "there is nothing to set")
			}
			var answer control.ChangesAnswer
			if policyFile != "" {
				answer, err = setPolicyFile(c, name, policyFile)
			} else {
				var client *control.Client
				if client, err = connect(name); err == nil {
					answer, err = client.Set(c.Context, words...)
				}
			}
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(streams.Out, answer)
			}
			if policyFile != "" { // its rules are no knobs
				if _, err := fmt.Fprintf(streams.Out, "the policy of %s is in force\n", printable(policyFile)); err != nil {
					return err
				}
			}
			if len(answer.Changes) == 0 && policyFile == "" {
				_, err = fmt.Fprintln(streams.Out, "nothing has changed")
				return err
			}
			for _, change := range answer.Changes {
				if _, err := fmt.Fprintln(streams.Out, change.Line(arrow())); err != nil {
					return err
				}
			}
			for _, note := range answer.Notes {
				fmt.Fprintf(streams.Err, "tcpbox: note: %s\n", note)
			}
			return nil
		},
	}
}

// setArguments takes the name of the sandbox, which may be left out, from what is to
// be set.
func setArguments(args []string) (name string, words []string, err error) {
	if len(args) > 0 && !strings.Contains(args[0], "=") {
		if name, args = args[0], args[1:]; name == "" {
			err = usagef(`"tcpbox ls" lists the sandboxes`, "a name is empty")
		}
	}
	_, wrong := document.ParseWords(args, "")
	return name, args, errors.Join(err, wrong)
}

// setPolicyFile reads the document before the sandbox is looked for: what is
// wrong with it is not the sandbox's.
func setPolicyFile(c *cli.Context, name, path string) (control.ChangesAnswer, error) {
	text, err := readPolicyFile(path)
	if err != nil {
		return control.ChangesAnswer{}, err
	}
	d, err := document.Parse(control.FileName(path), text)
	if err == nil {
		err = control.SettingsOf(d).Check()
	}
	if err != nil {
		return control.ChangesAnswer{}, err
	}
	client, err := connect(name)
	if err != nil {
		return control.ChangesAnswer{}, err
	}
	return client.SetPolicy(c.Context, path, string(text))
}

// getSettings shows what is in force in a sandbox, of one knob or of all.
func getSettings(c *cli.Context, name, key string, asJSON bool, streams Streams) error {
	var only knob.Def
	if key != "" {
		var err error
		if only, err = knobCalled(key); err != nil {
			return err
		}
	}
	client, err := connect(name)
	if err != nil {
		return err
	}
	answer, err := client.Settings(c.Context)
	if err != nil {
		return err
	}
	values := make([]knob.Value, 0, len(answer.Knobs))
	kept := answer.Knobs[:0]
	for _, v := range answer.Knobs {
		if key != "" && v.Key != only.Key {
			continue
		}
		kept = append(kept, v)
		value := knob.Value{Key: v.Key, Carries: v.Carries, Value: v.Value, Source: v.Source, Text: v.Text}
		if err := value.Leg.UnmarshalText([]byte(v.Leg)); err != nil {
			return fmt.Errorf("the sandbox speaks of a leg %q: %w", v.Leg, err)
		}
		values = append(values, value)
	}
	answer.Knobs = kept
	if asJSON {
		return printJSON(streams.Out, answer)
	}
	if key == "" {
		if _, err := fmt.Fprintf(streams.Out, "%s\n", indentless(answer.Document.String())); err != nil {
			return err
		}
	}
	return showKnobs(streams.Out, values, key != "")
}

// indentless is a document without its version, which is no news.
func indentless(document string) string {
	_, rest, _ := strings.Cut(document, "\n")
	return rest
}
