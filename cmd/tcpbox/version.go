package main

import (
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/urfave/cli/v2"
)

// version is set by the build: -ldflags "-X main.version=v1.2.3".
var version = "development"

// date is the day of that version, as 2006-01-02; the build sets it in the same way.
var date string

// buildDate is that day, or else the one of the commit that Go has noted in the
// binary, or else nothing. It is not the day of the build, which would be another
// each time.
func buildDate() string {
	if info, ok := debug.ReadBuildInfo(); ok && date == "" {
		return commitDate(info.Settings)
	}
	return date
}

func commitDate(settings []debug.BuildSetting) string {
	for _, s := range settings {
		if at, err := time.Parse(time.RFC3339, s.Value); s.Key == "vcs.time" && err == nil {
			return at.UTC().Format(time.DateOnly)
		}
	}
	return ""
}

// versions are everything that decides how tcpbox behaves: the embedded stack's
// version is a part of it.
type versions struct {
	Version string `json:"version"`
	GVisor  string `json:"gvisor"`
	Go      string `json:"go"`
	OS      string `json:"os"`
	Arch    string `json:"arch"`
}

func ownVersions() versions {
	v := versions{Version: version, GVisor: "unknown", Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, d := range info.Deps {
			if d.Path == "gvisor.dev/gvisor" {
				v.GVisor = d.Version
			}
		}
	}
	return v
}

func (v versions) String() string {
	return fmt.Sprintf("tcpbox %s (gvisor %s, %s, %s/%s)", v.Version, v.GVisor, v.Go, v.OS, v.Arch)
}

func writeVersion(w io.Writer, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(w).Encode(ownVersions())
	}
	_, err := fmt.Fprintln(w, ownVersions())
	return err
}

func versionCommand(streams Streams) *cli.Command {
	return &cli.Command{
		Name: "version", Usage: "print the version",
		Flags: []cli.Flag{&cli.BoolFlag{Name: "json"}},
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return usagef(`see "tcpbox help version"`, "version takes no argument, such as %q", c.Args().First())
			}
			return writeVersion(streams.Out, c.Bool("json"))
		},
	}
}
