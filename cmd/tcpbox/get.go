package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/urfave/cli/v2"
)

// getCommand is the smallest client there can be, for machines that have no
// other: what the first command of the README runs in the sandbox.
func getCommand(streams Streams) *cli.Command {
	return &cli.Command{
		Name: "get", Usage: "fetch a URL and print it (a small client for the sandbox)",
		Action: func(c *cli.Context) error {
			if c.Args().Len() != 1 {
				return usagef(`for example: tcpbox run --peer web=http -- tcpbox get http://web/`, "get takes one URL")
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
