package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"tcpbox/policy/knob"
)

// getCommand shows what is in force in a sandbox. Given a URL, which is no
// sandbox's name, it is the smallest client there can be, for machines that have
// no other: what the first command of the README runs in the sandbox.
func getCommand(streams Streams) *cli.Command {
	var asJSON bool
	return &cli.Command{
		Name: "get", Usage: "show the knobs of a sandbox, or fetch a URL (a small client for the sandbox)",
		Flags: []cli.Flag{&cli.BoolFlag{Name: "json", Destination: &asJSON}},
		Action: func(c *cli.Context) error {
			if first := c.Args().First(); !strings.ContainsAny(first, ":/") {
				if c.Args().Len() > 0 && first == "" {
					return usagef(`"tcpbox ls" lists the sandboxes`, "a name is empty")
				}
				if c.Args().Len() > 2 {
					return usagef(`see "tcpbox help get"`, "get takes a name and a key, or one URL")
				}
				name, key := first, c.Args().Get(1)
				if _, isKnob := knob.Lookup(name); isKnob && key == "" {
					name, key = "", name
				}
				return getSettings(c, name, key, asJSON, streams)
			}
			if c.Args().Len() != 1 || asJSON {
				return usagef(`for example: tcpbox run --peer web=http -- tcpbox get http://web/`, "get takes one URL, and no flag")
			}
			if u, err := url.Parse(c.Args().First()); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
				return usagef("a URL begins with http:// or https://", "get %q: not a URL", c.Args().First())
			}
			if err := get(c.Args().First(), streams.Out); err != nil {
				return &clientError{err}
			}
			return nil
		},
	}
}

func get(address string, w io.Writer) error {
	client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{}}
	defer client.CloseIdleConnections() // the client closes first, as most do
	resp, err := client.Get(address)
	if err != nil {
		return fmt.Errorf("get: %w", err)
	}
	_, err = io.Copy(w, resp.Body)
	err = errors.Join(err, resp.Body.Close())
	if err != nil {
		return fmt.Errorf("get %s: %w", address, err)
	}
	if resp.StatusCode >= 400 {
		return fmt.Errorf("get %s: %s", address, resp.Status)
	}
	return nil
}
