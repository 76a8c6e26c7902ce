package main

import (
	"slices"
	"strings"
	"testing"
)

func TestFlagsFirst(t *testing.T) {
	for args, want := range map[string]string{
		"inspect web --json":                           "inspect --json web",
		"stop web --grace 1s":                          "stop --grace 1s web",
		"publish web 0:80 --accept-from ::1 --json":    "publish --accept-from ::1 --json web 0:80",
		"unpublish web -- -1:80":                       "unpublish web -- -1:80",
		"exec web ls --json":                           "exec web ls --json", // the command's own
		"stat web --json state TIME-WAIT --since=5m x": "stat --json --since=5m web state TIME-WAIT x",
	} {
		got := flagsFirst(newApp(Streams{}), append([]string{"tcpbox"}, strings.Fields(args)...))
		if !slices.Equal(got[1:], strings.Fields(want)) {
			t.Errorf("%q becomes %q, want %q", args, got[1:], want)
		}
	}
}
