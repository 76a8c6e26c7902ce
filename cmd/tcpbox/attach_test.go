package main

import (
	"strings"
	"testing"
)

func FuzzAttachTarget(f *testing.F) {
	for _, text := range []string{"", "1", "0", "4711", "99999999999999999999", "-1", "+1", "blue", "./blue", "/run/netns/blue", "\n", "a\x00b"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		pid, path, err := parseTarget([]string{text})
		if err != nil {
			var told strings.Builder
			status := report(&told, err)
			checkTold(t, told.String(), status)
			return
		}
		if (pid > 0) == (path != "") {
			t.Errorf("parseTarget(%q) = %d, %q", text, pid, path)
		}
	})
}
